"""Answers about a study: what is stored now, whether published cells still hold, what a study file may say."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import data, losses, models, regularizers
from pipeline.analysis.collect import Results, collect, read_run_ids
from pipeline.errors import ConfigError
from pipeline.orchestration.driver import view_of
from pipeline.orchestration.planning import Plan, write_plan
from pipeline.orchestration.tracking import open_tracker
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import Study
from pipeline.study.params import Params
from pipeline.study.project import OUTCOMES, TABLES, absolute_url
from pipeline.study.trial_config import TrialConfig
from pipeline.study.validate import options_schema, schema_of

RELATIVE = 1e-12  # JSON carries every digit of a double


def current_results(plan: Plan, params: Params) -> Results:
    """Plan and store joined as they are now, without touching any file of the study."""
    with tempfile.TemporaryDirectory() as folder:
        write_plan(plan, Path(folder))
        return collect(Path(folder) / "trials.parquet", TrialStore(absolute_url(params.store.url)), _known_runs())


def verify_tables(params: Params) -> tuple[int, list[str]]:
    """Recompute every published cell from the store, by the trial ids that it names.

    Returns:
        Number of cells looked at, and one line for each that differs.

    Raises:
        ConfigError: nothing has been published yet.
    """
    files = sorted(TABLES.glob("*.json"))
    if not files:
        raise ConfigError(f"No tables in {TABLES}/: nothing has been published. Run `dvc repro`.")
    records = TrialStore(absolute_url(params.store.url)).records()
    checked, drift = 0, []
    for path in files:
        table = json.loads(path.read_text(encoding="utf-8"))
        values = {(cell["row"], cell["column"]): _stored_values(cell, records) for cell in table["cells"]}
        for cell in table["cells"]:
            checked += 1
            problems = _cell_problems(cell, table, values)
            if problems:
                drift.append(f"{table['table']}: {cell['row']} / {cell['column']}: {'; '.join(problems)}")
    return checked, drift


def _stored_values(cell: dict[str, Any], records: Mapping[str, Record]) -> dict[int, float] | str:
    """Seed -> value of a cell's trials, or what is wrong with them."""
    values = {}
    for trial_id in cell["trial_ids"]:
        record = records.get(trial_id)
        if record is None or record["state"] != "complete":
            return f"trial {trial_id} is not complete in the store"
        if cell["metric"] not in record:
            return f"trial {trial_id} has no {cell['metric']} in the store"
        values[record["seed"]] = record[cell["metric"]]
    return values


def _cell_problems(cell: dict[str, Any], table: dict[str, Any], values: Mapping[tuple[str, str], dict[int, float] | str]) -> list[str]:
    mine = values[cell["row"], cell["column"]]
    if isinstance(mine, str):
        return [mine]
    numbers, whole = list(mine.values()), not cell["missing"]
    truth: dict[str, Any] = {
        "n": len(numbers),
        "mean": statistics.fmean(numbers) if numbers and whole else None,
        "sd": statistics.stdev(numbers) if len(numbers) > 1 and whole else None,
    }
    base = _baseline_of(cell, table)
    if cell.get("delta_mean") is not None and base is not None:
        theirs = values[base["row"], base["column"]]
        if isinstance(theirs, str):
            return [f"its baseline: {theirs}"]
        truth["delta_mean"] = statistics.fmean(mine[seed] - theirs[seed] for seed in mine if seed in theirs)
    return [f"{key} is {cell[key]} but {value} from the store" for key, value in truth.items() if not _equal(value, cell[key])]


def _baseline_of(cell: dict[str, Any], table: dict[str, Any]) -> dict[str, Any] | None:
    """The cell of the baseline arm whose other levels are equal."""

    def others(entry: dict[str, Any]) -> dict[str, Any]:
        return {name: level for name, level in {**entry["row_levels"], **entry["column_levels"]}.items() if name != "arm"}

    return next((e for e in table["cells"] if e["arm"] == table["baseline"] and others(e) == others(cell)), None)


def mirror(plan: Plan, records: Mapping[str, Record], params: Params, log: Callable[[str], None]) -> int:
    """Bring MLflow up to date with the stored trials of a plan; returns how many are there."""
    store = TrialStore(absolute_url(params.store.url))
    with open_tracker(params.tracking, plan.study, log) as tracker:
        tracker.sync(
            (view_of(trial, plan.study), records[trial_id], lambda trial_id=trial_id: store.history(trial_id))  # type: ignore[misc]
            for trial_id, trial in plan.trials.items()
            if trial_id in records
        )
        tracker.wait()
        return len(tracker.run_ids())


def study_schema() -> dict[str, Any]:
    """JSON Schema of a study file; `$defs` also holds a trial configuration and the options of every registered method.

    Methods of plugins are among them once their study has been loaded.
    """
    schema = Study.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions["trial configuration"] = schema_of(TrialConfig)
    for registry in (data.registry, models.registry, losses.registry, regularizers.registry):
        for name in registry.names():
            definitions[f"{registry.kind} {name}"] = options_schema(registry, name)
    return schema


def _known_runs() -> dict[str, str]:
    return read_run_ids(OUTCOMES) if OUTCOMES.exists() else {}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=RELATIVE)
    return bool(a == b)
