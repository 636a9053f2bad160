"""A table as tidy CSV: one line a cell, full precision, for a spreadsheet or pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from pipeline.analysis.tables import Delta, TableResult
from pipeline.analysis.wording import missing_note

_DELTA = (
    "mean", "sd", "se", "n", "ci_low", "ci_high", "bootstrap_low", "bootstrap_high", "p_sign_flip", "p_t", "p_wilcoxon", "p", "p_holm",
    "significant", "effect",
)  # fmt: skip
COLUMNS = (
    "study", "table", "row", "column", "metric", "selection", "n", "mean", "sd", "se", "median", "ci_low", "ci_high", "bootstrap_low",
    "bootstrap_high", *(f"delta_{name}" for name in _DELTA), "best", "top", "missing", "seeds", "values", "trial_ids", "run_ids",
)  # fmt: skip


def render_csv(result: TableResult) -> str:
    """One line a cell in the order of the table; accuracies are fractions, empty means 'no number'.

    `seeds`, `values`, `trial_ids` and `run_ids` hold one item a seed, separated by blanks; `missing` says why a mean is absent.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in result.cells:
        writer.writerow(
            [
                result.study, result.name, cell.row, cell.column, cell.metric, result.selection, cell.n,
                cell.mean, cell.sd, cell.se, cell.median, *_pair(cell.ci), *_pair(cell.bootstrap_ci), *_delta(cell.delta),
                str(cell.best).lower(), str(cell.top).lower(), missing_note(cell.missing) if cell.missing else "",
                *(" ".join(map(str, each)) for each in (cell.seeds, cell.values, cell.trial_ids, cell.run_ids)),
            ]
        )  # fmt: skip
    return stream.getvalue()


def _delta(delta: Delta | None) -> Sequence[object]:
    if delta is None:
        return [None] * len(_DELTA)
    return [
        delta.mean, delta.sd, delta.se, delta.n, *_pair(delta.ci), *_pair(delta.bootstrap_ci), delta.p_sign_flip, delta.p_t,
        delta.p_wilcoxon, delta.p, delta.p_holm, str(delta.significant).lower(), delta.effect,
    ]  # fmt: skip


def _pair(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return interval or (None, None)
