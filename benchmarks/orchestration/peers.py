"""The same trials run by others, each way in a process of its own that stands in a project's folder."""

from __future__ import annotations

import functools
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.orchestration.planning import PlannedTrial, open_data
from pipeline.study.spec import TrialSpec
from pipeline.trial import run_trial

SLOTS = 2
OBJECT_STORE_BYTES = 256 * 2**20

Result = dict[str, float]


def run_one(plan: str, prepared: str, index: int) -> Result:
    """`run_trial` and nothing else: when it began and ended (seconds since 1970), and the trial's own seconds."""
    began = time.time()
    torch.set_num_threads(1)
    spec = _specs(plan)[index]
    record = run_trial(spec, data=_images(spec.data_digest, plan, prepared), device="cpu")
    return {"began": began, "ended": time.time(), "seconds": record["time_total_s"]}


def actor_pool(one: Callable[[int], Result], count: int) -> list[Result]:
    """Ray's floor: bare tasks of two actors that are up."""
    ray = _ray()
    from ray.util import ActorPool

    class Bare:
        def run(self, index: int) -> Result:
            return one(index)

        def ready(self) -> None:
            import pipeline.trial  # noqa: F401  # torch, before the clock runs

    actors = [ray.remote(Bare).options(num_cpus=1).remote() for _ in range(SLOTS)]
    ray.get([actor.ready.remote() for actor in actors])
    return list(ActorPool(actors).map_unordered(lambda actor, index: actor.run.remote(index), list(range(count))))


def tuner(one: Callable[[int], Result], count: int, *, reuse_actors: bool) -> list[Result]:
    """Ray Tune as its tutorial has it, but for one CPU a trial and the place of its files."""
    _ray()
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        tune.report(one(config["index"]))

    fitted = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(count)))},
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
        run_config=tune.RunConfig(name=f"grid-{secrets.token_hex(3)}", storage_path=str(Path("tune").absolute())),
    ).fit()
    return [{key: result.metrics[key] for key in ("began", "ended", "seconds")} for result in fitted]


def brute_force(one: Callable[[int], Result], count: int) -> list[Result]:
    """Optuna's loop over a grid, in this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = []

    def objective(trial: optuna.Trial) -> float:
        results.append(one(trial.suggest_int("index", 0, count - 1)))
        return results[-1]["seconds"]

    optuna.create_study(sampler=optuna.samplers.BruteForceSampler()).optimize(objective, n_trials=count, n_jobs=1)
    return results


PEERS: dict[str, Callable[[Callable[[int], Result], int], list[Result]]] = {
    "actor_pool": actor_pool,
    "tuner": functools.partial(tuner, reuse_actors=False),
    "tuner_reuse": functools.partial(tuner, reuse_actors=True),
    "brute_force": brute_force,
}


@functools.cache
def _specs(plan: str) -> list[TrialSpec]:
    return [PlannedTrial.from_json(line).spec for line in Path(plan).read_text(encoding="utf-8").splitlines()]


@functools.cache
def _images(digest: str, plan: str, prepared: str) -> Any:
    return open_data(next(spec for spec in _specs(plan) if spec.data_digest == digest), Path(prepared))


def _ray() -> Any:
    """Ray on this machine, guarded by a token as `ablate run` guards it."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    ray.init(num_cpus=SLOTS, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_STORE_BYTES)
    return ray


def main() -> None:
    """Command line NAME PLAN COUNT RESULT: PLAN holds a trial a line, RESULT becomes a JSON list of what `run_one` gave."""
    name, plan, count, result = sys.argv[1:]
    one = functools.partial(run_one, str(Path(plan).absolute()), str(Path("data/prepared").absolute()))
    Path(result).write_text(json.dumps(PEERS[name](one, int(count))), encoding="utf-8")
