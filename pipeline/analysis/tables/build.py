"""A table is a pure function of its plan and the records: cells with n, mean, sample SD and paired differences."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from scipy.special import stdtr, stdtrit

from pipeline.analysis.metrics import baselines, higher_is_better, map_measure, mask_sign, measured_at_end
from pipeline.analysis.tables.cells import Average, CellResult, Delta, Missing, Reference, TableResult
from pipeline.errors import ConfigError, StoreError, did_you_mean

_REQUIRED = ("name", "title", "row_fields", "rows", "column_fields", "columns", "column_kind", "selection", "seeds", "cells")
_TIE = 1e-12  # relative; means that differ by less are rounding noise of the same average


def load_tables(path: Path) -> dict[str, Any]:
    """Read the planner's `tables.json`.

    Raises:
        ConfigError: the file is absent or is no such document.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; it is written by the plan stage. Run: dvc repro plan") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON ({error}); write it anew with: dvc repro plan") from error
    if not isinstance(document, dict) or not {"study", "tables"} <= set(document):
        raise ConfigError(f"{path} must hold an object with 'study' and 'tables'; write it anew with: dvc repro plan")
    return document


def build_tables(document: Mapping[str, Any], trials: pa.Table) -> list[TableResult]:
    """All tables of a `tables.json` document, in its order."""
    return [build_table(spec, trials, study=document["study"]) for spec in document["tables"]]


def build_table(spec: Mapping[str, Any], trials: pa.Table, *, study: str = "") -> TableResult:
    """Fill one table.

    mean and SD are taken over all planned seeds of a cell or not at all: with s values x_1..x_s, mean = sum x / s and
    SD = sqrt(sum (x - mean)^2 / (s - 1)). A difference to the baseline is taken seed by seed, then averaged.

    Args:
        spec: one entry of `tables` in tables.json.
        trials: results/trials.parquet, one row a trial.
        study: name of the study, kept in the result.

    Raises:
        ConfigError: the spec lacks a field, names a row or column twice or an unknown one, or its baseline is not in the table.
        StoreError: a trial has two rows, or a row of another seed than planned.
    """
    _check(spec)
    records = _records(trials)
    cells = [_cell(cell, spec["seeds"], records, trials.column_names) for cell in spec["cells"]]
    position = {(row, column): i for i, (row, column) in enumerate((r, c) for r in spec["rows"] for c in spec["columns"])}
    cells.sort(key=lambda cell: position[cell.row, cell.column])
    baseline = spec.get("baseline")
    if baseline is not None:
        cells = _with_deltas(cells, baseline, spec["name"])
    cells = _with_best(cells, "row" if spec["column_kind"] == "level" else "column")
    return TableResult(
        study=study,
        name=spec["name"],
        title=spec["title"],
        row_fields=tuple(spec["row_fields"]),
        rows=tuple(spec["rows"]),
        column_fields=tuple(spec["column_fields"]),
        columns=tuple(spec["columns"]),
        column_kind=spec["column_kind"],
        baseline=baseline,
        selection=spec["selection"],
        seeds=tuple(spec["seeds"]),
        fixed=_in_order(spec.get("fixed") or {}),
        cells=tuple(cells),
        averages=_averages(cells, spec) if spec["column_kind"] == "level" else (),
        references=_references(cells, records),
    )


def _check(spec: Mapping[str, Any]) -> None:
    lacking = [key for key in _REQUIRED if key not in spec]
    if lacking:
        raise ConfigError(f"table {spec.get('name', '?')!r} of tables.json lacks {', '.join(lacking)}; write it anew with: dvc repro plan")
    where = f"table {spec['name']!r}"
    if spec["column_kind"] not in ("level", "metric"):
        raise ConfigError(f"column_kind of {where} must be 'level' or 'metric', got {spec['column_kind']!r}")
    for axis in ("rows", "columns"):
        if len(set(spec[axis])) != len(spec[axis]):
            raise ConfigError(f"{axis} of {where} must differ from each other, got {', '.join(spec[axis])}")
    seen: set[tuple[str, str]] = set()
    for cell in spec["cells"]:
        for axis, known in (("row", spec["rows"]), ("column", spec["columns"])):
            if cell[axis] not in known:
                hint = did_you_mean(cell[axis], known)
                raise ConfigError(f"a cell of {where} names the {axis} {cell[axis]!r}; known: {', '.join(known)}.{hint}")
        if (cell["row"], cell["column"]) in seen:
            raise ConfigError(f"{where} has two cells at row {cell['row']!r}, column {cell['column']!r}; one is allowed")
        seen.add((cell["row"], cell["column"]))


def _records(trials: pa.Table) -> dict[str, dict[str, Any]]:
    wanted = ["trial_id", "seed", "state", "reason", "run_id"]
    kept = [name for name in trials.column_names if name in wanted or name.startswith(("metric_", "time_", "mem_"))]
    records: dict[str, dict[str, Any]] = {}
    for row in trials.select(kept).to_pylist():
        if row["trial_id"] in records:
            raise StoreError(f"trial {row['trial_id']} has two rows in the results, one is allowed; write them anew with: dvc repro -f run")
        records[row["trial_id"]] = row
    return records


def _cell(spec: Mapping[str, Any], seeds: Sequence[int], records: Mapping[str, dict[str, Any]], columns: Sequence[str]) -> CellResult:
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
    complete = bool(values) and not missing
    mean, sd, ci95 = _mean_sd_ci95(list(values.values())) if complete else (None, None, None)
    trial_ids = tuple(planned[seed]["trial_id"] for seed in values)
    return CellResult(
        row=spec["row"],
        column=spec["column"],
        metric=spec["metric"],
        arm=spec.get("arm"),
        cell_id=spec.get("cell_id"),
        mean=mean,
        sd=sd,
        ci95=ci95,
        n=len(values),
        seeds=tuple(values),
        values=tuple(values.values()),
        trial_ids=trial_ids,
        run_ids=tuple(run for run in (records[trial].get("run_id") for trial in trial_ids) if run),
        missing=tuple(missing),
        row_levels=_in_order(spec.get("row_levels") or {}),
        column_levels=_in_order(spec.get("column_levels") or {}),
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


def _in_order(value: Any) -> Any:
    """`value` with the keys of all mappings sorted, as in tables.json: a plan gives the same bytes before and after it is written."""
    if isinstance(value, Mapping):
        return {key: _in_order(value[key]) for key in sorted(value, key=str)}
    return [_in_order(each) for each in value] if isinstance(value, list) else value


def _mean_sd_ci95(values: Sequence[float]) -> tuple[float, float | None, tuple[float, float] | None]:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    sd = statistics.stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    # Rounded, so that another scipy, which may differ in the last bit, writes the same bytes.
    return mean, sd, (round(mean - half, 10), round(mean + half, 10))


def _delta(values: Mapping[int, float], base: Mapping[int, float], row: str, column: str) -> Delta:
    pairs = [values[seed] - base[seed] for seed in values if seed in base]
    if not pairs:
        return Delta(None, None, 0, None, row, column)
    mean, sd, _ = _mean_sd_ci95(pairs)
    p = None
    if sd is not None and sd > _TIE:
        p = float(f"{2 * stdtr(len(pairs) - 1, -abs(mean) / (sd / math.sqrt(len(pairs)))):.6g}")
    return Delta(mean, sd, len(pairs), p, row, column)


def _with_deltas(cells: list[CellResult], baseline: str, table: str) -> list[CellResult]:
    found = False
    result = []
    for cell in cells:
        base = _baseline_cell(cell, cells, baseline)
        found = found or base is not None
        if base is not None and base is not cell:
            complete = cell.mean is not None and base.mean is not None
            delta = _delta(cell.by_seed if complete else {}, base.by_seed, base.row, base.column)
            cell = replace(cell, delta=delta)
        result.append(cell)
    if cells and not found:
        arms = sorted({cell.arm for cell in cells if cell.arm is not None})
        hint = did_you_mean(baseline, arms)
        known = f"Its arms: {', '.join(arms) or 'none'}.{hint}"
        raise ConfigError(f"baseline {baseline!r} of table {table!r} is no arm of it. {known} Name one of them or set baseline: null.")
    return result


def _baseline_cell(cell: CellResult, cells: Sequence[CellResult], baseline: str) -> CellResult | None:
    """The cell of the baseline arm that agrees with `cell` in metric and all other levels, be the arms columns or rows."""

    def others(each: CellResult) -> dict[str, Any]:
        return {key: level for key, level in {**each.row_levels, **each.column_levels}.items() if key != "arm"}

    same_metric = [each for each in cells if each.metric == cell.metric]
    by_arm = [each for each in same_metric if each.arm == baseline and others(each) == others(cell)]
    by_column = [each for each in same_metric if each.row == cell.row and each.column == baseline]
    return next(iter(by_arm or by_column), None)


def _with_best(cells: list[CellResult], axis: str) -> list[CellResult]:
    result = []
    for cell in cells:
        means = [
            each.mean
            for each in cells
            if each.mean is not None
            and (getattr(each, axis), each.metric, _data_levels(each)) == (getattr(cell, axis), cell.metric, _data_levels(cell))
        ]
        best = False
        if cell.mean is not None and len(means) > 1 and min(means) < max(means):
            top = max(means) if higher_is_better(cell.metric) else min(means)
            best = math.isclose(cell.mean, top, rel_tol=_TIE, abs_tol=0.0)
        result.append(replace(cell, best=best))
    return result


def _data_levels(cell: CellResult) -> str:
    """What a cell says of its data: numbers on different data are not compared and not averaged."""
    return repr(_dataset_levels(cell))


def _dataset_levels(cell: CellResult) -> list[tuple[str, Any]]:
    levels = {**cell.row_levels, **cell.column_levels}
    return sorted((name, level) for name, level in levels.items() if name.split(".")[0] == "dataset")


def _dataset_words(cell: CellResult) -> str:
    """'birds', or 'birds, size = 32' where options of the dataset are levels too."""
    words = []
    for name, level in _dataset_levels(cell):
        option = name.partition(".")[2]
        plain = level.get("name", level) if isinstance(level, Mapping) else level
        words.append(f"{option} = {plain}" if option else str(plain))
    return ", ".join(words)


def _references(cells: Sequence[CellResult], records: Mapping[str, dict[str, Any]]) -> tuple[Reference, ...]:
    several = len({_data_levels(cell) for cell in cells}) > 1
    references = []
    pairs = dict.fromkeys(pair for cell in cells for pair in baselines(cell.metric).items())
    for words, column in pairs:
        by_data: dict[str, dict[str, float]] = {}
        datasets: dict[str, None] = {}
        for cell in (each for each in cells if column in baselines(each.metric).values()):
            values = {trial_id: records[trial_id].get(column) for trial_id in cell.trial_ids}
            finite = {trial_id: value for trial_id, value in values.items() if value is not None and math.isfinite(value)}
            by_data.setdefault(_data_levels(cell), {}).update(finite)
            if finite and several:
                datasets[_dataset_words(cell)] = None
        means = [statistics.fmean(values.values()) for values in by_data.values() if values]
        if means:
            references.append(Reference(column, words, min(means), max(means), tuple(datasets)))
    return tuple(references)


def _averages(cells: Sequence[CellResult], spec: Mapping[str, Any]) -> tuple[Average, ...]:
    """One average a column, or none at all: every cell must be there, complete, and of one metric and one set of seeds."""
    whole = len(cells) == len(spec["rows"]) * len(spec["columns"]) and all(cell.mean is not None for cell in cells)
    one_kind = len({(cell.metric, cell.seeds) for cell in cells}) == 1
    same_data = not any(name.split(".")[0] == "dataset" for name in spec["row_fields"])
    if len(spec["rows"]) < 2 or not whole or not one_kind or not same_data:
        return ()
    by_seed = {
        column: {seed: statistics.fmean(cell.by_seed[seed] for cell in cells if cell.column == column) for seed in cells[0].seeds}
        for column in spec["columns"]
    }
    averages = []
    for column, values in by_seed.items():
        mean, sd, _ = _mean_sd_ci95(list(values.values()))
        bases = {cell.delta.baseline_column for cell in cells if cell.column == column and cell.delta is not None}
        base = bases.pop() if len(bases) == 1 else column
        delta = _delta(values, by_seed[base], "", base) if base != column else None
        averages.append(Average(column, cells[0].metric, mean, sd, len(values), delta))
    return tuple(averages)
