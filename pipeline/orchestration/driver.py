"""What the driver of a run does with the news of its trials: screen, mirror, event log, cost model, and others who look at the store."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.data import read_manifest
from pipeline.errors import DataError
from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.events import EventLog, rerun_command, write_traceback
from pipeline.orchestration.execution import FOUND
from pipeline.orchestration.exposition import Exposition
from pipeline.orchestration.mirror.inputs import DataView
from pipeline.orchestration.mirror.tracker import NullTracker, TrialView
from pipeline.orchestration.notes import warn
from pipeline.orchestration.planning import PlannedTrial
from pipeline.orchestration.progress import ProgressView
from pipeline.store.keep_alive import KeepAlive
from pipeline.store.records import FINAL_FAILURES, Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.identity import canonical_json
from pipeline.study.params import DataParams

DEFAULT_PREPARED = Path(DataParams().prepared)
COMPACT_EVERY = 16  # finished trials between two merges of the store's small segments: often, so that none holds the driver up for long
LOOK_AHEAD_EVERY_S = 5.0  # between two schedules of all that is left, which take longer the more there is


class Driver:
    """Passes what happens to trials on to the screen, the mirror, the event log, the cost model, and others who look at the store."""

    def __init__(
        self,
        study: str,
        view: ProgressView,
        tracker: NullTracker,
        store: TrialStore,
        costs: CostModel,
        events: EventLog,
        alive: KeepAlive,
        prepared: Path = DEFAULT_PREPARED,
    ) -> None:
        self.study, self.view, self.tracker, self.store, self.prepared = study, view, tracker, store, prepared
        self.costs, self.events, self.alive = costs, events, alive
        self.counters = Exposition(study, view.total)
        self.stored = self.failed = self.trained = 0
        self._epochs: dict[str, int] = {}  # running trial -> last epoch heard of
        self._looked_ahead = float("-inf")

    def started(self, trial: PlannedTrial) -> None:
        self._epochs[trial.spec.trial_id] = 0
        self.counters.started(trial.spec.trial_id)
        self.view.started(trial.spec.trial_id)
        self.tracker.trial_started(view_of(trial, self.study, self.prepared))
        self._log("trial_started", trial, attempt=trial.attempt)

    def epoch(self, trial: PlannedTrial, row: dict[str, Any]) -> None:
        trial_id = trial.spec.trial_id
        if row["epoch"] != self._epochs.get(trial_id, 0) + 1:  # it went on from a checkpoint
            self.view.started(trial_id, epochs_before=row["epoch"] - 1)
            self._log("trial_resumed", trial, epochs_before=row["epoch"] - 1)
        self._epochs[trial_id] = row["epoch"]
        self.counters.counts["epochs"] += 1
        self.view.epoch(trial_id)
        shown = {key: value for key, value in row.items() if key.startswith(("metric_", "system_"))}
        self.tracker.epoch(trial.spec.trial_id, row["epoch"], shown)

    def finished(self, trial: PlannedTrial, record: Record) -> None:
        trial_id, failed = trial.spec.trial_id, record["state"] == "failed"
        found = bool(record.pop(FOUND, False))
        message = f"{trial.name}: {record.get('reason', '')}"
        told: dict[str, Any] = {}
        if failed and record["failure"] not in FINAL_FAILURES:
            told["traceback"] = str(write_traceback(self.study, trial_id, record))
            message += f"\n       traceback: {told['traceback']}; {rerun_command(self.study, trial_id)}"
        self.view.finished(trial_id, trial.spec.config["epochs"], failed, message)
        if record.get("checkpoint_error"):
            warn(f"{trial.name} ran without new checkpoints: {record['checkpoint_error']}")
        if not found:
            self.costs.add(trial.spec, record)
        self.counters.ended(trial_id, None if found else "failed" if failed else "complete")
        self.trained += not found
        self.stored += 1
        self.failed += failed
        if self.stored % COMPACT_EVERY == 0:
            self.store.compact()
        self.tracker.trial_finished(view_of(trial, self.study, self.prepared), record, lambda: record.history)
        if found:
            self._log("trial_found", trial)
        else:
            facts = {key: record[key] for key in ("state", "reason", "failure", "resumed", "time_total_s") if record.get(key)}
            self._log("trial_ended", trial, **facts, **told)
        self.alive.note(self.events.run, stored=self.stored, failed=self.failed)
        if time.monotonic() - self._looked_ahead > LOOK_AHEAD_EVERY_S:
            self._looked_ahead = time.monotonic()
            self.alive.note(self.events.run, left_s=self.view.seconds_left())

    def requeued(self, trial: PlannedTrial, why: str) -> None:
        self.counters.ended(trial.spec.trial_id, "requeued")
        self.view.requeued(trial.spec.trial_id, f"{trial.name}: {why}")
        self._log("trial_requeued", trial, why=why)

    def elsewhere(self, trial: PlannedTrial) -> None:
        self.counters.ended(trial.spec.trial_id)
        self.view.elsewhere(trial.spec.trial_id)
        self._log("trial_elsewhere", trial)

    def aborted(self, trial: PlannedTrial) -> None:
        self.counters.ended(trial.spec.trial_id)
        self.view.aborted(trial.spec.trial_id)
        self._log("trial_aborted", trial)

    def tick(self) -> None:
        self.view.tick()
        self.counters.write()

    def _log(self, event: str, trial: PlannedTrial, **fields: Any) -> None:
        self.events.write(event, trial_id=trial.spec.trial_id, name=trial.name, **fields)


def view_of(trial: PlannedTrial, study: str, prepared: Path = DEFAULT_PREPARED) -> TrialView:
    """How a trial looks in MLflow; what its images are like is read in `prepared`, where they are."""
    spec = trial.spec
    factors = {name: str(value) for name, value in trial.factors.items() if value is not None}
    own = {"study": study, "cell": trial.name.rpartition(" · ")[0], "cell_id": spec.cell_id, "seed": str(spec.seed)}
    return TrialView(
        trial_id=spec.trial_id,
        name=trial.name,
        tables=trial.tables,
        tags=own | factors,
        params={**spec.config, "seed": spec.seed},
        data=_data_of(canonical_json(spec.config["dataset"]), spec.data_digest, prepared.absolute()),
    )


@functools.lru_cache(maxsize=64)
def _data_of(component: str, digest: str, prepared: Path) -> DataView:
    """What MLflow shows of a dataset; without shape and counts where its prepared form is not at hand."""
    source = json.loads(component)
    view = DataView(source["name"], digest, source)
    try:
        manifest = read_manifest(source, prepared)
    except DataError:
        return view  # whoever trains on it says so
    if manifest is None or manifest["digest"] != digest:
        return view
    counts = {split: tuple(numbers) for split, numbers in manifest["class_counts"].items()}
    return replace(view, shape=tuple(manifest["shape"]), class_counts=counts)
