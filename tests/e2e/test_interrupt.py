"""Killing and interrupting a study in the middle: nothing finished is lost, nothing is trained twice, nothing half is cached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pyarrow.parquet as pq
import pytest

from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
TRIALS = 6


def stored(project: Project) -> Counter[str]:
    """How many records each trial has in the store."""
    files = sorted((project.folder / "store/segments").glob("[0-9]*.records.parquet"))
    return Counter(trial_id for file in files for trial_id in pq.read_table(file, columns=["trial_id"])["trial_id"].to_pylist())


def wait_for_records(project: Project, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 180
    while sum(stored(project).values()) < count:
        assert process.poll() is None, f"ended early:\n{(project.folder / 'started.log').read_text()}"
        assert time.monotonic() < deadline, f"no {count} records in time:\n{(project.folder / 'started.log').read_text()}"
        time.sleep(0.2)


def left_over(project: Project, patience: float = 30) -> list[str]:
    """Processes that still run in the project's folder or with its code, after a moment to end."""
    deadline = time.monotonic() + patience
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PYTHONPATH") == str(project.folder):
                    found.append(" ".join(process.cmdline())[:120])
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.fixture
def long_study(project: Project) -> Project:
    """Six trials of a few seconds each."""
    project.write_study(seeds=3)
    file = project.folder / "studies/tiny.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 25"), encoding="utf-8")
    return project


def test_sigkill_of_the_driver_loses_and_repeats_nothing(long_study: Project) -> None:
    """After SIGKILL of everything in the middle, repro ends with each trial stored exactly once."""
    process = long_study.start("dvc", "repro")
    wait_for_records(long_study, process, 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = stored(long_study)
    assert not left_over(long_study)
    done = long_study.run("dvc", "repro")
    assert f"({TRIALS - len(before)} trained now)" in done.stdout
    after = stored(long_study)
    assert set(after.values()) == {1}
    assert len(after) == TRIALS


@pytest.mark.cluster
def test_ctrl_c_during_repro_on_ray_caches_nothing_and_leaves_no_process(long_study: Project) -> None:
    """Ctrl-C during a Ray run ends non-zero, with no outcome, no cache entry and no process; repro then continues."""
    long_study.set_param("executor: serial", "executor: ray")
    process = long_study.start("dvc", "repro")
    wait_for_records(long_study, process, 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert not left_over(long_study)
    assert not (long_study.folder / "results/outcomes.json").exists()
    assert "  run:" not in (long_study.folder / "dvc.lock").read_text(encoding="utf-8")
    before = stored(long_study)
    assert 1 <= len(before) < TRIALS
    long_study.set_param("executor: ray", "executor: serial")
    done = long_study.run("dvc", "repro")
    assert f"({TRIALS - len(before)} trained now)" in done.stdout
    after = stored(long_study)
    assert len(after) == TRIALS
    assert set(after.values()) == {1}


def test_sigterm_ends_a_run_as_cleanly_as_ctrl_c(long_study: Project) -> None:
    """SIGTERM to `ablate run` on Ray: status 130, a word on how to continue, whole records, no process left."""
    long_study.set_param("executor: serial", "executor: ray")
    process = long_study.start(sys.executable, "-m", "pipeline", "run")
    wait_for_records(long_study, process, 1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "run the same command again" in (long_study.folder / "started.log").read_text(encoding="utf-8")
    assert not left_over(long_study)
    assert set(stored(long_study).values()) == {1}


def test_a_stage_whose_dvc_was_killed_stops_by_itself(long_study: Project) -> None:
    """SIGKILL of `dvc` alone does not leave its stage training as an orphan."""
    process = long_study.start("dvc", "repro")
    wait_for_records(long_study, process, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not left_over(long_study)
    assert not (long_study.folder / "results/outcomes.json").exists()
