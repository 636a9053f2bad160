"""`ablate seeds`: what the seeds can show, what more would cost."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.store.trial_store import TrialStore
from tests.cli.conftest import Project
from tests.orchestration.priced import priced_record


def store_all(seeds: int, hours: float, *, spread: bool = True, diverged: str = "") -> None:
    """Records of all trials of the plan with so many seeds; accuracies vary, or only between arms; an arm may have diverged."""
    from pipeline.orchestration.planning import make_plan
    from pipeline.study.config import load_study
    from pipeline.study.params import load_params

    path = Path("studies/tiny.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("seeds: 1", f"seeds: {seeds}"), encoding="utf-8")
    records = []
    for i, trial in enumerate(make_plan(load_study("tiny"), load_params()).trials.values()):
        record = priced_record(trial.spec, 3600 * hours, reason="")
        record["metric_test_acc_top1_last"] = 0.5 + 0.01 * ((7 * i) % 5 if spread else trial.arm == "cam")
        if trial.arm == diverged:
            del record["metric_test_acc_top1_last"]
            record |= {"state": "failed", "failure": "diverged", "reason": "loss became nan"}
        records.append(record)
    TrialStore("store").append(records)


def judge_by(project: Project, test: str) -> None:
    """Have the study judge its differences by another test."""
    project.edit("studies/tiny.yaml", "seeds: 1", f"seeds: 1\nstatistics: {{test: {test}}}")


def test_cost_of_more_seeds_comes_from_the_plan(project: Project) -> None:
    """Two hours a trial and four cells: one more seed of the study is eight trial-hours, which is said once, not below each table."""
    store_all(3, 2.0)
    found = json.loads(project.ablate("seeds", "--difference", "5", "--json").out)
    assert abs(found["one_more_seed_hours"] - 8.0) < 0.01
    assert (found["difference"], found["unknown"]) == (5.0, [])
    for target in found["targets"]:
        assert target["n"] == 3
        assert target["smallest_difference"]["3"] is None
        assert target["more_seeds"] == target["seeds_needed"] - 3
    text = project.ablate("seeds", "main", "--difference", "5").out
    assert "none: too few seeds for the test" in text
    assert "percentage points" in text
    assert text.count("trial-hours") == 1
    more = max(target["more_seeds"] for target in found["targets"])
    assert "One more seed for the whole study, all its tables together: 8 trial-hours." in text
    assert f"{more} more, the most that is named above: {more * 8:.2g}." in text


def test_both_ends_of_the_interval_are_said(project: Project) -> None:
    """What is planned from the SD itself stands beside what its interval allows, cut where no number helps."""
    judge_by(project, "t")
    store_all(3, 2.0)
    found = json.loads(project.ablate("seeds", "--difference", "1", "--json").out)["targets"]
    text = project.ablate("seeds", "--difference", "1").out
    for target in found:
        low, high = target["seeds_needed_interval"]
        assert low < target["seeds_needed"] < high
        assert f"1 percentage points: {target['seeds_needed']} seeds ({low} to {high} over the interval of the SD)" in text
        least, most = target["smallest_difference_interval"]["20"]
        assert least < target["smallest_difference"]["20"] < most
        assert f"{100 * least:.2f} to {100 * most:.2f}" in text
    text = project.ablate("seeds", "--difference", "0.01").out
    assert "more than 100" in project.ablate("seeds", "--power", "0.99999").out  # percentage points, which no accuracies differ by
    assert "0.01 percentage points: more than 1,000 seeds (more than 1,000 at both ends of the interval of the SD, too)" in text


def test_equal_differences_promise_nothing(project: Project) -> None:
    """Two seeds that agree by chance have no SD of 0: neither a difference nor a number of seeds is named."""
    judge_by(project, "t")
    store_all(2, 2.0, spread=False)
    text = project.ablate("seeds", "--difference", "0.5").out
    assert text.count("are equal from seed to seed (2 seeds), which proves nothing: the spread is not known yet") == 2
    assert "0.00" not in text
    assert "0.5" not in text
    for target in json.loads(project.ablate("seeds", "--difference", "0.5", "--json").out)["targets"]:
        assert (target["sd"], target["sd_interval"], target["smallest_difference"], target["seeds_needed"]) == (None, None, {}, None)


def test_wilcoxon_is_said_to_be_planned_as_another_test(project: Project) -> None:
    """Of a study that uses it; of others not."""
    assert "Wilcoxon" not in project.ablate("seeds").out
    judge_by(project, "wilcoxon")
    store_all(3, 2.0)
    assert "tests by Wilcoxon's signed-rank test; planned is the sign-flip test" in project.ablate("seeds").out
    (first, *_) = json.loads(project.ablate("seeds", "--json").out)["targets"]
    assert (first["test"], first["planned_test"]) == ("wilcoxon", "sign_flip")


def test_refusals_name_what_there_is(project: Project) -> None:
    """An unknown table, a power and a difference that make no sense, stored or not, and a table without a baseline."""
    assert "Did you mean 'main'?" in project.ablate("seeds", "mian").err
    assert project.ablate("seeds", "mian").code == 2
    for seeds in (1, 2):
        store_all(seeds, 0.1)
        refused = project.ablate("seeds", "--power", "1.5")
        assert (refused.code, "power" in refused.err, refused.out) == (2, True, "")
        for difference in ("-1", "0", "nan"):
            refused = project.ablate("seeds", "--difference", difference)
            assert (refused.code, refused.out) == (2, "")
            assert f"must be finite and above 0, but is {float(difference)}" in refused.err
    project.edit("studies/tiny.yaml", "    baseline: ce\n", "")
    named = project.ablate("seeds", "main")
    assert (named.code, "Table 'main' has no baseline" in named.err) == (2, True)
    assert "No table of study tiny has a baseline" in project.ablate("seeds").out


def test_what_to_run_first_is_said(project: Project) -> None:
    """Without two seeds nothing is guessed: a plan of one seed needs another, one of two needs to be run; as `ablate table`, status 0."""
    one = project.ablate("seeds")
    assert (one.code, "trial-hours" in one.out) == (0, False)
    assert "main: no difference has two seeds stored yet, so the spread is not known." in one.out
    assert "set `seeds: 3` or more in the study file, then run `ablate run --study tiny`" in one.out
    project.edit("studies/tiny.yaml", "seeds: 1", "seeds: 2")
    project.edit("studies/tiny.yaml", "tables:\n", "tables:\n  single:\n    rows: {arm: [ce, cam]}\n    columns: {metric: [acc_top1]}\n")
    two = project.ablate("seeds")
    assert (two.code, "Run `ablate run --study tiny` first" in two.out, "set `seeds:" in two.out) == (0, True, False)
    assert "single" not in two.out  # it has no baseline, so there is nothing to plan
    found = json.loads(project.ablate("seeds", "--json").out)
    assert (found["targets"], found["unknown"]) == ([], two.out.splitlines())
    assert project.ablate("table").code == 0


def test_an_arm_that_diverged_is_not_told_to_be_run(project: Project) -> None:
    """Its trials are results without a number: running them again would change nothing."""
    store_all(3, 2.0, diverged="cam")
    text = " ".join(project.ablate("seeds").out.split())
    assert "Its trials have all been run, but those of an arm ended without a number (failed)" in text
    assert "`ablate table main --study tiny` says why" in text
    assert "`ablate run" not in text
