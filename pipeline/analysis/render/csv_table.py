"""A table as tidy CSV: one line a cell, full precision, for a spreadsheet or pandas."""

from __future__ import annotations

import csv
import io

from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import missing_note

COLUMNS = (
    "study", "table", "row", "column", "metric", "selection", "n", "mean", "sd", "ci95_low", "ci95_high",
    "delta_mean", "delta_sd", "delta_n", "delta_p", "best", "missing", "seeds", "values", "trial_ids", "run_ids",
)  # fmt: skip


def render_csv(result: TableResult) -> str:
    """One line a cell in the order of the table; accuracies are fractions, empty means 'no number'.

    `seeds`, `values`, `trial_ids` and `run_ids` hold one item a seed, separated by blanks; `missing` says why a mean is absent.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in result.cells:
        delta = cell.delta
        writer.writerow(
            [
                result.study, result.name, cell.row, cell.column, cell.metric, result.selection, cell.n,
                cell.mean, cell.sd, *(cell.ci95 or (None, None)),
                *((delta.mean, delta.sd, delta.n, delta.p) if delta else (None,) * 4),
                str(cell.best).lower(), missing_note(cell.missing) if cell.missing else "",
                *(" ".join(map(str, each)) for each in (cell.seeds, cell.values, cell.trial_ids, cell.run_ids)),
            ]
        )  # fmt: skip
    return stream.getvalue()
