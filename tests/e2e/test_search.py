"""A search as a whole program: on Ray with pruning and a driver that is killed, and as a stage before the plan."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import psutil
import pytest
import yaml

from tests.e2e.project import Project
from tests.e2e.test_interrupt import left_over, stored, wait_for_records

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def declare(project: Project, *, epochs: int = 2, **search: Any) -> None:
    """Give the tiny study a search and a table of its winners."""
    file = project.folder / "studies/tiny.yaml"
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    study["defaults"]["epochs"] = epochs
    space = {"optimizer.lr": {"float": [0.01, 0.2], "log": True}, "loss.cam.weight": {"float": [0.2, 3], "when": {"arm": "cam"}}}
    study["search"] = {"space": space, **search}
    study["tables"] = {
        "backbones": study["tables"]["backbones"],
        "tuned": {"tuned": True, "rows": {"backbone": ["resnet8"]}, "columns": {"arm": ["ce", "cam"]}, "baseline": "ce"},
    }
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


def ledger(project: Project) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project.folder / "search/ledger.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.cluster
def test_a_search_on_ray_survives_two_kills_with_an_exact_ledger(project: Project) -> None:
    """SIGKILL of everything twice while points are pruned: the third driver ends it, every budget used to the epoch."""
    declare(project, epochs=9, trials=4, pruner={"asha": {"grace_epochs": 2, "reduction": 2}})
    project.set_param("executor: serial", "executor: ray")
    for more in (1, 4):
        process = project.start(sys.executable, "-m", "pipeline", "search")
        wait_for_records(project, process, more)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not left_over(project)
    before = stored(project)
    project.ablate("search")
    content = ledger(project)
    for row in content["arms"]:
        assert row["epochs"] == row["epochs_trained"] == row["budget_epochs"] == 4 * 9
        assert row["points"] == row["complete"] + row["pruned"]
        assert row["stored"] == row["failed"] == 0
        assert sum(point["epochs"] for point in content["points"][row["arm"]]) == row["epochs"]
    points = {point["trial_id"]: point for arm in content["points"].values() for point in arm}
    after = stored(project)
    assert set(after) == set(points)
    # What was stored complete before a kill was not trained again.
    complete = {trial_id for trial_id, point in points.items() if point["state"] == "complete"}
    assert all(after[trial_id] == 1 for trial_id in complete & set(before))
    again = project.ablate("search", "--json")
    assert json.loads(again.stdout)["epochs_trained_now"] == 0
    assert stored(project) == after
    assert "ray" not in again.stderr


@pytest.mark.cluster
def test_a_lost_worker_costs_no_budget(project: Project) -> None:
    """SIGKILL of a worker in the middle of a point: the point is run again on another worker, and the ledger does not see it."""
    declare(project, epochs=60, trials=1)
    project.set_param("executor: serial", "executor: ray")
    project.set_param("checkpoint_s: 120.0", "checkpoint_s: null")
    process = project.start(sys.executable, "-m", "pipeline", "search")
    deadline = time.monotonic() + 120
    while not (training := workers_in(project)):
        assert process.poll() is None, (project.folder / "started.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training[0].kill()
    assert process.wait(timeout=240) == 0, (project.folder / "started.log").read_text()
    assert "its worker was lost" in (project.folder / "started.log").read_text()
    for row in ledger(project)["arms"]:
        assert (row["points"], row["complete"], row["epochs"], row["epochs_trained"]) == (1, 1, 60, 60)
    assert set(stored(project).values()) == {1}


def workers_in(project: Project) -> list[psutil.Process]:
    """Ray workers of the project that are at a point."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[:1] == ["ray::ImplicitFunc.train"] and process.environ().get("PYTHONPATH") == str(project.folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.cluster
def test_ctrl_c_during_a_search_is_clean(project: Project) -> None:
    """Status 130 and no process left; no winners are written, so the table waits."""
    declare(project, epochs=12, trials=4)
    project.set_param("executor: serial", "executor: ray")
    process = project.start(sys.executable, "-m", "pipeline", "search")
    wait_for_records(project, process, 1)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "run the same command again" in (project.folder / "started.log").read_text(encoding="utf-8")
    assert not left_over(project)
    assert not (project.folder / "search/best.yaml").exists()
    plan = json.loads(project.ablate("plan", "--json", "--no-probe").stdout)
    assert plan["tables"]["tuned"]["blocked"] == 4


@pytest.mark.cluster
def test_repro_searches_before_it_plans(project: Project) -> None:
    """`dvc repro` ends with the tuned table filled; a second one runs nothing; one trial more searches only that one."""
    declare(project, trials=2)
    project.run("dvc", "repro")
    cells = json.loads((project.folder / "tables/tuned.json").read_text(encoding="utf-8"))["cells"]
    assert [cell["n"] for cell in cells] == [2, 2]
    best = yaml.safe_load((project.folder / "search/best.yaml").read_text(encoding="utf-8"))
    for cell, arm in zip(cells, ("ce", "cam"), strict=True):
        assert best["arms"][arm]["trial_id"] in cell["trial_ids"]
    assert "Running stage" not in project.run("dvc", "repro").stdout
    before = stored(project)
    declare(project, trials=3)
    project.run("dvc", "repro", "search")
    assert [row["points"] for row in ledger(project)["arms"]] == [3, 3]
    assert sum(stored(project).values()) == sum(before.values()) + 2


def test_a_study_without_a_search(project: Project) -> None:
    """The stage leaves a file that says so; the command says what to add, with status 2."""
    project.run(sys.executable, "stages/search.py")
    content = yaml.safe_load((project.folder / "search/best.yaml").read_text(encoding="utf-8"))
    assert content == {"study": "tiny", "digest": None, "arms": {}}
    done = project.ablate("search", check=2)
    assert "declares no search" in done.stderr
    assert "Traceback" not in done.stderr
