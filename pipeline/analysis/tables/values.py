"""The values of a cell, seed by seed, and why one is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.analysis.metrics import baselines, map_measure, mask_sign, measured_at_end
from pipeline.analysis.tables.cells import CellResult, Missing
from pipeline.errors import StoreError, did_you_mean

_PLAIN = ("trial_id", "seed", "state", "reason", "run_id")


def records_of(trials: pa.Table, metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Trial id -> what the metrics need of its row in results/trials.parquet.

    Raises:
        StoreError: a trial has two rows.
    """
    wanted = {*_PLAIN}
    for metric in metrics:
        wanted |= {metric, mask_sign(metric), *baselines(metric).values()}
    records: dict[str, dict[str, Any]] = {}
    for row in trials.select([name for name in trials.column_names if name in wanted]).to_pylist():
        if row["trial_id"] in records:
            raise StoreError(f"trial {row['trial_id']} has two rows in the results, one is allowed; write them anew with: dvc repro -f run")
        records[row["trial_id"]] = row
    return records


def fill(spec: Mapping[str, Any], seeds: Sequence[int], records: Mapping[str, dict[str, Any]], columns: Sequence[str]) -> CellResult:
    """A cell with the values of its trials, and without anything that is computed of them.

    Args:
        spec: one entry of `cells` in tables.json.
        seeds: of the table.
        records: as `records_of` gives them.
        columns: all columns of the results, to tell a slip from a metric that is absent.

    Raises:
        StoreError: a record is of another seed than planned.
    """
    planned = {trial["seed"]: trial for trial in spec["trials"]}
    values: dict[int, float] = {}
    missing: list[Missing] = []
    for seed in sorted({*seeds, *planned}):
        trial = planned.get(seed, {"trial_id": None, "state": "planned", "reason": "not part of the plan"})
        found = _value(trial, seed, records, spec["metric"], columns)
        if isinstance(found, Missing):
            missing.append(found)
        else:
            values[seed] = found
    trial_ids = tuple(planned[seed]["trial_id"] for seed in values)
    return CellResult(
        row=spec["row"],
        column=spec["column"],
        metric=spec["metric"],
        arm=spec.get("arm"),
        cell_id=spec.get("cell_id"),
        n=len(values),
        seeds=tuple(values),
        values=tuple(values.values()),
        trial_ids=trial_ids,
        run_ids=tuple(run for run in (records[trial].get("run_id") for trial in trial_ids) if run),
        missing=tuple(missing),
        row_levels=in_order(spec.get("row_levels") or {}),
        column_levels=in_order(spec.get("column_levels") or {}),
    )


def _value(
    trial: Mapping[str, Any], seed: int, records: Mapping[str, dict[str, Any]], metric: str, columns: Sequence[str]
) -> float | Missing:
    trial_id = trial.get("trial_id")
    record = records.get(trial_id) if trial_id else None
    if record is None:
        return Missing(seed, trial["state"], trial.get("reason") or "", trial_id)
    if record.get("seed") is not None and record["seed"] != seed:
        said = f"trial {trial_id} is planned for seed {seed}, its record says seed {record['seed']}"
        raise StoreError(f"{said}; both must agree. Plan anew with: dvc repro -f plan")
    if record["state"] != "complete":
        return Missing(seed, record["state"], record.get("reason") or trial.get("reason") or "", trial_id)
    value = record.get(metric)
    if value is None:
        return Missing(seed, "complete", _why_absent(record, metric, columns), trial_id)
    if not math.isfinite(value):
        return Missing(seed, "complete", f"{metric} is {value}", trial_id)
    return float(value)


def _why_absent(record: Mapping[str, Any], metric: str, columns: Sequence[str]) -> str:
    """Why the record of a complete trial lacks a metric, as far as the record tells."""
    if map_measure(metric) and record.get(mask_sign(metric)) is None:
        return "the dataset has no object masks"
    if measured_at_end(metric):
        return "the trial was stored before this metric was measured"
    near = "" if metric in columns else did_you_mean(metric, columns)
    return f"its record holds no {metric}.{near}".rstrip(".")


def in_order(value: Any) -> Any:
    """`value` with the keys of all mappings sorted, as in tables.json: a plan gives the same bytes before and after it is written."""
    if isinstance(value, Mapping):
        return {key: in_order(value[key]) for key in sorted(value, key=str)}
    return [in_order(each) for each in value] if isinstance(value, list) else value
