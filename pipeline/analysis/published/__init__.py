"""Published numbers, each with its source, its protocol and the number of runs behind it, as far as they are known."""

from pipeline.analysis.published.column import match_column
from pipeline.analysis.published.find import find, search
from pipeline.analysis.published.read import FIELDS, Published, load_published

__all__ = ["FIELDS", "Published", "find", "load_published", "match_column", "search"]
