"""Summary metrics for `dvc metrics`: few digits, nested, without anything that changes from run to run by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.analysis.tables import TableResult

_DIGITS = 6


def summary_metrics(results: Iterable[TableResult]) -> dict[str, Any]:
    """{"trials": {state: count}, table: {row: {column: {"mean", "sd", "n"}}}}, rounded to 6 digits.

    Cells without a mean are left out, so a metric is never a partial average; their trials still count in "trials", where
    each trial counts once however many tables it serves. `sd` is absent for one seed.
    """
    results = list(results)
    summary: dict[str, Any] = {"trials": trial_counts(results)}
    for result in results:
        table: dict[str, dict[str, Any]] = {}
        for cell in result.cells:
            if cell.mean is not None:
                entry: dict[str, float] = {"mean": round(cell.mean, _DIGITS), "n": cell.n}
                if cell.sd is not None:
                    entry["sd"] = round(cell.sd, _DIGITS)
                table.setdefault(cell.row, {})[cell.column] = entry
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
