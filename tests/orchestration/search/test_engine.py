"""Budgets to the epoch, points told once, and a search that goes on where it was killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.orchestration.search.engine import OUT_OF_BUDGET, SAME_BUG
from pipeline.orchestration.search.points import STORED
from pipeline.orchestration.search.storage import make_sampler

from .conftest import Lab, accuracy

MakeLab = Callable[..., Lab]
ASHA = {"asha": {"grace_epochs": 1, "reduction": 2}}


def best_of(lab: Lab) -> list[float | None]:
    return [row.best for row in lab.ledger()]


def test_without_a_pruner_every_arm_gets_exactly_its_points(make_lab: MakeLab) -> None:
    """Five points of four epochs an arm, all distinct, all complete, all trained once."""
    lab = make_lab()
    lab.drive(slots=3, rng=random.Random(1))
    for row in lab.ledger():
        assert (row.points, row.complete, row.epochs, row.budget_epochs) == (5, 5, 20, 20)
        assert row.epochs_trained == 20
        assert row.hours == pytest.approx(20 * 36 / 3600)
    assert set(lab.epochs_run.values()) == {4}
    assert len(lab.epochs_run) == 10


@pytest.mark.parametrize("pruner", [ASHA, {"hyperband": {"grace_epochs": 1, "reduction": 2, "brackets": 2}}])
def test_what_a_pruner_saves_goes_into_further_points(make_lab: MakeLab, pruner: dict[str, Any]) -> None:
    """More points than without, budgets still equal to the epoch, and each point's epochs are those that were run."""
    lab = make_lab(pruner=pruner, trials=8, epochs=4)
    lab.drive(slots=2, rng=random.Random(2))
    for arm, row in zip(lab.arms, lab.ledger(), strict=True):
        assert row.epochs == row.budget_epochs == 32
        assert row.points > 8
        assert row.pruned > 0
        points = lab.points()[arm.name]
        assert {point.trial_id: point.epochs for point in points.by_id.values()} == {
            trial_id: lab.epochs_run[trial_id] for trial_id in points.by_id
        }
        cut = [point for point in points.by_id.values() if point.reason.startswith(OUT_OF_BUDGET)]
        assert len(cut) <= 1
    assert sum(lab.epochs_run.values()) == 64


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_budgets_hold_whatever_happens(make_lab: MakeLab, data: st.DataObject) -> None:
    """With any pruner, workers in any order, diverging points and drivers killed anywhere: the budget is used up to the epoch."""
    trials, slots = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    pruner = data.draw(st.sampled_from(["none", ASHA, {"hyperband": {"reduction": 2}}]))
    lab = make_lab(trials=trials, epochs=data.draw(st.integers(2, 5)), pruner=pruner, seed=data.draw(st.integers(0, 3)))
    rng = random.Random(data.draw(st.integers(0, 1000)))
    share = data.draw(st.sampled_from([0, 3, 7]))
    lab.diverges = lambda job: share > 0 and int(job.trial.spec.trial_id, 16) % share == 0
    for kill_after in data.draw(st.lists(st.integers(1, 12), max_size=3)):
        lab.drive(slots=slots, rng=rng, kill_after=kill_after)
    lab.drive(slots=slots, rng=rng)
    for row in lab.ledger():
        assert row.epochs == row.budget_epochs == trials * lab.arms[0].epochs
        assert row.points == row.complete + row.pruned + row.failed
        assert pruner != "none" or row.points == trials
        assert not lab.points()[row.arm].unfinished
    before = lab.epochs_run.copy()
    lab.drive()
    assert lab.epochs_run == before


def test_a_killed_search_ends_like_one_that_was_not(make_lab: MakeLab) -> None:
    """Killed twice, one point at a time: the same points, the same best values and the same budget as without a kill."""
    straight, killed = make_lab(), make_lab()
    straight.drive()
    for kill_after in (7, 11):
        killed.drive(kill_after=kill_after)
    killed.drive()
    assert best_of(killed) == best_of(straight)
    assert set(killed.store) == set(straight.store)
    assert [row.epochs for row in killed.ledger()] == [row.epochs for row in straight.ledger()] == [20, 20]


def test_more_trials_later_train_exactly_the_difference(make_lab: MakeLab) -> None:
    """From 5 to 8 points: three new points an arm, nothing again; and the same points as if it had been 8 from the start."""
    lab = make_lab()
    lab.drive()
    first = dict(lab.epochs_run)
    lab.arms = make_lab(trials=8).arms
    lab.drive()
    assert {trial_id: lab.epochs_run[trial_id] for trial_id in first} == first
    assert len(lab.epochs_run) == 16
    assert [row.points for row in lab.ledger()] == [8, 8]
    whole = make_lab(trials=8)
    whole.drive()
    assert best_of(whole) == best_of(lab)


def test_fewer_trials_later_are_refused(make_lab: MakeLab) -> None:
    """Points cannot be taken back: the message says how many there are."""
    lab = make_lab()
    lab.drive()
    lab.arms = make_lab(trials=4).arms
    with pytest.raises(ConfigError, match=r"has had 20 epochs already.*Set trials: 5 or more"):
        lab.drive()


@pytest.mark.parametrize("pruner", ["none", ASHA])
def test_stored_trials_count_as_if_they_were_trained(make_lab: MakeLab, pruner: Any) -> None:
    """A second search over a full store trains nothing new where it proposes the same, decides the same, and says so."""
    first = make_lab(pruner=pruner)
    first.drive()
    second = make_lab(pruner=pruner)
    second.store = {trial_id: record for trial_id, record in first.store.items() if record["state"] == "complete"}
    second.drive()
    assert best_of(second) == best_of(first)
    for before, row in zip(first.ledger(), second.ledger(), strict=True):
        assert (row.epochs, row.complete, row.pruned) == (before.epochs, before.complete, before.pruned)
        assert row.stored == before.complete
        assert row.epochs_trained == row.epochs - 4 * before.complete
    assert not set(second.epochs_run) & set(second.store) or pruner != "none"


def test_diverged_points_keep_their_epochs_and_stay_failed(make_lab: MakeLab) -> None:
    """A diverged point is one of the arm's points, is counted with all its epochs, and is not tried again."""
    lab = make_lab()
    lab.diverges = lambda job: job.number in (1, 3)
    lab.drive()
    for row in lab.ledger():
        assert (row.points, row.failed, row.epochs) == (5, 2, 20)
        assert row.epochs_trained == 3 * 4 + 2 * 1
    before = lab.epochs_run.copy()
    lab.diverges = lambda job: False
    lab.drive()
    assert lab.epochs_run == before


def test_a_bug_stops_the_search_and_its_points_are_tried_again(make_lab: MakeLab) -> None:
    """Three like failures in a row end the search early; once mended, the same points are trained within the same budget."""
    lab = make_lab()
    lab.breaks = lambda job: True
    search = lab.drive()
    assert search.stopped == f"{SAME_BUG} points in a row failed in the same way: ValueError: a bug"
    failed = set(lab.store)
    assert len(failed) == SAME_BUG
    lab.breaks = lambda job: False
    lab.drive()
    for row in lab.ledger():
        assert (row.points, row.complete, row.failed, row.epochs) == (5, 5, 0, 20)
    assert failed <= {trial_id for trial_id, epochs in lab.epochs_run.items() if epochs == 4}


def test_a_small_space_ends_with_a_note(make_lab: MakeLab) -> None:
    """Where a sampler has nothing new to propose the arm ends, each point once, and says why."""
    space = {"optimizer.lr": {"choice": [0.02, 0.05]}, "batch_size": {"choice": [16, 32]}}
    lab = make_lab(space=space, trials=9)
    search = lab.drive()
    for row in lab.ledger():
        assert (row.points, row.epochs) == (4, 16)
        assert row.repeated > 0
        assert "nothing new" in search.arms[row.arm].note
    assert set(lab.epochs_run.values()) == {4}


def test_brute_force_tries_everything_once(make_lab: MakeLab) -> None:
    """Every combination of a grid, none twice."""
    space = {"optimizer.lr": {"float": [0.02, 0.06], "step": 0.02}, "loss.cam.start_epoch": {"int": [0, 1], "when": {"arm": "cam"}}}
    lab = make_lab(space=space, trials=9, sampler="brute_force")
    lab.drive(slots=2)
    assert [(row.arm, row.points, row.complete) for row in lab.ledger()] == [("ce", 3, 3), ("cam", 6, 6)]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "qmc", "random"])
def test_every_sampler_searches_and_goes_on(make_lab: MakeLab, sampler: str) -> None:
    """Each sampler gives distinct points, spends the budget when killed in between, and proposes the same again from the same state."""
    lab = make_lab(sampler=sampler, trials=12, epochs=1, arms=["cam"])
    lab.drive(kill_after=5)
    lab.drive()
    (row,) = lab.ledger()
    assert (row.points, row.complete, row.epochs, row.repeated) == (12, 12, 12, 0)
    again = make_lab(sampler=sampler, trials=12, epochs=1, arms=["cam"])
    again.drive()
    assert len(set(again.store) & set(lab.store)) == 12


def test_arms_share_the_draws_of_random_points(make_lab: MakeLab) -> None:
    """Point k of both arms has the same learning rate while points are random: arms are compared at the same places."""
    lab = make_lab(sampler="random")
    lab.drive()
    drawn = [[point.fields["optimizer.lr"] for point in points.by_id.values()] for points in lab.points().values()]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 5


def test_several_objectives_have_a_front(make_lab: MakeLab) -> None:
    """Accuracy against time: both values are told, and the winner is the best in the first."""
    lab = make_lab(objectives=["acc_top1", "time_train_s"], sampler="nsga2")
    assert lab.arms[0].directions == ["maximize", "minimize"]
    lab.drive()
    for arm, row in zip(lab.arms, lab.ledger(), strict=True):
        points = lab.points()[arm.name].by_id.values()
        assert all(point.values and len(point.values) == 2 for point in points)
        assert row.best == max(point.values[0] for point in points if point.values)


def test_a_record_without_the_metric_is_a_failed_point(make_lab: MakeLab) -> None:
    """A point whose record lacks what is optimised is named as such and is not tried for ever."""
    lab = make_lab(metric="acc_top5")
    lab.drive()
    for row in lab.ledger():
        assert (row.failed, row.complete, row.epochs) == (5, 0, 20)
    reasons = {point.reason for points in lab.points().values() for point in points.by_id.values()}
    assert reasons == {"the record has no finite metric_val_acc_top5_last"}


def test_points_that_were_lost_are_taken_up(make_lab: MakeLab) -> None:
    """A point whose worker could not store it stays open and is trained by the next search, under its number."""
    lab = make_lab(arms=["cam"])
    search = lab.search()
    job = search.next()
    assert job is not None
    search.lost(job)
    lab.drive()
    (row,) = lab.ledger()
    assert (row.points, row.complete) == (5, 5)
    assert job.trial.spec.trial_id in lab.store
    assert lab.points()["cam"].by_id[job.trial.spec.trial_id].number == job.number


def test_stored_points_are_marked_for_the_dashboard(make_lab: MakeLab) -> None:
    """Optuna's trials carry the trial id, the arm and where the record came from."""
    first = make_lab()
    first.drive()
    lab = make_lab()
    lab.store = dict(first.store)
    lab.drive()
    from pipeline.orchestration.search.storage import open_study

    for trial in open_study(lab.arms[1], lab.storage).get_trials():
        assert trial.user_attrs["trial_id"] in first.store
        assert trial.user_attrs["arm"] == "cam"
        assert trial.user_attrs["source"] == STORED
        assert trial.intermediate_values.keys() == {1, 2, 3, 4}


def test_a_sampler_is_the_same_for_the_same_point(make_lab: MakeLab) -> None:
    """Seeds come from the search's seed and the point's number, so that a continued search does not begin its draws again."""
    spec = make_lab().arms[0].spec
    other = make_lab(seed=1).arms[0].spec
    draws = [make_sampler(s, n)._rng.rng.randint(10**6) for s, n in [(spec, 0), (spec, 0), (spec, 1), (other, 0)]]
    assert draws[0] == draws[1]
    assert len(set(draws[1:])) == 3


def test_the_toy_objective_has_something_to_find() -> None:
    """The tests above compare values that differ."""
    config: dict[str, Any] = {"optimizer": {"lr": 0.05}, "loss": {}}
    assert accuracy(config, 2) > accuracy({**config, "optimizer": {"lr": 0.2}}, 2) > 0
