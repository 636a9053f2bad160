"""Answers about a study: what is stored now, what a study file may say."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pipeline import data, losses, models, regularizers
from pipeline.analysis.collect import Results, collect, read_run_ids
from pipeline.orchestration.planning import Plan, write_plan
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import Study
from pipeline.study.params import Params
from pipeline.study.project import OUTCOMES, absolute_url
from pipeline.study.trial_config import TrialConfig
from pipeline.study.validate import options_schema, schema_of


def current_results(plan: Plan, params: Params) -> Results:
    """Plan and store joined as they are now, without touching any file of the study."""
    with tempfile.TemporaryDirectory() as folder:
        write_plan(plan, Path(folder))
        return collect(Path(folder) / "trials.parquet", TrialStore(absolute_url(params.store.url)), _known_runs())


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
