"""Answers about a study: why a trial is what it is, what is stored now, whether published cells still hold."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import data, losses, models, regularizers
from pipeline.analysis.collect import Results, collect, read_run_ids
from pipeline.analysis.render_json import render_json
from pipeline.analysis.tables import build_tables, load_tables
from pipeline.errors import ConfigError
from pipeline.orchestration.planning import Plan, PlannedTrial, write_plan
from pipeline.orchestration.run import view_of
from pipeline.orchestration.tracking import open_tracker
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import Study
from pipeline.study.identity import identity_parts
from pipeline.study.params import Params
from pipeline.study.project import OUTCOMES, PLAN, TABLES, absolute_url
from pipeline.study.trial_config import TrialConfig
from pipeline.study.validate import options_schema, schema_of

RELATIVE = 1e-12  # JSON carries every digit of a double


def explain(trial: PlannedTrial, records: Mapping[str, Record]) -> dict[str, Any]:
    """Identity of a trial, and for one that is not stored the nearest stored trial with the fields that differ."""
    spec = trial.spec
    mine = {**identity_parts(spec.config, spec.data_digest, spec.code_key, spec.upstream), "seed": spec.seed}
    record = records.get(spec.trial_id)
    nearest = None
    if record is None:
        distances = []
        for other in records.values():
            if "spec" in other:
                stored = json.loads(other["spec"])
                theirs = {
                    **identity_parts(stored["config"], stored["data_digest"], stored["code_key"], stored["upstream"]),
                    "seed": stored["seed"],
                }
                distances.append((_differences(_flat(mine), _flat(theirs)), other["trial_id"]))
        if distances:
            differs, trial_id = min(distances, key=lambda pair: (len(pair[0]), "seed" not in pair[0], pair[1]))
            nearest = {"trial_id": trial_id, "differs": differs}
    state = trial.state if record is None else record["state"]
    return {
        "trial_id": spec.trial_id,
        "name": trial.name,
        "state": state,
        "tables": list(trial.tables),
        "identity": mine,
        "nearest": nearest,
    }


def current_results(plan: Plan, params: Params) -> Results:
    """Plan and store joined as they are now, without touching any file of the study."""
    with tempfile.TemporaryDirectory() as folder:
        write_plan(plan, Path(folder))
        return collect(Path(folder) / "trials.parquet", TrialStore(absolute_url(params.store.url)), _known_runs())


def verify_tables(params: Params) -> tuple[int, list[str]]:
    """Recompute the published tables from plan and store.

    Returns:
        Number of cells looked at, and one line for each that differs.

    Raises:
        ConfigError: nothing has been published yet.
    """
    if not (PLAN / "tables.json").exists() or not TABLES.exists():
        raise ConfigError(f"No {PLAN}/ or {TABLES}/ here: nothing has been published. Run `dvc repro`.")
    results = collect(PLAN / "trials.parquet", TrialStore(absolute_url(params.store.url)), _known_runs())
    drift, checked = [], 0
    for table in build_tables(load_tables(PLAN / "tables.json"), results.trials):
        path = TABLES / f"{table.name}.json"
        if not path.exists():
            drift.append(f"{table.name}: {path} is gone")
            continue
        published = {(cell["row"], cell["column"]): cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
        for cell in json.loads(render_json(table))["cells"]:
            checked += 1
            there = published.pop((cell["row"], cell["column"]), None)
            place = f"{table.name}: {cell['row']} / {cell['column']}"
            if there is None:
                drift.append(f"{place}: not in {path}")
                continue
            for key in ("mean", "sd", "n", "trial_ids", "delta_mean"):
                if not _equal(cell.get(key), there.get(key)):
                    drift.append(f"{place}: {key} is {there.get(key)} in {path} but {cell.get(key)} from the store")
        drift += [f"{table.name}: {row} / {column}: in {path} but not in the plan" for row, column in published]
    return checked, drift


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
    """JSON Schema of a study file; `$defs` also holds a trial configuration and the options of every registered method."""
    schema = Study.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions["trial configuration"] = schema_of(TrialConfig)
    for registry in (data.registry, models.registry, losses.registry, regularizers.registry):
        for name in registry.names():
            definitions[f"{registry.kind} {name}"] = options_schema(registry, name)
    return schema


def _known_runs() -> dict[str, str]:
    return read_run_ids(OUTCOMES) if OUTCOMES.exists() else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{prefix}[{i}]").items()}
    return {prefix: value}


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*mine, *(key for key in theirs if key not in mine)]
    return {
        key: (mine.get(key, "absent"), theirs.get(key, "absent")) for key in keys if mine.get(key, "absent") != theirs.get(key, "absent")
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=RELATIVE)
    return bool(a == b)
