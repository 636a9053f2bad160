"""MLflow made anew from the store and from what is published: for a database that was deleted, or runs that were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.errors import PipelineError, counted
from pipeline.orchestration.driver import view_of
from pipeline.orchestration.mirror.content import last_epochs
from pipeline.orchestration.mirror.mirrored import remember_runs
from pipeline.orchestration.mirror.tables import mirror_tables
from pipeline.orchestration.mirror.tracker import open_tracker
from pipeline.orchestration.mirror.uri import redact
from pipeline.orchestration.planning import Plan
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.project import FIGURES, PLAN, RESULTS, TABLES, absolute_url


@dataclass(frozen=True)
class Rebuilt:
    """What is in MLflow after a rebuild.

    Attributes:
        trials: stored trials of the plan, each with one run.
        tables: published tables of the study, each with one run.
        made: runs that were missing, or replaced as they did not say what the store says.
    """

    trials: int
    tables: int
    made: int

    def line(self) -> str:
        """'36 trials and 3 tables are in MLflow: 2 runs made, 37 were there.'"""
        there = self.trials + self.tables - self.made
        tables = counted(self.tables, "table") if self.tables else "no table"
        said = f"{counted(self.trials, 'trial')} and {tables} are in MLflow: {counted(self.made, 'run')} made, {there} were there."
        return said if self.tables else f"{said} No tables of this study are published; `dvc repro` writes them."


def rebuild(plan: Plan, records: Mapping[str, Record], params: Params, log: Callable[[str], None]) -> Rebuilt:
    """Bring MLflow up to date with the stored trials of a plan, and with the tables of its study where they are published.

    Raises:
        PipelineError: tracking is switched off, or MLflow cannot be reached.
    """
    if params.tracking.uri is None:
        raise PipelineError(
            "tracking.uri is null in params.yaml: there is no MLflow to rebuild. Set it, for example to sqlite:///mlflow.db."
        )
    store, prepared = TrialStore(absolute_url(params.store.url)), Path(params.data.prepared)
    stored = {trial_id: records[trial_id] for trial_id in plan.trials if trial_id in records}
    with open_tracker(params.tracking, plan.study, log) as tracker:
        items = (
            (view_of(plan.trials[trial_id], plan.study, prepared), record, lambda trial_id=trial_id: store.history(trial_id))  # type: ignore[misc]
            for trial_id, record in stored.items()
        )
        tracker.sync(items, last_epochs(store.history_table(stored)))
        tracker.wait()
        tables = mirror_tables(tracker, _published(plan.study), FIGURES.glob("*"))
        if not tracker.wait():
            raise PipelineError(f"MLflow at {redact(params.tracking.uri)} could not be brought up to date; see the warning above.")
        runs, made = tracker.run_ids(), tracker.made()
    there = {trial_id: record for trial_id, record in stored.items() if trial_id in runs}
    remember_runs(params.tracking, plan.study, there, runs)
    return Rebuilt(len(there), tables, made)


def _published(study: str) -> list[TableResult]:
    """The tables of results/, where they are those of this study."""
    if not all(path.exists() for path in (PLAN / "tables.json", RESULTS / "trials.parquet", TABLES)):
        return []
    document = load_tables(PLAN / "tables.json")
    return build_tables(document, pq.read_table(RESULTS / "trials.parquet")) if document["study"] == study else []
