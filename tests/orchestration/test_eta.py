"""Time left of a run, on a clock that the test moves."""

from __future__ import annotations

import pytest

from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.eta import Eta
from pipeline.orchestration.forecast import Forecast
from tests.orchestration.priced import priced_record, priced_spec


class Run:
    """A run of `trials` trials of one cell (60 s by the model, 10 epochs) on `slots` slots."""

    def __init__(self, trials: int, slots: int | None = 1, expected: float | None = 60.0) -> None:
        self.specs = [priced_spec(seed=seed) for seed in range(trials)]
        self.ids = [spec.trial_id for spec in self.specs]
        stored = [] if expected is None else [priced_record(priced_spec(seed=99), expected)]
        self.model = CostModel.learn(stored, device="cpu")
        self.time = 0.0
        self.eta = Eta(Forecast(self.specs, self.model, slots), lambda: self.time)

    def trial(self, index: int, seconds: float) -> None:
        """One trial from its start to its end."""
        self.eta.started(self.ids[index])
        self.time += seconds
        self.eta.finished(self.ids[index])


def test_before_anything_ran_it_is_the_forecast() -> None:
    """Four trials on two slots take two rounds."""
    assert Run(4, slots=2).eta.seconds_left() == pytest.approx(120)


def test_finished_trials_correct_what_is_left() -> None:
    """Twice as slow as expected: twice the time for the rest."""
    run = Run(3)
    run.trial(0, 120.0)
    assert run.eta.correction() == pytest.approx(2)
    assert run.eta.seconds_left() == pytest.approx(240)


def test_a_model_that_learned_is_not_corrected_twice() -> None:
    """Once the model expects what trials take, nothing is left to correct."""
    run = Run(3)
    run.trial(0, 120.0)
    for _ in range(2):
        run.model.add(run.specs[0], priced_record(run.specs[0], 120.0))
    assert run.eta.correction() == pytest.approx(1)
    assert run.eta.seconds_left() == pytest.approx(240)


def test_a_long_trial_is_not_hidden_by_many_short_ones() -> None:
    """The share of epochs done would say seconds; the schedule says what the long trial takes."""
    long = priced_spec("resnet110", seed=0)
    short = [priced_spec(seed=seed) for seed in range(8)]
    model = CostModel.learn([priced_record(long, 1000.0), priced_record(short[0], 1.0)], device="cpu")
    now = [0.0]
    eta = Eta(Forecast([*short, long], model, 2), lambda: now[0])
    for spec in short[:7]:
        eta.started(spec.trial_id)
        now[0] += 1.0
        eta.finished(spec.trial_id)
    assert eta.seconds_left() == pytest.approx(1000, rel=0.01)


def test_a_running_trial_goes_by_its_own_pace_in_the_end() -> None:
    """With 9 of 10 epochs done in 180 s there are about 20 s to go, whatever the model said."""
    run = Run(1)
    run.eta.started(run.ids[0])
    assert run.eta.seconds_left() == pytest.approx(60)
    run.time = 30.0
    assert run.eta.seconds_left() == pytest.approx(30)
    for _ in range(9):
        run.time += 150.0 / 9
        run.eta.epoch(run.ids[0])
    left = run.eta.seconds_left()
    assert left is not None
    assert 0 < left < 20
    run.time = 10_000.0
    assert run.eta.seconds_left() == 0


def test_a_resumed_trial_has_only_its_other_epochs_before_it() -> None:
    """From a checkpoint after 8 of 10 epochs; its short time is not taken for fast."""
    run = Run(2)
    run.eta.started(run.ids[0], 8)
    assert run.eta.seconds_left() == pytest.approx(12 + 60)
    run.time = 12.0
    run.eta.finished(run.ids[0])
    assert run.eta.correction() == pytest.approx(1)


def test_a_requeued_trial_is_still_to_come() -> None:
    """All of it."""
    run = Run(2)
    run.eta.started(run.ids[0])
    run.time = 50.0
    run.eta.requeued(run.ids[0])
    assert run.eta.seconds_left() == pytest.approx(120)


def test_trials_left_out_are_not_to_come() -> None:
    """Another run has them, or they were given up; a start after all brings one back."""
    run = Run(2)
    run.eta.left_out(run.ids[0])
    assert run.eta.seconds_left() == pytest.approx(60)
    run.eta.started(run.ids[0])
    assert run.eta.seconds_left() == pytest.approx(120)


def test_failed_trials_tell_no_time() -> None:
    """One that died at once makes the others no faster."""
    run = Run(2)
    run.eta.started(run.ids[0])
    run.time = 1.0
    run.eta.finished(run.ids[0], counts=False)
    assert run.eta.seconds_left() == pytest.approx(60)


def test_without_any_estimate_the_first_trial_tells() -> None:
    """Nothing is said before, the mean of what finished after."""
    run = Run(3, expected=None)
    assert run.eta.seconds_left() is None
    run.trial(0, 40.0)
    assert run.eta.seconds_left() == pytest.approx(80)


def test_a_cluster_of_unknown_size_has_the_slots_that_are_used() -> None:
    """Two running trials are two slots."""
    run = Run(4, slots=None)
    for trial_id in run.ids[:2]:
        run.eta.started(trial_id)
    assert run.eta.seconds_left() == pytest.approx(120)
