"""Tables: plan x records -> cells with n, mean, sample SD, paired differences and the trials behind each.

cells        what a table is made of once it is filled
values       the values of a cell, seed by seed, and why one is missing
comparisons  differences, what is best, averages, wins, ranks
references   what maps that do not look at the image get
build        all of it, for one table or for all
"""

from pipeline.analysis.published import PublishedColumn
from pipeline.analysis.tables.build import build_table, build_tables, load_tables
from pipeline.analysis.tables.cells import Average, CellResult, Delta, Missing, Reference, TableResult, Versus

__all__ = [
    "Average",
    "CellResult",
    "Delta",
    "Missing",
    "PublishedColumn",
    "Reference",
    "TableResult",
    "Versus",
    "build_table",
    "build_tables",
    "load_tables",
]
