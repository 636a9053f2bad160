"""A table as tidy CSV: one line a cell, one column a variable, unrounded means, for a spreadsheet or pandas."""

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
_PLACE = ("study", "table", "row", "column")
_NUMBERS = (
    "metric", "selection", "n", "mean", "sd", "se", "median", "confidence", "ci_low", "ci_high", "bootstrap_low", "bootstrap_high",
    "test", "alpha", *(f"delta_{name}" for name in _DELTA), "best", "top", "missing", "seeds", "values", "trial_ids", "run_ids",
)  # fmt: skip


def render_csv(result: TableResult) -> str:
    """One line a cell in the order of the table; accuracies are fractions, empty means 'no number'.

    `factor_*`: the label of the cell in each field of rows and columns, which `row` and `column` hold together. `seeds`, `values`,
    `trial_ids` and `run_ids` hold one item a seed, separated by blanks; `missing` says why a mean is absent. `confidence` is that of the
    intervals; `test` at level `alpha` judges `delta_p`, and what is best.
    """
    factors = _factors(result)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_PLACE, *(f"factor_{field}" for field, _, _ in factors), *_NUMBERS])
    for cell in result.cells:
        writer.writerow(
            [
                result.study, result.name, cell.row, cell.column, *(labels[getattr(cell, axis)] for _, axis, labels in factors),
                cell.metric, result.selection, cell.n, cell.mean, cell.sd, cell.se, cell.median,
                result.confidence, *_pair(cell.ci), *_pair(cell.bootstrap_ci), result.test, result.alpha, *_delta(cell.delta),
                str(cell.best).lower(), str(cell.top).lower(), missing_note(cell.missing) if cell.missing else "",
                *(" ".join(map(str, each)) for each in (cell.seeds, cell.values, cell.trial_ids, cell.run_ids)),
            ]
        )  # fmt: skip
    return stream.getvalue()


def _factors(result: TableResult) -> list[tuple[str, str, dict[str, str]]]:
    """(field, 'row' or 'column', label of the whole -> its part for that field); metrics are no field, they have their own column."""
    axes = [("row", result.row_fields, result.rows, result.row_parts)]
    if result.column_kind == "level":
        axes.append(("column", result.column_fields, result.columns, result.column_parts))
    return [
        (field, axis, {whole: parts[i] for whole, parts in zip(wholes, parted, strict=True)})
        for axis, fields, wholes, parted in axes
        if all(len(parts) == len(fields) for parts in parted)  # plans of earlier versions hold the labels of several fields as one
        for i, field in enumerate(fields)
    ]


def _delta(delta: Delta | None) -> Sequence[object]:
    if delta is None:
        return [None] * len(_DELTA)
    return [
        delta.mean, delta.sd, delta.se, delta.n, *_pair(delta.ci), *_pair(delta.bootstrap_ci), delta.p_sign_flip, delta.p_t,
        delta.p_wilcoxon, delta.p, delta.p_holm, str(delta.significant).lower(), delta.effect,
    ]  # fmt: skip


def _pair(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return interval or (None, None)
