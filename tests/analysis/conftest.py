"""Small plans and records, shared by the tests of pipeline.analysis."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

METRIC = "metric_test_acc_top1_last"
Values = Mapping[tuple[str, str], Sequence[float | None]]


def _spec(
    rows: Sequence[str],
    columns: Sequence[str],
    seeds: Sequence[int],
    *,
    baseline: str | None = None,
    metrics: Mapping[str, str] | None = None,
    levels: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """One entry of tables.json; with `metrics` (column -> result column) the columns are metrics and share their trials."""

    def trial_id(row: str, column: str, seed: int) -> str:
        return f"t{rows.index(row)}{'' if metrics else columns.index(column)}{seed}"

    cells = [
        {
            "row": row,
            "column": column,
            "row_levels": {"backbone": (levels or {}).get(row, row)},
            "column_levels": {} if metrics else {"arm": column},
            "metric": metrics[column] if metrics else METRIC,
            "arm": None if metrics else column,
            "cell_id": f"c{rows.index(row)}{columns.index(column)}",
            "trials": [{"seed": seed, "trial_id": trial_id(row, column, seed), "state": "planned", "reason": ""} for seed in seeds],
        }
        for row in rows
        for column in columns
    ]
    return {
        "name": "backbones",
        "title": "Backbones",
        "row_fields": ["backbone"],
        "rows": list(rows),
        "column_fields": ["metric"] if metrics else ["arm"],
        "columns": list(columns),
        "column_kind": "metric" if metrics else "level",
        "baseline": baseline,
        "selection": "last",
        "seeds": list(seeds),
        "fixed": {"dataset": "cluttered_digits", "epochs": 8},
        "cells": cells,
    } | changes


def _trials(spec: Mapping[str, Any], values: Values, troubles: Mapping[str, tuple[str, str]] | None = None) -> pa.Table:
    """Records of all trials of `spec`: `values` by (row, column), one a seed; `troubles` is trial_id -> (state, reason)."""
    rows: dict[str, dict[str, Any]] = {}
    for cell in spec["cells"]:
        for trial, value in zip(cell["trials"], values[cell["row"], cell["column"]], strict=True):
            if trial["trial_id"] is None:
                continue
            state, reason = (troubles or {}).get(trial["trial_id"], ("complete", ""))
            row = rows.setdefault(
                trial["trial_id"], {"trial_id": trial["trial_id"], "seed": trial["seed"], "state": state, "reason": reason}
            )
            row["run_id"] = f"run-{trial['trial_id']}"
            row["env_torch"] = "2.15.0"
            row[cell["metric"]] = value if state == "complete" else None
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows.values()])


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., dict[str, Any]]:
    """Builder of one entry of tables.json."""
    return _spec


@pytest.fixture(scope="session")
def make_trials() -> Callable[..., pa.Table]:
    """Builder of results/trials.parquet."""
    return _trials


@pytest.fixture
def arms(make_spec: Callable[..., dict[str, Any]], make_trials: Callable[..., pa.Table]) -> tuple[dict[str, Any], pa.Table]:
    """Three backbones x two arms x three seeds; one trial diverged, one cell was skipped."""
    spec = make_spec(["resnet8", "wrn_10_1", "vit_tiny"], ["ce", "cam"], [0, 1, 2], baseline="ce")
    for trial in spec["cells"][5]["trials"]:
        trial.update(trial_id=None, state="skipped", reason="vit_tiny has layers after pooling: no CAM")
    values = {
        ("resnet8", "ce"): [0.931, 0.936, 0.94],
        ("resnet8", "cam"): [0.944, 0.9455, 0.9441],
        ("wrn_10_1", "ce"): [0.921, 0.9252, 0.918],
        ("wrn_10_1", "cam"): [0.93, 0.0, 0.927],
        ("vit_tiny", "ce"): [0.801, 0.811, 0.805],
        ("vit_tiny", "cam"): [None, None, None],
    }
    return spec, make_trials(spec, values, {"t111": ("failed", "loss became nan at step 12 (epoch 1)")})


@pytest.fixture
def sweep_table(make_spec: Callable[..., dict[str, Any]], make_trials: Callable[..., pa.Table]) -> tuple[dict[str, Any], pa.Table]:
    """Four loss weights x two metrics x two seeds, with the energy of a flat map."""
    rows = ["0", "0.3", "1", "3"]
    metrics = {"acc_top1": METRIC, "caam_energy": "metric_test_caam_energy_last"}
    spec = make_spec(
        rows,
        list(metrics),
        [0, 1],
        metrics=metrics,
        levels={row: float(row) for row in rows},
        name="loss_weight",
        title="Weight of CAM-loss",
    )
    spec["row_fields"] = ["loss.cam.weight"]
    for cell in spec["cells"]:
        cell["row_levels"] = {"loss.cam.weight": float(cell["row"])}
    values = {}
    for i, row in enumerate(rows):
        values[row, "acc_top1"] = [0.93 + 0.004 * i, 0.938 + 0.003 * i]
        values[row, "caam_energy"] = [0.37 + 0.03 * i, 0.365 + 0.035 * i]
    trials = make_trials(spec, values)
    return spec, trials.append_column("metric_test_flat_energy_last", pa.array([0.214, 0.2142] * 4))


@pytest.fixture(scope="session")
def make_history() -> Callable[..., pa.Table]:
    """Builder of results/history.parquet: rising accuracies for every trial of a records table."""

    def history(trials: pa.Table, epochs: int = 8, *, val: bool = True) -> pa.Table:
        rows = []
        for k, trial_id in enumerate(trials["trial_id"].to_pylist()):
            for epoch in range(1, epochs + 1):
                accuracy = 0.93 - 0.75 / (epoch + 0.2 * k)
                val_accuracy = accuracy - 0.01 if val else None
                rows.append({"trial_id": trial_id, "epoch": epoch, "metric_val_acc_top1": val_accuracy, "metric_test_acc_top1": accuracy})
        schema = pa.schema(
            {
                "trial_id": pa.string(),
                "epoch": pa.int64(),
                "metric_val_acc_top1": pa.float64(),
                "metric_test_acc_top1": pa.float64(),
            }.items()
        )
        return pa.Table.from_pylist(rows, schema=schema)

    return history


@pytest.fixture(scope="session")
def readers() -> dict[str, Callable[[str], Any]]:
    """Format -> reader of parsers.py; loaded by path, as test folders are no packages."""
    spec = importlib.util.spec_from_file_location("analysis_parsers", Path(__file__).with_name("parsers.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        "markdown": module.read_markdown,
        "html": module.read_html,
        "latex": module.read_latex,
        "page": module.parse_html,
        "text": module.read_text,
    }
