"""The ledger: a pure function of what Optuna and the store say, in three formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.orchestration.search.ledger import HEADS, as_csv, as_markdown, best_point, front, ledger_row, shown_value
from pipeline.orchestration.search.points import STORED, Point, Points
from pipeline.store.records import Record

from .conftest import Lab


def point(number: int, state: str, epochs: int, values: list[float] | None = None, **more: Any) -> Point:
    return Point(number, f"t{number}", {}, state, epochs, values, **more)


@pytest.fixture(name="points")
def points_fixture() -> Points:
    """Two complete points, one of them found in the store, one given up, one diverged in its second epoch."""
    listed = [
        point(0, "complete", 4, [0.8]),
        point(1, "complete", 4, [0.9], source=STORED),
        point(2, "pruned", 2),
        point(3, "failed", 4, failure="diverged"),
    ]
    return Points({each.trial_id: each for each in listed}, repeats=2)


RECORDS = {
    "t0": Record({"time_total_s": 1800.0, "epochs_done": 4}),
    "t1": Record({"time_total_s": 9999.0, "epochs_done": 4}),
    "t2": Record({"time_total_s": 900.0, "epochs_done": 2}),
    "t3": Record({"time_total_s": 900.0, "epochs_done": 1}),
}


def test_what_is_counted(make_lab: Callable[..., Lab], points: Points) -> None:
    """Given epochs count in full for failed points; trained ones and hours are those of this search alone."""
    row = ledger_row(make_lab().arms[0], points, RECORDS)
    assert (row.points, row.complete, row.pruned, row.failed, row.stored, row.repeated) == (4, 2, 1, 1, 1, 2)
    assert (row.epochs, row.epochs_trained, row.budget_epochs) == (14, 4 + 2 + 1, 20)
    assert row.hours == pytest.approx(1.0)
    assert (row.best, row.best_trial_id) == (0.9, "t1")
    assert not row.is_spent


def test_formats_say_the_same(make_lab: Callable[..., Lab], points: Points) -> None:
    """Markdown has a cell for each head, CSV the values as stored."""
    arm = make_lab().arms[0]
    row = ledger_row(arm, points, RECORDS)
    lines = as_markdown([arm], [row], ["a note."]).splitlines()
    assert lines[0] == "Budget of every arm: 5 x 4 epochs. Optimised: metric_val_acc_top1_last. Sampler tpe, pruner none."
    assert len(lines[2].split("|")) == len(lines[4].split("|")) == len(HEADS) + 2
    assert "| 90.00 % |" in lines[4]
    assert lines[-1] == "a note."
    (read,) = csv.DictReader(io.StringIO(as_csv([row])))
    assert read["best"] == "0.9"
    assert read["epochs"] == "14"


def test_the_winner_is_the_earliest_of_equals_in_the_right_direction(make_lab: Callable[..., Lab]) -> None:
    """Highest accuracy or lowest loss; incomplete points never win."""
    points = [point(0, "complete", 4, [0.5]), point(1, "complete", 4, [0.2]), point(2, "complete", 4, [0.5]), point(3, "pruned", 1)]
    high, low = make_lab().arms[0], make_lab(metric="loss").arms[0]
    assert getattr(best_point(high, points), "number", None) == 0
    assert getattr(best_point(low, points), "number", None) == 1
    assert best_point(high, points[3:]) is None


def test_the_front_keeps_what_nothing_beats(make_lab: Callable[..., Lab]) -> None:
    """Accuracy up, time down: a point stays unless another is at least as good in both and better in one."""
    arm = make_lab(objectives=["acc_top1", "time_train_s"], sampler="nsga2").arms[0]
    points = [point(n, "complete", 4, values) for n, values in enumerate([[0.9, 10.0], [0.8, 5.0], [0.8, 6.0], [0.7, 5.0], [0.6, 1.0]])]
    assert [each.number for each in front(arm, points)] == [0, 1, 4]
    assert shown_value(arm, 0.9) == "90.00 %"
    assert shown_value(arm, 12.345, 1) == "12.3 s"
