"""Summary metrics for `dvc metrics` and `dvc exp show`: one number a cell, nothing that changes from run to run by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.analysis.metrics import describe
from pipeline.analysis.tables import TableResult


def summary_metrics(results: Iterable[TableResult]) -> dict[str, Any]:
    """{"trials": {state: count}, table: {row: {column: mean}}}; means in the units and digits of the printed tables.

    A table of several metrics a cell has 'column, metric' in place of the column.

    DVC shows each leaf as a line or a column and subtracts leaves, so a difference of accuracies reads as percentage points;
    SD and n stand in the tables. Cells without a mean are left out, so a metric is never a partial average; their trials still
    count in "trials", where each trial counts once however many tables it serves.
    """
    results = list(results)
    summary: dict[str, Any] = {"trials": trial_counts(results)}
    for result in results:
        table: dict[str, dict[str, float]] = {}
        for cell in result.cells:
            if cell.mean is not None:
                metric = describe(cell.metric)
                several = result.column_kind == "level" and len(result.metrics) > 1
                place = f"{cell.column}, {metric.stem or metric.words}" if several else cell.column
                table.setdefault(cell.row, {})[place] = float(metric.number(cell.mean))
        # A table may be called "trials", too; the counts keep the plain word.
        summary["trials (table)" if result.name == "trials" else result.name] = table
    return summary


def trial_counts(results: Iterable[TableResult]) -> dict[str, int]:
    """State -> number of trials behind the tables; always has complete, failed and skipped."""
    states: dict[object, str] = {}
    for result in results:
        for cell in result.cells:
            states |= dict.fromkeys(cell.trial_ids, "complete")
            for missing in cell.missing:
                states[missing.trial_id or (result.name, cell.row, cell.column, missing.seed)] = missing.state
    counts = Counter(states.values())
    return {state: counts[state] for state in ("complete", "failed", "skipped")} | {
        state: count for state, count in sorted(counts.items()) if state not in ("complete", "failed", "skipped")
    }
