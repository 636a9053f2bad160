"""A search on Ray Tune: one `Tuner.fit` for all arms, on reused actors, here or on the cluster at RAY_ADDRESS.

Tune asks for points, runs them and reports epochs; what to try next and what to give up is decided by the engine, in the driver. The
worker stores each point's record before it reports the end, so a lost driver loses no finished point.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.errors import ClusterError, PipelineError, PrunedError, StoreError
from pipeline.orchestration.execution import Context, TakenError
from pipeline.orchestration.planning import PlannedTrial
from pipeline.orchestration.ray_session import alive_nodes, check_capacity, ray_session
from pipeline.orchestration.ray_worker import TrialWorker, files_of
from pipeline.orchestration.search.engine import Job, Search
from pipeline.orchestration.search.listening import SearchView
from pipeline.orchestration.search.referee import Referee
from pipeline.store.records import Record
from pipeline.study.params import Resources

NODES_EVERY_S = 2.0
LOOK_AGAIN_S = 2.0
MANY = 10**9  # Tune wants a number of samples; the budget ends a search


def search_on_ray(search: Search, context: Context, resources: Resources, view: SearchView) -> None:
    """Train points on Ray Tune until the search is over.

    Raises:
        ClusterError: Ray cannot be reached, cannot ever offer what a point asks for, or lost every worker.
        StoreError: a worker could not read its data or store its record.
        KeyboardInterrupt: Ctrl-C; workers are stopped, the store is whole.
    """
    # One at a time: Tune asks for this many points ahead of free workers, and a sampler should know all results there are.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    with ray_session(context, resources) as ray:
        from ray import tune

        share = {"CPU": float(context.threads)} | ({"GPU": resources.gpus_per_trial} if context.device == "cuda" else {})
        check_capacity(ray, share, resources.wait_s)
        referee = _start_referee(ray)
        slots = _Slots(ray, share, resources.max_concurrent)
        asking, deciding, watching = _make_parts(tune, search, slots, view, lambda key, why: ray.get(referee.stop.remote(key, why)))
        trainable = tune.with_parameters(_trainable, context=context, referee=referee, files=_files(search, context), share=share)
        scratch = tempfile.mkdtemp(prefix="ablate-search-")
        try:
            tuner = tune.Tuner(
                tune.with_resources(trainable, share),
                tune_config=tune.TuneConfig(
                    search_alg=asking,
                    scheduler=deciding,
                    num_samples=MANY,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=str(Path(scratch).absolute()),
                    verbose=0,
                    callbacks=[watching],
                    failure_config=tune.FailureConfig(max_failures=max(0, resources.max_attempts - 1)),
                ),
            )
            # It looks for the result files of each trial, which are switched off on purpose.
            logging.getLogger("ray.tune.analysis.experiment_analysis").disabled = True
            grid = tuner.fit()
            if watching.problem:
                raise StoreError(watching.problem)
            errors = [str(error).strip().splitlines()[-1] for error in grid.errors]
            if errors and not watching.num_finished:
                raise ClusterError(f"Every point's worker was lost. The last thing Ray said: {errors[-1]}")
        finally:
            ray.kill(referee)
            shutil.rmtree(scratch, ignore_errors=True)


def _start_referee(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Referee).options(num_cpus=0, scheduling_strategy=here).remote()


def _files(search: Search, context: Context) -> dict[str, dict[str, bytes]]:
    """On a cluster: digest -> files of each prepared dataset, for nodes that do not see it. Tune puts them into the object store once."""
    if not os.environ.get("RAY_ADDRESS"):
        return {}
    prepared = Path(context.prepared)
    found: dict[str, dict[str, bytes]] = {}
    for arm in search.arms.values():
        component = arm.plan.dataset
        found.setdefault(arm.plan.data_digest, files_of(data.folder(component, prepared)))
    return found


class _Slots:
    """How many points may run at a time; nodes come and go."""

    def __init__(self, ray: Any, share: dict[str, float], most: int | None) -> None:
        self.ray, self.share, self.most = ray, share, most
        self._looked, self._count = float("-inf"), 1

    def count(self) -> int:
        if time.monotonic() - self._looked > NODES_EVERY_S:
            self._looked = time.monotonic()
            nodes = alive_nodes(self.ray).values()
            room = sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in self.share.items()) for node in nodes)
            self._count = max(1, min(room, self.most or room))
        return self._count


def _make_parts(tune: Any, search: Search, slots: _Slots, view: SearchView, stop: Any) -> tuple[Any, Any, Any]:
    """A Tune searcher, scheduler and callback that pass everything on to the engine."""
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    jobs: dict[str, Job] = {}

    class Asking(Searcher):  # type: ignore[misc]
        """Gives Tune the engine's next point."""

        def __reduce__(self) -> Any:
            return object, ()  # Tune pickles it into a snapshot that nobody restores

        def suggest(self, trial_id: str) -> Any:
            if watching.problem or (search.is_over and not search.num_running):
                return Searcher.FINISHED
            if search.num_running >= slots.count():
                return None
            job = search.next()
            if job is None:
                return Searcher.FINISHED if search.is_over and not search.num_running else None
            jobs[trial_id] = job
            return {"key": job.key, "trial": job.trial.to_json()}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            job = jobs.pop(trial_id, None)
            if job is not None and error:
                search.lost(job)

        def save(self, checkpoint_path: str) -> None:
            """Optuna's storage and the trial store are the truth."""

        def restore(self, checkpoint_path: str) -> None:
            """Never done."""

    class Deciding(FIFOScheduler):  # type: ignore[misc]
        """Decides after each epoch whether the next one starts; the worker asks the referee for the answer."""

        def __reduce__(self) -> Any:
            return object, ()

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            job = jobs.get(trial.trial_id)
            if result.get("event") == "epoch" and job is not None:
                row = {key.removeprefix("row/"): value for key, value in result.items() if key.startswith("row/")}
                if verdict := search.epoch(job, row):
                    stop(job.key, verdict)
            return str(FIFOScheduler.CONTINUE)

    class Watching(tune.Callback):  # type: ignore[misc, name-defined]
        """Hears what workers report."""

        def __init__(self) -> None:
            self.num_finished, self.problem = 0, ""

        def __reduce__(self) -> Any:
            return object, ()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            job, event = jobs.get(trial.trial_id), result.get("event")
            if job is None:
                return
            if event == "epoch":
                view.epoch()
            elif event == "finished":
                record = Record(result["record"], result["history"])
                self.num_finished += 1
                del jobs[trial.trial_id]
                search.finished(job, record)
                view.finished(job, record)
            elif event == "aborted":
                self.problem = f"{job.trial.name}: {result['error']}"
                del jobs[trial.trial_id]
                search.lost(job)

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if (job := jobs.get(trial.trial_id)) is not None:
                view.again(job, "its worker was lost; from its last checkpoint if it has one")

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            view.tick()

    watching = Watching()
    return Asking(), Deciding(), watching


_worker: dict[Context, TrialWorker] = {}  # actors are reused, and so are their open datasets


def _trainable(
    config: dict[str, Any], *, context: Context, referee: Any, files: dict[str, dict[str, bytes]], share: dict[str, float]
) -> None:
    """Runs in a worker: one point, its epochs reported, its record already stored when it is reported."""
    import ray
    from ray import tune

    trial, key = PlannedTrial.from_json(config["trial"]), config["key"]
    worker = _worker.setdefault(context, TrialWorker(context, share.get("GPU", 1.0)))

    def on_epoch(row: dict[str, Any]) -> None:
        tune.report({"event": "epoch", "row": row})
        if why := ray.get(referee.verdict.remote(key)):
            raise PrunedError(why)

    try:
        if trial.spec.data_digest in files and not worker.has_data(config["trial"]):
            worker.put_data(config["trial"], files[trial.spec.data_digest])
        record = _execute(worker, trial, on_epoch)
    except PipelineError as error:
        tune.report({"event": "aborted", "error": f"{type(error).__name__}: {error}"})
        return
    tune.report({"event": "finished", "record": dict(record), "history": record.history})


def _execute(worker: TrialWorker, trial: PlannedTrial, on_epoch: Any) -> Record:
    while True:
        try:
            return worker.worker.execute(trial, on_epoch)
        except TakenError:  # another run is at it; it will be found in the store, or free again
            time.sleep(LOOK_AGAIN_S)
