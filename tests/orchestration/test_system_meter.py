"""Load of the process that trains: measured right, kept in the history, and no part of what a trial gives."""

from __future__ import annotations

import itertools
import mmap
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.analysis.collect import collect
from pipeline.orchestration.execution import Context, Worker
from pipeline.orchestration.outcome import Outcome
from pipeline.orchestration.planning import PlannedTrial, write_plan
from pipeline.orchestration.system_meter import SystemMeter
from pipeline.store.records import Record
from tests.orchestration.aged import Project, make_trained

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CPU = ["system_cpu_percent", "system_memory_bytes"]


@pytest.fixture(name="project", scope="module")
def project_fixture(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with four trained trials; not to be changed."""
    return make_trained(tmp_path_factory.mktemp("trained") / "project")


@pytest.fixture(name="trial")
def trial_fixture(project: Project) -> PlannedTrial:
    """One of them: 2 epochs of 2 steps."""
    return next(iter(project.plan().trials.values()))


@pytest.fixture(name="context")
def context_fixture(project: Project, tmp_path: Path) -> Context:
    """Runs it again, into an empty store, with a checkpoint after each step."""
    return Context(str(tmp_path / "store"), "none", str(project.root / "data/prepared"), "cpu", threads=1, checkpoint_s=0.0)


def test_time_on_the_cpu_since_the_last_sample() -> None:
    """100 for one core that is kept busy, next to nothing for a process that sleeps; the system counts in ticks of 10 ms."""
    meter = SystemMeter(CPU)
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() < used + 0.3:
        pass
    busy, wall = meter.sample()["system_cpu_percent"], time.perf_counter() - began
    assert busy == pytest.approx(100 * 0.3 / wall, abs=100 * 0.03 / wall)
    time.sleep(0.3)
    assert meter.sample()["system_cpu_percent"] < 20


def test_memory_of_the_process() -> None:
    """64 MB that are written to are 64 MB more; in bytes, at most the peak that the system tells of."""
    meter = SystemMeter(CPU)
    before = meter.sample()["system_memory_bytes"]
    with mmap.mmap(-1, 64 * 2**20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        after = meter.sample()["system_memory_bytes"]
    assert after - before == pytest.approx(64 * 2**20, rel=0.05)
    assert list(meter.sample()) == ON_CPU
    assert isinstance(after, int)
    assert after <= (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1024) * 1024


def test_a_gpu_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch holds, and its utilization where somebody tells: an error of the driver's library costs the column only."""

    def unsupported(device: torch.device) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: {CUDA: 2**30}[device])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: {CUDA: 83}[device])
    sample = SystemMeter(CUDA).sample()
    assert list(sample) == [*ON_CPU, "system_gpu_memory_bytes", "system_gpu_utilization"]
    assert (sample["system_gpu_memory_bytes"], sample["system_gpu_utilization"]) == (2**30, 83.0)
    assert isinstance(sample["system_gpu_utilization"], float)
    monkeypatch.setattr(torch.cuda, "utilization", unsupported)
    assert list(SystemMeter(CUDA).sample()) == [*ON_CPU, "system_gpu_memory_bytes"]


def test_every_epoch_in_the_store_has_a_sample(project: Project, tmp_path: Path) -> None:
    """In the history of the store and of the results; not in records, and not in the digests that DVC sees."""
    plan, store = project.plan(), project.store
    records = store.records()
    for trial_id in plan.trials:
        rows = store.history(trial_id)
        assert [row["epoch"] for row in rows] == [1, 2]
        assert all(row["system_memory_bytes"] > 2**20 and row["system_cpu_percent"] >= 0 for row in rows)
        assert [key for key in rows[0] if key.startswith("system_")] == ON_CPU
    write_plan(plan, tmp_path)
    results = collect(tmp_path / "trials.parquet", store, {})
    assert results.history.num_rows == 8
    assert not any(results.history[column].null_count for column in ON_CPU)
    assert not [name for name in results.trials.column_names if name.startswith("system_")]
    assert not [key for record in records.values() for key in record if "system_" in key]
    without = {trial_id: Record(record, [{"epoch": 1}]) for trial_id, record in records.items()}
    sampled = {trial_id: Record(record, store.history(trial_id)) for trial_id, record in records.items()}
    assert Outcome.of(plan, sampled, 0).digests == Outcome.of(plan, without, 0).digests == Outcome.of(plan, records, 0).digests


def test_earlier_samples_outlive_an_interruption(trial: PlannedTrial, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continued from a checkpoint, the first epoch keeps the sample of the process that is gone; listeners are told of samples too."""
    count = itertools.count(1)
    monkeypatch.setattr(SystemMeter, "__init__", lambda self, device: None)
    monkeypatch.setattr(SystemMeter, "sample", lambda self: {"system_memory_bytes": next(count)})
    told: list[dict[str, Any]] = []

    def stop_at_two(row: dict[str, Any]) -> None:
        told.append(dict(row))
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(context).execute(trial, stop_at_two)
    worker = Worker(context)
    record = worker.execute(trial, lambda row: None)
    assert record["resumed"] == 1
    assert [row["system_memory_bytes"] for row in told] == [1, 2]
    assert [row["system_memory_bytes"] for row in record.history] == [1, 3]
    assert [row["system_memory_bytes"] for row in worker.store.history(trial.spec.trial_id)] == [1, 3]
