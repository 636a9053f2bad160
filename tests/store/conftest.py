"""Records to put into a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.store.records import Record

MakeRecord = Callable[..., Record]


@pytest.fixture(name="make_record", scope="session")
def make_record_fixture() -> MakeRecord:
    """Factory of a record; keywords replace or add keys, and None takes one away."""

    def make(trial_id: str = "t0", state: str = "complete", epochs: int = 2, **changes: Any) -> Record:
        row: dict[str, Any] = {"trial_id": trial_id, "cell_id": "c", "state": state, "reason": "", "failure": "", "seed": 0, "attempt": 1}
        if state == "complete":
            row |= {"metric_test_acc_top1_last": 0.5, "time_train_s": 1.5}
        if state == "failed":
            row |= {"reason": "ValueError: no", "failure": "error"}
        row |= changes
        history = [{"epoch": epoch + 1, "metric_train_loss": 1 / (epoch + 1)} for epoch in range(epochs)]
        return Record({key: value for key, value in row.items() if value is not None}, history)

    return make
