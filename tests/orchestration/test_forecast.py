"""Schedules of trials whose costs are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.forecast import Forecast, makespan, span
from tests.orchestration.priced import priced_record, priced_spec

SECONDS = st.lists(st.floats(0.1, 1000), min_size=1, max_size=30)


def of(costs: list[float], slots: int | None, unknown: int = 0) -> Forecast:
    """A forecast of trials that cost so much, and of some of which nothing is known."""
    specs = [priced_spec(f"net{i}") for i in range(len(costs))]
    model = CostModel.learn([priced_record(spec, cost) for spec, cost in zip(specs, costs, strict=True)], device="cpu")
    strange = [priced_spec(f"strange{i}") for i in range(unknown)]
    for spec in strange:
        model.refuse(spec, "failed")
    return Forecast([*specs, *strange], model, slots)


def test_longest_first_on_two_slots() -> None:
    """6 | 5+... : 6, 5, 4, 3 on two slots end after 9 seconds, and one slot takes the sum."""
    assert makespan([3, 4, 5, 6], 2) == 9
    assert makespan([3, 4, 5, 6], 1) == 18
    assert makespan([], 2) == 0


def test_running_trials_hold_their_slots() -> None:
    """A free slot takes what waits; more running trials than slots are more slots."""
    assert makespan([4], 2, running=[10]) == 10
    assert makespan([4], 1, running=[10]) == 14
    assert makespan([4], 1, running=[10, 1]) == 10


@given(SECONDS, st.integers(1, 8))
def test_no_schedule_beats_its_bounds(costs: list[float], slots: int) -> None:
    """At least the longest trial and the fair share, at most both of them together."""
    wall = makespan(costs, slots)
    best = max(max(costs), sum(costs) / slots)
    assert best <= wall * (1 + 1e-9)
    assert wall <= sum(costs) / slots + max(costs)


def test_numbers_of_a_forecast() -> None:
    """Trial-seconds, wall, longest trial and sources; trials of unknown cost count in none but the last."""
    forecast = of([60.0, 30.0, 30.0], 2, unknown=1)
    assert forecast.trial_seconds() == pytest.approx(120)
    assert forecast.wall_seconds() == pytest.approx(60)
    assert forecast.critical_path_seconds() == pytest.approx(60)
    assert forecast.sources() == {"measured": 3, "unknown": 1}
    assert forecast.sources_in_words() == "3 trials measured, 1 of unknown cost, not counted"


def test_what_cannot_be_said_is_none() -> None:
    """No known cost, or no known number of slots; nothing to run takes no time."""
    assert of([], 2, unknown=1).trial_seconds() is None
    assert of([], 2, unknown=1).wall_seconds() is None
    assert of([], 2, unknown=1).critical_path_seconds() is None
    assert of([60.0], None).wall_seconds() is None
    assert of([60.0], None).critical_path_seconds() == pytest.approx(60)
    assert (of([], 2).trial_seconds(), of([], 2).wall_seconds(), of([], 2).critical_path_seconds()) == (0, 0, 0)


def test_a_forecast_follows_its_model() -> None:
    """What the model learns later counts."""
    forecast = of([60.0], 1)
    spec = next(iter(forecast.specs.values()))
    for seed in range(1, 3):
        forecast.model.add(spec, priced_record(priced_spec("net0", seed=seed), 90.0))
    assert forecast.wall_seconds() == pytest.approx(90)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (19000, "5.3 h"), (700000, "8.1 days")],
)
def test_spans_in_words(seconds: float | None, text: str) -> None:
    """In the unit that people would use."""
    assert span(seconds) == text
