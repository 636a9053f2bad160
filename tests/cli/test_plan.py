"""`ablate plan`: what a run would do and cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.orchestration import probe
from pipeline.store.trial_store import TrialStore
from tests.cli.conftest import Project
from tests.orchestration.priced import priced_record


def plan_json(project: Project, *arguments: str) -> dict[str, Any]:
    """What `ablate plan --json` prints."""
    result = project.ablate("plan", "--json", *arguments)
    assert result.code == 0
    content: dict[str, Any] = json.loads(result.out)
    return content


def store_trials(number: int, seconds: float) -> None:
    """Records of so many trials of the plan."""
    from pipeline.orchestration.planning import make_plan
    from pipeline.study.config import load_study
    from pipeline.study.params import load_params

    trials = list(make_plan(load_study("tiny"), load_params()).trials.values())[:number]
    TrialStore("store").append([priced_record(trial.spec, seconds) for trial in trials])


def test_unknown_costs_are_said_without_probes(project: Project) -> None:
    """Nothing is run, no number is invented, and nothing is remembered."""
    result = project.ablate("plan", "--no-probe")
    assert "Estimate: unknown (4 trials of unknown cost, not counted)." in result.out
    assert "probing" not in result.err
    assert not Path("data/prepared", probe.FILE).exists()
    found = plan_json(project, "--no-probe")
    assert (found["hours"], found["wall_hours"], found["critical_path_hours"], found["one_more_seed_hours"]) == (None,) * 4
    assert found["unknown"] == 4


def test_a_new_network_is_probed_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan says so on the side, the second one knows; the counts are as before and the store is as it was."""
    before = project.stored()
    first = project.ablate("plan")
    assert first.err == "probing 1 network ...\n"
    assert "from: 4 trials from a probe." in first.out
    monkeypatch.setattr(probe, "run_trial", lambda *_, **__: pytest.fail("probed again"))
    second = project.ablate("plan")
    assert second.err == ""
    assert second.out == first.out
    assert project.stored() == before


def test_stored_trials_price_the_others(project: Project) -> None:
    """2 of 4 stored with 36 s each: the others cost about as much, one after the other; a seed more costs four, a row two."""
    store_trials(2, seconds=36.0)
    found = plan_json(project)
    assert found["totals"] == {"new": 2, "stored": 2, "shared": 0, "blocked": 0, "failed": 0}
    assert found["tables"] == {"main": found["totals"]}
    assert found["hours"] == pytest.approx(0.02)
    assert found["wall_hours"] == pytest.approx(0.02)
    assert found["critical_path_hours"] == pytest.approx(0.01)
    assert found["table_hours"] == {"main": pytest.approx(0.02)}
    assert found["one_more_seed_hours"] == pytest.approx(0.04)
    assert found["one_more_row_hours"] == {"main": pytest.approx(0.02)}
    assert found["hours_from"] == "2 trials from the same network and data with other methods"
    assert found["disk_bytes"] > 0
    text = project.ablate("plan").out
    assert "Estimate: 0.02 trial-hours, about 72 s on 1 slot (longest trial 36 s); from: 2 trials from the same network" in text
    assert "One more seed: 0.04 trial-hours. One more row, on average: main 0.02." in text


def test_a_finished_study_costs_nothing(project: Project) -> None:
    """And is said to."""
    store_trials(4, seconds=36.0)
    found = plan_json(project)
    assert (found["hours"], found["hours_from"], found["disk_bytes"]) == (0, "nothing is missing", 0)
    assert "Estimate: nothing is missing." in project.ablate("plan").out


def test_blocked_trials_are_not_counted(project: Project) -> None:
    """A study that waits for data has no number of hours, and says why."""
    project.edit("studies/tiny.yaml", "canvas: 16", "canvas: 20")
    found = plan_json(project)
    assert found["totals"]["blocked"] == 4
    assert (found["hours"], found["hours_from"]) == (None, "blocked trials are not counted")
    assert "Estimate: blocked trials are not counted." in project.ablate("plan").out


def test_kept_weights_take_their_place(project: Project) -> None:
    """Four networks of float32."""
    store_trials(1, seconds=36.0)
    without = plan_json(project)["disk_bytes"]
    project.edit("params.yaml", "store: {url: store}", "store: {url: store, weights: last}")
    assert plan_json(project)["disk_bytes"] - without > 3 * 4 * 70_000


def test_a_cluster_is_not_probed_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine says nothing of its nodes, nor of their number, and is not asked."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    project.edit("params.yaml", "executor: serial", "executor: ray")
    assert project.ablate("plan").err == ""
    store_trials(2, seconds=36.0)
    found = plan_json(project)
    assert (found["slots"], found["wall_hours"]) == (None, None)
    assert found["critical_path_hours"] == pytest.approx(0.01)
    assert "on a cluster whose size is not known here" in project.ablate("plan").out


def test_a_bug_in_a_method_does_not_break_the_plan(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's error is printed, and the exit status is that of a plan."""

    def run_trial(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(probe, "run_trial", run_trial)
    result = project.ablate("plan")
    assert result.code == 0
    assert "note: the probe of resnet8 failed: RuntimeError: a bug" in result.out
    assert plan_json(project)["notes"] == ["the probe of resnet8 failed: RuntimeError: a bug"]
