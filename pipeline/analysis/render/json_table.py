"""A table as JSON: the shape of the published contract, unrounded means, the same bytes for the same records."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pipeline.analysis.tables import Average, CellResult, Delta, TableResult
from pipeline.analysis.wording import caption

_DELTA = ("mean", "sd", "se", "n", "ci", "bootstrap_ci", "p_sign_flip", "p_t", "p_wilcoxon", "p", "p_holm", "significant", "effect")


def render_json(result: TableResult) -> str:
    """One object; means, SDs and differences are fractions (or seconds, bytes) as stored, null where there is no number."""
    return json.dumps(table_document(result), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def table_document(result: TableResult) -> dict[str, Any]:
    """What the JSON file of a table holds."""
    return {
        "study": result.study,
        "table": result.name,
        "title": result.title,
        "caption": caption(result),
        "selection": result.selection,
        "baseline": result.baseline,
        "seeds": list(result.seeds),
        "row_fields": list(result.row_fields),
        "rows": list(result.rows),
        "column_fields": list(result.column_fields),
        "columns": list(result.columns),
        "column_kind": result.column_kind,
        "metrics": list(result.metrics),
        "fixed": dict(result.fixed),
        "statistics": {
            "test": result.test,
            "alpha": result.alpha,
            "confidence": result.confidence,
            "correction": "holm",
            "comparisons": result.comparisons,
        },
        "cells": [_cell(cell) for cell in result.cells],
        "complete_rows": list(result.complete_rows),
        "averages": [_average(average) for average in result.averages],
        "versus": [asdict(each) for each in result.versus],
        "rankings": {metric: _plain(asdict(rankings)) for metric, rankings in result.rankings.items()},
        "published": [
            {
                "header": column.header,
                "metric": column.metric,
                "entries": {row: asdict(e) if e else None for row, e in column.entries.items()},
            }
            for column in result.published
        ],
    }


def _cell(cell: CellResult) -> dict[str, Any]:
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": cell.metric,
        "arm": cell.arm,
        "cell_id": cell.cell_id,
        "mean": cell.mean,
        "sd": cell.sd,
        "se": cell.se,
        "median": cell.median,
        "ci": _list(cell.ci),
        "bootstrap_ci": _list(cell.bootstrap_ci),
        "n": cell.n,
        "seeds": list(cell.seeds),
        "values": list(cell.values),
        "trial_ids": list(cell.trial_ids),
        "run_ids": list(cell.run_ids),
        **_delta(cell.delta),
        "best": cell.best,
        "top": cell.top,
        "missing": [{"seed": m.seed, "state": m.state, "reason": m.reason, "trial_id": m.trial_id} for m in cell.missing],
        "row_levels": dict(cell.row_levels),
        "column_levels": dict(cell.column_levels),
    }


def _average(average: Average) -> dict[str, Any]:
    numbers = {"mean": average.mean, "sd": average.sd, "n": average.n, "ci": _list(average.ci)}
    return {"column": average.column, "metric": average.metric, **numbers, **_delta(average.delta)}


def _delta(delta: Delta | None) -> dict[str, Any]:
    """delta_mean ... delta_effect, null where there is no difference."""
    return {f"delta_{name}": _plain(getattr(delta, name)) if delta is not None else None for name in _DELTA}


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
