"""Published files against what plan and store give now: pure comparisons that name what differs.

problem      what differs, where, and what it should be
texts        lines and values of two versions of a file
attribution  which cell a place in a rendered table speaks of
tables       tables/<table>.{json,csv,md,tex,html}
results      results/*.parquet, curves/*.csv, metrics.json
report       report/index.html and the pages of trials
"""

from pipeline.analysis.verify.problem import Problem

__all__ = ["Problem"]
