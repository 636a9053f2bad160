"""A study with all that a report can show, made up but consistent: grouped rows, several metrics, failures, published numbers, curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.figures.write import write_figures
from pipeline.analysis.render.write import write_tables
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import TableResult, build_tables

ACCURACY = "metric_test_acc_top1_last"
ENERGY = "metric_test_caam_energy_last"
ODD = "<b>50 % & more</b>"  # a reason that would break a page that does not escape it


@dataclass(frozen=True)
class Study:
    """Where it was written, and what of."""

    folder: Path
    index: Path
    results: list[TableResult]
    trials: pa.Table
    planned: pa.Table


def write_study(folder: Path, make_spec: Callable[..., dict[str, Any]]) -> Study:
    """Write tables/, figures/ and report/ of three tables: 'backbones' with trouble, 'datasets' with groups, and a sweep."""
    specs = [_backbones(make_spec), _datasets(), _sweep(make_spec)]
    document = {"study": "quick", "tables": specs}
    trials = _trials(specs)
    history = _history(trials)
    results = build_tables(document, trials)
    write_tables(results, folder / "tables")
    figures = write_figures(document, results, trials=trials, history=history, folder=folder / "figures")
    planned = _planned(specs)
    index = write_report(
        folder / "report",
        study="quick",
        results=results,
        figure_paths=figures,
        trials=trials,
        provenance={"commit": "abc123", "versions": {"torch": "2.15"}, "note": "<script>alert(1)</script>"},
        history=history,
        planned=planned,
        run_links={run: f"http://127.0.0.1:5000/#/experiments/1/runs/{run}" for run in trials["run_id"].to_pylist() if run},
    )
    return Study(folder, index, results, trials, planned)


def _backbones(make_spec: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    spec = make_spec(["resnet8", "wrn_10_1", "vit_tiny"], ["ce", "cam"], [0, 1, 2], baseline="ce", title="CAM-loss on backbones")
    for trial in spec["cells"][5]["trials"]:
        trial.update(state="skipped", reason="vit_tiny has layers after pooling: no CAM")
    return spec


def _datasets() -> dict[str, Any]:
    """Two datasets x two backbones, three arms, two metrics a cell, six seeds."""
    rows, arms = [(d, b) for d in ("digits", "letters") for b in ("resnet20", "resnet110")], ["ce", "cam", "focal"]
    cells = [
        {
            "row": " · ".join(parts),
            "column": arm,
            "row_levels": {"dataset": parts[0], "backbone": parts[1]},
            "column_levels": {"arm": arm},
            "metric": metric,
            "arm": arm,
            "cell_id": f"d{i}{j}",
            "trials": [{"seed": seed, "trial_id": f"d{i}{j}{seed}", "state": "planned", "reason": ""} for seed in range(6)],
        }
        for i, parts in enumerate(rows)
        for j, arm in enumerate(arms)
        for metric in (ACCURACY, ENERGY)
    ]
    return {
        "name": "datasets",
        "title": "Does it hold on other data?",
        "row_fields": ["dataset", "backbone"],
        "rows": [" · ".join(parts) for parts in rows],
        "row_parts": [list(parts) for parts in rows],
        "column_fields": ["arm"],
        "columns": arms,
        "column_parts": [[arm] for arm in arms],
        "column_kind": "level",
        "baseline": "ce",
        "selection": "last",
        "seeds": list(range(6)),
        "fixed": {"epochs": 8},
        "statistics": {"test": "t", "alpha": 0.05, "confidence": 0.95},
        "style": {"p_values": True, "ranks": True},
        "cells": cells,
    }


def _sweep(make_spec: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    levels = {row: float(row) for row in ("0", "0.3", "1", "3")}
    spec = make_spec(
        list(levels), ["acc", "energy"], [0, 1], metrics={"acc": ACCURACY, "energy": ENERGY}, levels=levels, name="loss_weight"
    )
    spec |= {"title": "Weight of the CAM-loss", "row_fields": ["loss.cam.weight"]}
    for cell in spec["cells"]:
        cell["row_levels"] = {"loss.cam.weight": float(cell["row"])}
        cell["trials"] = [trial | {"trial_id": f"w{trial['trial_id']}"} for trial in cell["trials"]]
    spec["reference"] = {}
    return spec


def _trials(specs: list[dict[str, Any]]) -> pa.Table:
    rows: dict[str, dict[str, Any]] = {}
    for spec in specs:
        for k, cell in enumerate(spec["cells"]):
            for trial in cell["trials"]:
                trial_id, seed = trial["trial_id"], trial["seed"]
                state, reason = _fate(trial)
                row = rows.setdefault(trial_id, {"trial_id": trial_id, "seed": seed, "state": state, "reason": reason})
                done = state == "complete"
                gain = {"ce": 0.0, "cam": 0.031, "focal": -0.004}.get(cell["column"], 0.0)
                value = 0.71 + 0.013 * (k % 7) + gain + 0.004 * math.sin(7 * k + 3 * seed)
                row[cell["metric"]] = value if done else None
                row["metric_val_acc_top1_last"] = 0.7 + 0.001 * seed if done else None
                row["run_id"] = f"run-{trial_id}" if done else None
                row["name"] = f"{cell['row']} · {cell['column']} · seed {seed}"
                row["time_total_s"], row["mem_peak_bytes"] = (61.5, 3 * 2**20) if done else (None, None)
                row["env_device"], row["env_torch"] = ("cuda" if trial_id.startswith("d0") else "cpu", "2.15.0") if done else (None, None)
                row["attempt"], row["resumed"], row["factor_backbone"] = (
                    2 if trial_id == "t000" else 1,
                    int(trial_id == "t000"),
                    cell["row"],
                )
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows.values()])


def _fate(trial: Mapping[str, Any]) -> tuple[str, str]:
    if trial["trial_id"] == "t111":
        return "failed", f"loss became nan at step 12 (epoch 1) {ODD}"
    return (trial["state"], trial["reason"]) if trial["state"] == "skipped" else ("complete", "")


def _history(trials: pa.Table) -> pa.Table:
    rows = []
    for k, row in enumerate(trials.to_pylist()):
        for epoch in range(1, 9) if row["state"] == "complete" else ():
            accuracy = 0.93 - 0.75 / (epoch + 0.02 * k)
            losses = {"metric_train_loss": 1 / epoch, "metric_val_loss": 1.1 / epoch}
            accuracies = {"metric_val_acc_top1": accuracy - 0.01, "metric_test_acc_top1": accuracy}
            rows.append({"trial_id": row["trial_id"], "epoch": epoch, **losses, **accuracies, "metric_lr": 0.1, "system_cpu_percent": 98.0})
    return pa.Table.from_pylist(rows)


def _planned(specs: list[dict[str, Any]]) -> pa.Table:
    rows: dict[str, dict[str, Any]] = {}
    for spec in specs:
        for cell in spec["cells"]:
            for trial in cell["trials"]:
                config = {
                    "backbone": {"name": cell["row"], "dropout": 0.0},
                    "regularizers": [{"name": "cutout", "size": 6}],
                    "ema": None,
                    "optimizer": {"lr": 0.1, "nesterov": True},
                    "schedule": {"milestones": [0.5, 0.75]},
                }
                identity = {"cell_id": cell["cell_id"], "code_key": "c0de", "data_digest": "da7a", "seed": trial["seed"], "upstream": []}
                content = {"name": cell["row"], "spec": {"config": config, "trial_id": trial["trial_id"], **identity}}
                rows[trial["trial_id"]] = {"trial_id": trial["trial_id"], "planned": json.dumps(content)}
    return pa.Table.from_pylist(list(rows.values()))
