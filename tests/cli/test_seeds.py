"""`ablate seeds`: what the seeds can show, what more would cost."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.store.trial_store import TrialStore
from tests.cli.conftest import Project
from tests.orchestration.priced import priced_record


def store_all(seeds: int, hours: float) -> None:
    """Records of all trials of the plan with so many seeds; each arm and regularizer has an accuracy of its own."""
    from pipeline.orchestration.planning import make_plan
    from pipeline.study.config import load_study
    from pipeline.study.params import load_params

    path = Path("studies/tiny.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("seeds: 1", f"seeds: {seeds}"), encoding="utf-8")
    records = []
    for i, trial in enumerate(make_plan(load_study("tiny"), load_params()).trials.values()):
        record = priced_record(trial.spec, 3600 * hours, reason="")
        record["metric_test_acc_top1_last"] = 0.5 + 0.01 * ((7 * i) % 5)
        records.append(record)
    TrialStore("store").append(records)


def test_cost_of_more_seeds_comes_from_the_plan(project: Project) -> None:
    """Two hours a trial and four cells: one more seed is eight trial-hours."""
    store_all(3, 2.0)
    found = json.loads(project.ablate("seeds", "--difference", "5", "--json").out)
    assert abs(found["one_more_seed_hours"] - 8.0) < 0.01
    for target in found["targets"]:
        assert target["n"] == 3
        assert target["smallest_difference"]["3"] is None
        assert abs(target["more_hours"] - 8.0 * (target["seeds_needed"] - 3)) < 0.1
    text = project.ablate("seeds", "main", "--difference", "5")
    assert "none: too few seeds for the test" in text.out
    assert "percentage points" in text.out


def test_refusals_name_what_there_is(project: Project) -> None:
    """An unknown table, a table without a baseline, a power that makes no sense, and a study with one seed."""
    assert "Did you mean 'main'?" in project.ablate("seeds", "mian").err
    assert project.ablate("seeds", "mian").code == 2
    store_all(2, 0.1)
    refused = project.ablate("seeds", "--power", "1.5")
    assert (refused.code, "power" in refused.err) == (2, True)
    path = Path("studies/tiny.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("    baseline: ce\n", ""), encoding="utf-8")
    assert "Table 'main' has no baseline" in project.ablate("seeds", "main").err


def test_one_seed_has_no_spread(project: Project) -> None:
    """Nothing is guessed."""
    assert "so the spread is not known" in project.ablate("seeds").out
