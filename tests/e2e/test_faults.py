"""What can go wrong with a trial, done to real trials on real workers: the others do not notice, and each fault has its own end."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from tests.chaos.storm import stored_times
from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
STUDY = """\
study: tiny
seeds: {seeds}
plugins: [faulty]
defaults:
  dataset: {{name: cluttered_digits, canvas: 16, num_train: 96, num_val: 40, num_test: 60, clutter: 1}}
  backbone: resnet8
  epochs: {epochs}
  batch_size: 32
  optimizer: {{lr: 0.05}}
tables:
  faults:
    rows: {{regularizers: {levels}}}
    columns: {{metric: [acc_top1]}}
"""
LEVELS = [
    "none",
    "kills_its_process",
    "has_a_bug",
    "leaves",
    "eats_memory",
    "blows_up",
]


def declare(project: Project, levels: list[object], *, epochs: int = 2, seeds: int = 1, executor: str = "ray") -> None:
    shutil.copy(Path(__file__).with_name("faulty.py"), project.folder / "plugins/faulty.py")
    text = STUDY.format(levels=json.dumps(levels), epochs=epochs, seeds=seeds)
    (project.folder / "studies/tiny.yaml").write_text(text, encoding="utf-8")
    if executor == "ray":
        project.set_param("executor: serial", "executor: ray")
    project.set_param("uri: sqlite:///mlflow.db", "uri: null")


def by_regularizer(project: Project) -> dict[str, Record]:
    return {record["name"].split(" · ")[1].split("(")[0]: record for record in TrialStore(project.folder / "store").records().values()}


def events(project: Project) -> list[dict[str, object]]:
    lines = (project.folder / "logs/tiny.events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.cluster
def test_every_kind_of_failure_has_its_own_end(project: Project, tmp_path: Path) -> None:
    """Lost, out of memory, bug and diverged are told apart; a process killed once is resumed; nothing else is touched."""
    once = {"kills_its_process": {"once": str(tmp_path / "once"), "at_step": 5}}
    declare(project, [*LEVELS, once], epochs=6)
    project.set_param("checkpoint_s: 120.0", "checkpoint_s: 0.001")
    done = project.ablate("run", check=1)
    records = by_regularizer(project)
    flapping = next(
        r for r in TrialStore(project.folder / "store").records().values() if r["name"].startswith("resnet8 · kills_its_process · ")
    )
    resumed = next(r for r in TrialStore(project.folder / "store").records().values() if "once=" in r["name"])
    assert records["none"]["state"] == "complete"
    assert (flapping["failure"], flapping["attempt"]) == ("lost", 3)
    assert "given up after 3 attempts" in flapping["reason"]
    assert resumed["state"] == "complete"
    assert resumed["resumed"] == 1
    assert records["has_a_bug"]["failure"] == "error"
    assert (records["leaves"]["failure"], records["leaves"]["reason"]) == ("error", "SystemExit: 0")
    assert records["eats_memory"]["failure"] == "out_of_memory"
    assert records["eats_memory"]["attempt"] == 2
    assert records["blows_up"]["failure"] == "diverged"
    traceback = project.folder / f"logs/failures/{records['has_a_bug']['trial_id']}.txt"
    assert "faulty.py" in traceback.read_text(encoding="utf-8")
    assert f"rerun: ablate run --study tiny --trial {records['has_a_bug']['trial_id']}" in traceback.read_text(encoding="utf-8")
    assert "while nothing else runs" in done.stderr
    requeued = [event for event in events(project) if event["event"] == "trial_requeued"]
    assert len(requeued) == 4  # twice the flapping one, once the one killed once, once for memory
    assert not list((project.folder / "store/claims").glob("*"))

    # A second run tries again what may pass, and leaves bugs and diverged trials alone.
    project.set_param("executor: ray", "executor: serial")
    plan = json.loads(project.ablate("plan", "--json", "--no-probe").stdout)
    assert plan["totals"]["failed"] == 5
    levels: list[object] = [level for level in LEVELS if level != "kills_its_process"]
    text = STUDY.format(levels=json.dumps(levels), epochs=6, seeds=1)
    (project.folder / "studies/tiny.yaml").write_text(text, encoding="utf-8")
    again = project.ablate("run", check=1)
    assert "1 complete, 0 skipped, 1 diverged, 3 failed, 0 missing (1 trained now)" in again.stdout
    named = project.ablate("run", "--trial", str(records["has_a_bug"]["trial_id"]), check=1)
    assert "(1 trained now)" in named.stdout
    assert by_regularizer(project)["has_a_bug"]["attempt"] == 2


def test_two_drivers_on_one_store_train_each_trial_once(project: Project) -> None:
    """Both end with a complete study; together they started each trial once, and each says what it trained itself."""
    declare(project, ["none", "mixup", "cutout"], epochs=20, seeds=3, executor="serial")
    project.ablate("prepare")
    first, second = (project.start(sys.executable, "-m", "pipeline", "run") for _ in range(2))
    assert (first.wait(timeout=300), second.wait(timeout=300)) == (0, 0)
    assert stored_times(project).total() == len(stored_times(project)) == 9
    told = Counter(str(event["event"]) for event in events(project))
    assert told["run_ended"] == 2
    assert told["trial_started"] == told["trial_ended"] == 9


def test_status_from_another_shell_shows_what_runs(project: Project) -> None:
    """While a run trains, `ablate status` names the run, the trial, its process and its progress."""
    declare(project, ["none"], epochs=3000, executor="serial")
    project.set_param("lease_s: 60.0", "lease_s: 2.0")
    process = project.start(sys.executable, "-m", "pipeline", "run")
    try:
        deadline = time.monotonic() + 120
        while not list((project.folder / "store").glob("claims/*")) or "run_started" not in str(events(project)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        time.sleep(2)  # one renewal
        said = project.ablate("status").stdout
        assert f"process {process.pid}" in said
        assert "1 running" in said
        assert "run of tiny" in said
        shown = json.loads(project.ablate("status", "--json").stdout)
        assert shown[0]["state"] == "running"
        assert shown[0]["running"]["pid"] == process.pid
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert "1 planned" in project.ablate("status").stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_stops_a_run_with_a_message_and_loses_nothing(project: Project, small_disk: Path) -> None:
    """Exit status 2 naming the store; with room made, the same command finishes the study."""
    declare(project, ["none", "mixup"], executor="serial")
    project.set_param("url: store", f"url: {small_disk}/store")
    project.ablate("run")
    filler = small_disk / "filler"
    fill(filler)
    declare_more = STUDY.format(levels=json.dumps(["none", "mixup", "cutout"]), epochs=2, seeds=1)
    (project.folder / "studies/tiny.yaml").write_text(declare_more, encoding="utf-8")
    said = project.ablate("run", check=2).stderr
    assert "No space left" in said
    assert "Traceback" not in said
    filler.unlink()
    assert "3 complete" in project.ablate("run").stdout
