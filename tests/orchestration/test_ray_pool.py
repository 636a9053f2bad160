"""The pool on a real Ray that believes in a GPU: shares by measured memory, more after memory runs out, all at once and never too many.

Only the worker is a stand-in, as there is no GPU to train on: it notes when it is busy and answers as a trial would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.orchestration.execution import Context
from pipeline.orchestration.planning import PlannedTrial
from pipeline.orchestration.ray_pool import Needs, Pool
from pipeline.orchestration.ray_session import SETTINGS
from pipeline.store.records import Record
from pipeline.study.params import Resources
from pipeline.study.spec import TrialSpec

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(180)]
GIB = 2**30


class StandIn:
    """Notes when it is busy, with which share; a trial named 'hungry' runs out of memory below a whole GPU."""

    def __init__(self, context: Context, memory: float) -> None:
        self.log, self.memory = Path(context.store_url), memory

    def come_up(self, token: str, text: str | None) -> dict[str, Any]:
        """As a worker does."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), "host": "here", "pid": 1, "sees_store": True}

    def run(self, text: str) -> Iterator[list[dict[str, Any]]]:
        """A trial of a tenth of a second."""
        import ray

        trial = PlannedTrial.from_json(text)
        yield [{"event": "started"}]
        resources = ray.get_runtime_context().get_assigned_resources()
        line = {"name": trial.name, "share": resources["GPU"], "from": time.time(), "memory": self.memory}
        time.sleep(0.2)
        line["to"] = time.time()
        (self.log / f"{trial.name}-{time.time_ns()}.json").write_text(json.dumps(line), encoding="utf-8")
        record: dict[str, Any] = {"trial_id": trial.spec.trial_id, "state": "complete", "failure": "", "reason": ""}
        if trial.name == "hungry" and resources["GPU"] < 1:
            record |= {"state": "failed", "failure": "out_of_memory", "reason": "OutOfMemoryError: it is full"}
        yield [{"event": "finished", "record": record, "history": []}]


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.again: list[str] = []

    def finished(self, trial: PlannedTrial, record: Record) -> None:
        """Keep it."""
        self.records[trial.name] = record

    def requeued(self, trial: PlannedTrial, why: str) -> None:
        """Keep it."""
        self.again.append(f"{trial.name}: {why}")

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def trial(name: str) -> PlannedTrial:
    return PlannedTrial(TrialSpec(name, "cell", {}, 0, "digest", "code"), name, ("t",), None, {})


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with a GPU, as far as it knows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        import ray

        ray.init(num_cpus=8, num_gpus=1, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


def run(ray: Any, log: Path, names: list[str], peaks: dict[str, int], **resources: Any) -> tuple[Heard, list[dict[str, Any]]]:
    """The trials through a pool on GPUs of 16 GiB; what was heard, and who was busy when."""
    heard = Heard()
    context = Context(str(log), "none", "", "cuda", 1)
    needs = Needs(lambda t: 1.0, lambda t: peaks.get(t.name))
    pool = Pool(ray, context, Resources(**resources), heard, "token", needs, worker=StandIn, gpu_bytes=16 * GIB)
    try:
        pool.run([trial(name) for name in names])
    finally:
        pool.close()
    return heard, [json.loads(path.read_text(encoding="utf-8")) for path in sorted(log.glob("*.json"))]


def most_at_once(busy: list[dict[str, Any]]) -> float:
    """The largest sum of shares that were busy at any time."""
    return max(sum(other["share"] for other in busy if other["from"] <= line["from"] < other["to"]) for line in busy)


def test_small_trials_share_a_gpu_and_big_ones_do_not(ray: Any, tmp_path: Path) -> None:
    """Peaks of 2.5 GiB give a quarter of 16 GiB, 10 GiB and nothing known give all of it; the GPU is never given away twice."""
    names = [f"small{i}" for i in range(6)] + ["big", "unknown"]
    peaks = {name: 5 * GIB // 2 if name.startswith("small") else 10 * GIB for name in names if name != "unknown"}
    heard, busy = run(ray, tmp_path, names, peaks, gpu_packing=True)
    assert heard.records.keys() == set(names)
    shares = {line["name"]: line["share"] for line in busy}
    assert {share for name, share in shares.items() if name.startswith("small")} == {0.25}
    assert [shares[name] for name in ("big", "unknown")] == [1.0, 1.0]
    assert most_at_once(busy) <= 1.0 + 1e-9
    assert all(line["memory"] == 1.0 or line["memory"] * 16 * GIB >= 2.5 * GIB for line in busy)


def test_a_trial_out_of_memory_is_given_more_of_the_gpu(ray: Any, tmp_path: Path) -> None:
    """A quarter, a half, the whole; the other trials are not touched."""
    heard, busy = run(ray, tmp_path, ["hungry", "a", "b"], {}, gpus_per_trial=0.25, max_attempts=5)
    assert [line["share"] for line in busy if line["name"] == "hungry"] == [0.25, 0.5, 1.0]
    assert [heard.records[name]["state"] for name in ("hungry", "a", "b")] == ["complete"] * 3
    assert len(heard.again) == 2
    assert "with 0.5 of a GPU" in heard.again[0]


def test_a_trial_that_never_fits_is_given_up(ray: Any, tmp_path: Path) -> None:
    """After `max_attempts` starts its failure is what it ends with."""
    heard, busy = run(ray, tmp_path, ["hungry"], {}, gpus_per_trial=0.25, max_attempts=2)
    assert len(busy) == 2
    assert heard.records["hungry"]["failure"] == "out_of_memory"
