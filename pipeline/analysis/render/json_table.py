"""A table as JSON: the shape of the published contract, full precision, the same bytes for the same records."""

from __future__ import annotations

import json
from typing import Any

from pipeline.analysis.tables import Average, CellResult, TableResult
from pipeline.analysis.wording import caption


def render_json(result: TableResult) -> str:
    """One object; means, SDs and differences are fractions (or seconds, bytes) as stored, null where there is no number."""
    document = {
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
        "fixed": dict(result.fixed),
        "cells": [_cell(cell) for cell in result.cells],
        "averages": [_average(average) for average in result.averages],
    }
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _cell(cell: CellResult) -> dict[str, Any]:
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": cell.metric,
        "arm": cell.arm,
        "cell_id": cell.cell_id,
        "mean": cell.mean,
        "sd": cell.sd,
        "ci95": list(cell.ci95) if cell.ci95 else None,
        "n": cell.n,
        "seeds": list(cell.seeds),
        "values": list(cell.values),
        "trial_ids": list(cell.trial_ids),
        "run_ids": list(cell.run_ids),
        **_delta(cell),
        "best": cell.best,
        "missing": [{"seed": m.seed, "state": m.state, "reason": m.reason, "trial_id": m.trial_id} for m in cell.missing],
        "row_levels": dict(cell.row_levels),
        "column_levels": dict(cell.column_levels),
    }


def _average(average: Average) -> dict[str, Any]:
    return {"column": average.column, "metric": average.metric, "mean": average.mean, "sd": average.sd, "n": average.n, **_delta(average)}


def _delta(cell: CellResult | Average) -> dict[str, Any]:
    delta = cell.delta
    return {
        "delta_mean": delta.mean if delta else None,
        "delta_sd": delta.sd if delta else None,
        "delta_n": delta.n if delta else None,
        "delta_p": delta.p if delta else None,
    }
