"""Run trials on Ray Tune: a local Ray by default, the cluster at RAY_ADDRESS when that is set.

Ray is a disposable executor over a list of missing trials. Workers write each record to the store the moment a trial ends, so a lost
driver loses no finished trial; what comes back through Tune is only for people to watch.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib

from pipeline.errors import ClusterError, PipelineError, StoreError
from pipeline.orchestration.execution import Context, Listener, Worker
from pipeline.orchestration.planning import PlannedTrial
from pipeline.store.records import Record
from pipeline.study.params import Resources

OBJECT_STORE_BYTES = 256 * 2**20  # the plan is small and images are memory-mapped; Ray's own default is a third of the RAM
LOST_WORKER_RETRIES = 3
KNOCK_S = 5.0
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # else five files a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else fit() returns normally after Ctrl-C, with trials cut short
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the store is the truth; Tune's own snapshots are never restored
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_WARN_THRESHOLD_S": "60",
}


def run_on_ray(trials: Sequence[PlannedTrial], context: Context, resources: Resources, listener: Listener) -> None:
    """Run the trials as Tune trials on reused actors; returns when all have ended.

    Raises:
        ClusterError: Ray cannot be reached, or cannot ever offer what a trial asks for.
        StoreError: a worker could not read its data or store its record.
        KeyboardInterrupt: Ctrl-C; workers are stopped, the store is whole.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Read when ray is imported. Without a mode Ray turns token authentication on and leaves a token file in the home directory.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray import tune

    on_sigterm = signal.getsignal(signal.SIGTERM)
    _connect(ray, address, context, resources)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which dumps a stack and aborts
    scratch = tempfile.mkdtemp(prefix="ablate-tune-")
    try:
        per_trial = {"CPU": float(context.threads)}
        if context.device == "cuda":
            per_trial["GPU"] = resources.gpus_per_trial
        _check_capacity(ray.cluster_resources(), per_trial, address)
        watcher = _make_watcher(tune, listener)
        trainable = tune.with_resources(tune.with_parameters(_trainable, context=context), per_trial)
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search([trial.to_json() for trial in trials])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=resources.max_concurrent,
                reuse_actors=True,
                trial_name_creator=_tune_name,
                trial_dirname_creator=_tune_name,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(Path(scratch).absolute()),
                verbose=0,
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=LOST_WORKER_RETRIES),
            ),
        )
        # It looks for the result files of each trial, which are switched off above on purpose.
        logging.getLogger("ray.tune.analysis.experiment_analysis").disabled = True
        grid = tuner.fit()
        if watcher.last_error:
            raise StoreError(watcher.last_error)
        errors = [str(error).strip().splitlines()[-1] for error in grid.errors]
        if errors and watcher.num_finished == 0:
            raise ClusterError(f"Every trial's worker was lost. The last thing Ray said: {errors[-1]}")
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _connect(ray: Any, address: str | None, context: Context, resources: Resources) -> None:
    common = {"include_dashboard": False, "log_to_driver": False, "logging_level": "WARNING", "configure_logging": True}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **{key: common[key] for key in ("log_to_driver", "logging_level")})
            return
        slots = joblib.cpu_count() // context.threads or 1
        if resources.max_concurrent:
            slots = min(slots, resources.max_concurrent)
        gpus: dict[str, Any] = {} if context.device == "cuda" else {"num_gpus": 0}
        ray.init(num_cpus=max(slots * context.threads, context.threads), object_store_memory=OBJECT_STORE_BYTES, **gpus, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        if not address:
            raise ClusterError(
                f"Ray cannot start on this machine: {error}. Set resources.executor: serial in params.yaml to do without it."
            ) from error
        raise ClusterError(
            f"No Ray cluster at RAY_ADDRESS={address!r}: {str(error).splitlines()[0]}. Start one (`ray start --head`), correct the address "
            "(host:port, or auto), or unset RAY_ADDRESS to run on this machine."
        ) from error


def _knock(address: str) -> None:
    """Try to reach the cluster's head: Ray itself waits for minutes where nobody listens, and may end the process.

    Raises:
        OSError: nobody listens there.
        ValueError: the address is not of the form host:port.
    """
    place = address.removeprefix("ray://")
    if place in ("auto", "local"):
        return
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("it is not of the form host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _check_capacity(available: dict[str, float], wanted: dict[str, float], address: str | None) -> None:
    """Tune waits for ever for what nobody has."""
    for name, amount in wanted.items():
        if available.get(name, 0.0) < amount:
            place = f"The cluster at {address}" if address else "This machine"
            raise ClusterError(
                f"A trial asks for {amount:g} {name} but {place} has {available.get(name, 0.0):g} in all. Change resources in params.yaml."
            )


def _tune_name(trial: Any) -> str:
    return PlannedTrial.from_json(trial.config["trial"]).spec.trial_id


_worker: dict[Context, Worker] = {}  # actors are reused, and so are their open datasets


def _trainable(config: dict[str, Any], *, context: Context) -> None:
    """Runs in a worker: one trial, its epochs reported, its record already stored when it is reported."""
    from ray import tune

    trial = PlannedTrial.from_json(config["trial"])
    worker = _worker.setdefault(context, Worker(context))
    tune.report({"event": "started"})
    try:
        record = worker.execute(trial, lambda row: tune.report({"event": "epoch", "row": row}))
    except PipelineError as error:
        tune.report({"event": "aborted", "error": f"{type(error).__name__}: {error}"})
        return
    tune.report({"event": "finished", "record": dict(record)})


def _make_watcher(tune: Any, listener: Listener) -> Any:
    """A Tune callback that passes what workers report on to the listener."""

    class Watcher(tune.Callback):  # type: ignore[misc, name-defined]
        def __init__(self, listener: Listener) -> None:
            self.listener, self.num_finished, self.last_error = listener, 0, ""

        def __getstate__(self) -> dict[str, Any]:
            return {}  # the Tuner pickles its callbacks into a snapshot that nobody restores

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            planned = PlannedTrial.from_json(trial.config["trial"])
            event = result.get("event")
            if event == "started":
                self.listener.started(planned)
            elif event == "epoch":
                self.listener.epoch(planned, result["row"])
            elif event == "finished":
                self.num_finished += 1
                self.listener.finished(planned, Record(result["record"]))
            elif event == "aborted":
                self.last_error = f"{planned.name}: {result['error']}"
                self.listener.aborted(planned)

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            self.listener.tick()

    return Watcher(listener)
