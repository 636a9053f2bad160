"""Run a study: train what is missing, mirror it, and say what became of each trial."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.driver import Driver, view_of
from pipeline.orchestration.events import EventLog
from pipeline.orchestration.execution import Context
from pipeline.orchestration.forecast import Forecast
from pipeline.orchestration.mirror.mirrored import remember_runs, remembered_runs
from pipeline.orchestration.mirror.tracker import NullTracker, open_tracker
from pipeline.orchestration.outcome import Outcome
from pipeline.orchestration.outlook import learned
from pipeline.orchestration.planning import Plan, PlannedTrial, check_code, missing
from pipeline.orchestration.preparing import prepare_components
from pipeline.orchestration.progress import ProgressView, warn
from pipeline.orchestration.provenance import origin
from pipeline.orchestration.serial import run_serial
from pipeline.orchestration.slots import device_of, slots_of
from pipeline.orchestration.terminable import terminable
from pipeline.store.claims import Claims
from pipeline.store.keep_alive import KeepAlive
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.plugins import plugin_folders
from pipeline.study.project import absolute_url


def run_plan(
    plan: Plan,
    params: Params,
    *,
    only: Sequence[str] | None = None,
    again: bool = False,
    die_with_parent: bool = False,
    log: Callable[[str], None] = warn,
) -> Outcome:
    """Train every trial of the plan that the store lacks. Several of these may work on one store: each trial is trained once.

    Args:
        plan: what to run.
        params: resources, store, tracking.
        only: restrict to these trial ids.
        again: run also what failed by a bug; such a trial is otherwise left until its code changes. Trials under `only` always are.
        die_with_parent: stop cleanly when the process that started this one is gone.
        log: receives warnings.

    Raises:
        StoreError, DataError, ClusterError, ConfigError: nothing can be run; what is stored stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished trials are stored, nothing is left running.
    """
    store = TrialStore(absolute_url(params.store.url))
    records = store.records()
    todo = [trial for trial in missing(plan, records, again=again or only is not None) if only is None or trial.spec.trial_id in only]
    todo = [
        replace(trial, attempt=records[trial.spec.trial_id].get("attempt", 0) + 1) if trial.spec.trial_id in records else trial
        for trial in todo
    ]
    todo_ids = {trial.spec.trial_id for trial in todo}
    if todo:
        if params.resources.executor == "serial" and os.environ.get("RAY_ADDRESS"):
            log("RAY_ADDRESS is set, but resources.executor is serial in params.yaml: trials run on this machine.")
        store.check_writable()
        check_code(todo)
        prepare_components(plan.datasets, params, log)
    stored = {trial_id: records[trial_id] for trial_id in plan.trials if trial_id in records and trial_id not in todo_ids}
    known = None if todo else remembered_runs(params.tracking, plan.study, stored)
    if known is not None:  # nothing to train and nothing to mirror: MLflow, which takes seconds to import, is left alone
        outcome = Outcome.of(plan, records, 0)
        outcome.run_ids = known
        return outcome
    prepared = Path(params.data.prepared)
    with terminable(die_with_parent=die_with_parent), open_tracker(params.tracking, plan.study, log) as tracker:
        tracker.sync(
            (view_of(plan.trials[trial_id], plan.study, prepared), record, lambda trial_id=trial_id: store.history(trial_id))  # type: ignore[misc]
            for trial_id, record in stored.items()
        )
        trained = 0
        if todo:
            trained = _train(todo, plan, params, records, tracker, store)
            store.compact()
            records = store.records()
        outcome = Outcome.of(plan, records, trained)
        outcome.run_ids = tracker.run_ids()
    remember_runs(params.tracking, plan.study, {t: records[t] for t in plan.trials if t in records}, outcome.run_ids)
    return outcome


def _train(
    todo: list[PlannedTrial], plan: Plan, params: Params, records: Mapping[str, Record], tracker: NullTracker, store: TrialStore
) -> int:
    """Run the trials; returns how many were run here."""
    run = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
    device = _device(params)
    costs, _ = learned(plan, todo, records, params, probe=False)
    forecast = Forecast([trial.spec for trial in todo], costs, slots_of(params.resources))
    study = plan.study
    claims = Claims(store, run, params.store.lease_s)
    claims.take(run)  # of the run itself: by it others see that it is there, and nodes that they see the store
    try:
        with (
            EventLog(study, run) as events,
            KeepAlive(claims, every_s=params.store.lease_s / 4) as alive,
            ProgressView(len(todo), sum(trial.spec.config["epochs"] for trial in todo), forecast) as view,
        ):
            events.write("run_started", study=study, trials=len(todo), device=device, store=params.store.url)
            driver = Driver(study, view, tracker, store, costs, events, alive, Path(params.data.prepared))
            alive.note(run, study=study, trials=len(todo))
            alive.beat()
            try:
                _execute(todo, params, run, device, driver, costs)
            finally:
                driver.counters.write(now=True)
            return driver.trained
    finally:
        claims.release(run)


def _execute(todo: list[PlannedTrial], params: Params, run: str, device: str, driver: Driver, costs: CostModel) -> None:
    context = Context(
        store_url=absolute_url(params.store.url),
        weights=params.store.weights,
        prepared=str(Path(params.data.prepared).absolute()),
        device=device,
        threads=params.resources.cpus_per_trial,
        plugin_folders=plugin_folders(),
        owner=run,
        lease_s=params.store.lease_s,
        checkpoint_s=params.store.checkpoint_s,
        origin=origin(driver.study),
    )
    if params.resources.executor == "serial":
        run_serial(todo, context, driver)
    else:
        from pipeline.orchestration.ray_pool import Needs, run_on_ray

        needs = Needs(lambda trial: costs.seconds(trial.spec).seconds or 0.0, lambda trial: costs.peak_bytes(trial.spec))
        run_on_ray(todo, context, params.resources, driver, token=run, needs=needs)


def _device(params: Params) -> str:
    import torch

    if params.resources.device == "cuda" and not torch.cuda.is_available() and not os.environ.get("RAY_ADDRESS"):
        raise PipelineError("resources.device is cuda in params.yaml but torch sees no CUDA device here. Set it to auto or cpu.")
    return device_of(params.resources)
