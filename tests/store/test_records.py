"""Records: what is refused, what is final, and rows with different keys as one Arrow table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.store.records import FINAL_FAILURES, Record, rows_to_table

if TYPE_CHECKING:
    from .conftest import MakeRecord


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trial_id": None}, "a record needs a trial_id, got None"),
        ({"trial_id": ""}, "a record needs a trial_id, got ''"),
        ({"state": "planned"}, r"complete, failed or pruned, not 'planned' \(trial t0\)"),
        ({"state": "running"}, "not 'running'"),
        ({"state": "skipped"}, "not 'skipped'"),
        ({"state": "done"}, "not 'done'"),
        ({"state": None}, "not None"),
        ({"state": "failed", "reason": ""}, "failed trial t0 has no reason"),
        ({"state": "failed", "reason": None}, "failed trial t0 has no reason"),
        ({"state": "complete", "metric_test_acc_top1_last": None}, "complete trial t0 has no metrics"),
    ],
)
def test_refused(make_record: MakeRecord, changes: dict[str, Any], message: str) -> None:
    """A record that contradicts itself is refused, with the trial named."""
    with pytest.raises(ValueError, match=message):
        make_record(**changes).check()


def test_history_needs_epochs(make_record: MakeRecord) -> None:
    """A row of the history without its epoch could never be put into order."""
    record = Record(make_record(), [{"epoch": 1}, {"metric_train_loss": 0.1}])
    with pytest.raises(ValueError, match="a row of the history of trial t0 has no epoch"):
        record.check()


@pytest.mark.parametrize("state", ["complete", "failed", "pruned"])
def test_accepted(make_record: MakeRecord, state: str) -> None:
    """The three states in which a trial may be stored."""
    record = make_record(state=state)
    record.check()


@pytest.mark.parametrize(
    ("state", "failure", "final"),
    [
        ("complete", "", True),
        ("failed", "error", False),
        ("failed", "diverged", True),
        ("failed", "out_of_memory", False),
        ("pruned", "", False),
    ],
)
def test_final(make_record: MakeRecord, state: str, failure: str, final: bool) -> None:
    """Only a complete trial, and one that would diverge again, are not worth another run."""
    assert make_record(state=state, failure=failure).is_final is final
    assert "diverged" in FINAL_FAILURES


def test_rows_with_different_keys() -> None:
    """A missing key becomes null, metrics and times are floats, stamps in nanoseconds stay whole, the rest is as it is."""
    rows = [
        {"trial_id": "a", "metric_x": 1, "time_train_s": 2, "time_finished_ns": 2**62 + 1, "seed": 3},
        {"trial_id": "b", "metric_y": 0.5, "env_host": "h"},
    ]
    table = rows_to_table(rows)
    assert table.column_names == ["trial_id", "metric_x", "time_train_s", "time_finished_ns", "seed", "metric_y", "env_host"]
    assert [table.schema.field(n).type for n in ("metric_x", "time_train_s", "metric_y")] == [pa.float64()] * 3
    back = table.to_pylist()
    assert back[0] == rows[0] | {"metric_y": None, "env_host": None}
    assert back[1]["metric_x"] is None
    assert back[0]["time_finished_ns"] == 2**62 + 1
