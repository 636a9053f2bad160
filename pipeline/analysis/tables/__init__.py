"""Tables: plan x records -> cells with n, mean, sample SD, paired differences and the trials behind each."""

from pipeline.analysis.tables.build import build_table, build_tables, load_tables
from pipeline.analysis.tables.cells import Average, CellResult, Delta, Missing, Reference, TableResult

__all__ = ["Average", "CellResult", "Delta", "Missing", "Reference", "TableResult", "build_table", "build_tables", "load_tables"]
