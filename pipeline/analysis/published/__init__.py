"""Published numbers, each with its source, its protocol and the number of runs behind it, as far as they are known."""

from pipeline.analysis.published.column import PublishedColumn, match_column, published_columns
from pipeline.analysis.published.find import bare, find, search
from pipeline.analysis.published.read import FIELDS, Published, load_published

__all__ = ["FIELDS", "Published", "PublishedColumn", "bare", "find", "load_published", "match_column", "published_columns", "search"]
