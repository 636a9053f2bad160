"""Run a study: train what is missing, mirror it, and say what became of each trial."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError, TrialError
from pipeline.orchestration.execution import Context, run_serial
from pipeline.orchestration.planning import Plan, PlannedTrial, check_code, missing
from pipeline.orchestration.preparing import prepare_components
from pipeline.orchestration.progress import ProgressView, warn
from pipeline.orchestration.tracking import NullTracker, TrialView, open_tracker
from pipeline.store.records import FINAL_FAILURES, Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.identity import digest
from pipeline.study.params import Params
from pipeline.study.plugins import plugin_folders
from pipeline.study.project import absolute_url

COMPACT_EVERY = 64  # finished trials between two merges of the store's small segments


@dataclass
class Outcome:
    """What became of the trials of a plan.

    Attributes:
        started: number of trials this call started.
        complete, diverged, skipped: final outcomes.
        failed: records of trials that failed for a reason that may pass.
        missing: trials without any record: lost worker, interrupted, full disk.
        run_ids: MLflow run id of each mirrored trial.
        digests: trial id -> digest of its stored metrics, for DVC.
    """

    started: int = 0
    complete: int = 0
    skipped: int = 0
    diverged: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    missing: list[PlannedTrial] = field(default_factory=list)
    run_ids: dict[str, str] = field(default_factory=dict)
    digests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether another run could not change anything: what DVC may cache."""
        return not self.failed and not self.missing

    def raise_unless_final(self) -> None:
        """Raise when another run could still change something.

        Raises:
            TrialError: names the failed and the missing trials and what to do.
        """
        if self.is_final:
            return
        lines = [f"{self.line()}."]
        lines += [f"  failed: {record.get('name', record['trial_id'])}: {record['reason']}" for record in self.failed[:10]]
        lines += [f"  missing: {trial.name}" for trial in self.missing[:10]]
        hidden = max(0, len(self.failed) - 10) + max(0, len(self.missing) - 10)
        if hidden:
            lines.append(f"  and {hidden} more")
        lines.append("Finished trials are stored. `ablate status` shows each failure and how to rerun it; run again to continue.")
        raise TrialError("\n".join(lines))

    def line(self) -> str:
        """'54 complete, 1 diverged, 0 failed, 0 missing (12 trained now)'."""
        return (
            f"{self.complete} complete, {self.skipped} skipped, {len(self.diverged)} diverged, {len(self.failed)} failed, "
            f"{len(self.missing)} missing ({self.started} trained now)"
        )


def run_plan(
    plan: Plan, params: Params, *, only: Sequence[str] | None = None, die_with_parent: bool = False, log: Callable[[str], None] = warn
) -> Outcome:
    """Train every trial of the plan without a final outcome in the store.

    Args:
        plan: what to run.
        params: resources, store, tracking.
        only: restrict to these trial ids.
        die_with_parent: stop cleanly when the process that started this one is gone.
        log: receives warnings.

    Raises:
        StoreError, DataError, ClusterError, ConfigError: nothing can be run; what is stored stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished trials are stored, nothing is left running.
    """
    store = TrialStore(absolute_url(params.store.url))
    records = store.records()
    todo = [trial for trial in missing(plan, records) if only is None or trial.spec.trial_id in only]
    outcome = Outcome(started=len(todo))
    todo = [
        replace(trial, attempt=records[trial.spec.trial_id]["attempt"] + 1) if trial.spec.trial_id in records else trial for trial in todo
    ]
    todo_ids = {trial.spec.trial_id for trial in todo}
    if todo:
        store.check_writable()
        check_code(todo)
        prepare_components(plan.datasets, params, log)
    with terminable(die_with_parent=die_with_parent), open_tracker(params.tracking, plan.study, log) as tracker:
        tracker.sync(
            (view_of(trial, plan.study), records[trial_id], lambda trial_id=trial_id: store.history(trial_id))  # type: ignore[misc]
            for trial_id, trial in plan.trials.items()
            if trial_id in records and trial_id not in todo_ids
        )
        if todo:
            with ProgressView(len(todo), sum(trial.spec.config["epochs"] for trial in todo)) as view:
                _execute(todo, params, _Driver(plan.study, view, tracker, store))
            store.compact()
            records = store.records()
        outcome.run_ids = tracker.run_ids()
    for trial_id, trial in plan.trials.items():
        record = records.get(trial_id)
        if trial.reason:
            outcome.skipped += 1
        elif record is None:
            outcome.missing.append(trial)
        elif record["state"] == "complete":
            outcome.complete += 1
        elif record["failure"] in FINAL_FAILURES:
            outcome.diverged.append(record)
        else:
            outcome.failed.append(record)
        if record is not None:
            outcome.digests[trial_id] = {"state": record["state"], "digest": digest(dict(record))}
    return outcome


def _execute(todo: list[PlannedTrial], params: Params, driver: _Driver) -> None:
    context = Context(
        store_url=absolute_url(params.store.url),
        weights=params.store.weights,
        prepared=str(Path(params.data.prepared).absolute()),
        device=_device(params),
        threads=params.resources.cpus_per_trial,
        plugin_folders=plugin_folders(),
    )
    if params.resources.executor == "serial":
        run_serial(todo, context, driver)
    else:
        from pipeline.orchestration.ray_executor import run_on_ray

        run_on_ray(todo, context, params.resources, driver)


def _device(params: Params) -> str:
    import torch

    if params.resources.device == "auto":
        # With a cluster it is the nodes that count, not the machine of the driver.
        return "cuda" if torch.cuda.is_available() and not os.environ.get("RAY_ADDRESS") else "cpu"
    if params.resources.device == "cuda" and not torch.cuda.is_available() and not os.environ.get("RAY_ADDRESS"):
        raise PipelineError("resources.device is cuda in params.yaml but torch sees no CUDA device here. Set it to auto or cpu.")
    return params.resources.device


class _Driver:
    """Passes what happens to trials on to the screen and to the mirror."""

    def __init__(self, study: str, view: ProgressView, tracker: NullTracker, store: TrialStore) -> None:
        self.study, self.view, self.tracker, self.store = study, view, tracker, store
        self.stored = 0

    def started(self, trial: PlannedTrial) -> None:
        self.view.started(trial.spec.trial_id)
        self.tracker.trial_started(view_of(trial, self.study))

    def epoch(self, trial: PlannedTrial, row: dict[str, Any]) -> None:
        self.view.epoch(trial.spec.trial_id)
        self.tracker.epoch(trial.spec.trial_id, row["epoch"], {key: value for key, value in row.items() if key.startswith("metric_")})

    def finished(self, trial: PlannedTrial, record: Record) -> None:
        failed = record["state"] == "failed"
        self.view.finished(trial.spec.trial_id, trial.spec.config["epochs"], failed, f"{trial.name}: {record.get('reason', '')}")
        trial_id = trial.spec.trial_id
        self.stored += 1
        if self.stored % COMPACT_EVERY == 0:
            self.store.compact()
        self.tracker.trial_finished(view_of(trial, self.study), record, lambda: TrialStore(self.store.url).history(trial_id))

    def aborted(self, trial: PlannedTrial) -> None:
        self.view.aborted(trial.spec.trial_id)

    def tick(self) -> None:
        self.view.tick()


def view_of(trial: PlannedTrial, study: str) -> TrialView:
    """How a trial looks in MLflow."""
    factors = {name: str(value) for name, value in trial.factors.items() if value is not None}
    return TrialView(
        trial_id=trial.spec.trial_id,
        name=trial.name,
        tables=trial.tables,
        tags={"study": study, "cell_id": trial.spec.cell_id, "seed": str(trial.spec.seed), **factors},
        params={**trial.spec.config, "seed": trial.spec.seed},
    )


@contextmanager
def terminable(*, die_with_parent: bool) -> Iterator[None]:
    """Turn SIGTERM into the same clean end as Ctrl-C; and, where asked for, the death of the parent process as well.

    `dvc` killed by a signal leaves its stage running as an orphan, which would go on training beside the next run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    previous = signal.signal(signal.SIGTERM, interrupt)
    parent, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if die_with_parent:
        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, previous)


def write_outcomes(outcome: Outcome, path: Path) -> None:
    """Write what DVC tracks of a run: state and digest of each record, and its MLflow run."""
    trials = {trial_id: {**entry, "run_id": outcome.run_ids.get(trial_id)} for trial_id, entry in sorted(outcome.digests.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"trials": trials}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
