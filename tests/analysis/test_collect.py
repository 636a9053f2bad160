"""Plan and store joined: every planned trial has its row, whatever became of it, and the same table a join row by row would give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.collect import FIRST, NOT_TABULAR, collect, collect_trials
from pipeline.errors import ConfigError
from pipeline.store.records import SCHEMA_VERSION, Record
from pipeline.store.trial_store import TrialStore

NUMBER = st.none() | st.integers(0, 3) | st.floats(0, 1)
OPTIONAL = st.fixed_dictionaries(
    {},
    optional={
        "metric_test_acc_top1_last": NUMBER,
        "time_train_s": NUMBER,
        "time_started_ns": st.integers(0, 2**60),
        "mem_peak_bytes": st.none() | st.integers(0, 9),
        "adopted_from": st.none() | st.just("t9"),
        "aaa": st.just("a name before all others"),
        "factor_gone": st.just("a factor that the plan does not have"),
        "run_id": st.just("not what outcomes.json says"),
        "spec": st.just("{}"),
    },
)
STATE = st.sampled_from([None, "complete", "failed", "pruned"])  # None: not stored
TRIAL = st.tuples(STATE, st.booleans(), st.none() | st.text(max_size=3), OPTIONAL)


def _plan(skipped: bool, number: int, level: str | None) -> dict[str, Any]:
    state, reason = ("skipped", "has no map") if skipped else ("planned", "")
    names = {"trial_id": f"t{number}", "cell_id": f"c{number // 2}", "name": f"net/{number}"}
    return {**names, "state": state, "reason": reason, "seed": number, "tables": ["a"], "planned": "{}", "factor_lr": level}


def _record(state: str, number: int, more: Mapping[str, Any]) -> Record:
    reason = "" if state == "complete" else "loss became nan"
    row = {"trial_id": f"t{number}", "cell_id": "of another study", "name": "of another study", "state": state, "reason": reason}
    row |= {"failure": "diverged" if state == "failed" else "", "attempt": 2, "seed": number, "metric_always": 0.5}
    return Record({**more, **row}, [{"epoch": 1, "metric_val_acc_top1": 0.5}])


def _row_by_row(plans: list[dict[str, Any]], records: Mapping[str, Record], run_ids: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the table must hold, as dictionaries: the oracle."""
    rows = []
    for plan in plans:
        record = records.get(plan["trial_id"])
        stored: dict[str, Any] = {} if record is None else {key: value for key, value in record.items() if key not in NOT_TABULAR}
        if plan["state"] == "skipped":
            stored = {"state": "skipped", "reason": plan["reason"]}
        elif record is None:
            stored = {"state": "planned", "reason": "not trained yet"}
        named = {key: plan[key] for key in ("trial_id", "cell_id", "name", "seed", "factor_lr")}
        defaults = {"schema_version": SCHEMA_VERSION, "attempt": 0, "failure": ""}
        rows.append({**defaults, **stored, "run_id": run_ids.get(plan["trial_id"]), **named})
    return rows


@settings(deadline=None, max_examples=60)
@given(trials=st.lists(TRIAL, min_size=1, max_size=6), mirrored=st.sets(st.integers(0, 5)))
def test_the_join_is_what_one_row_after_the_other_gives(tmp_path_factory, trials, mirrored):
    """Values, absent columns, types and the order of columns agree with a join in dictionaries, for any mix of outcomes."""
    folder = tmp_path_factory.mktemp("join")
    store = TrialStore(folder / "store")
    plans = [_plan(skipped, number, level) for number, (_, skipped, level, _) in enumerate(trials)]
    pq.write_table(pa.Table.from_pylist(plans), folder / "trials.parquet")
    for number, (state, _, _, more) in enumerate(trials):
        store.append([_record(state, number, more)] if state else [])
    store.append([_record("complete", 99, {})])  # of another plan
    run_ids = {f"t{number}": f"run{number}" for number in mirrored}
    table, ignored = collect_trials(folder / "trials.parquet", store, run_ids)
    expected = _row_by_row(plans, store.records(), run_ids)
    order = list(dict.fromkeys(key for row in expected for key in [*FIRST, *sorted(row.keys() - {*FIRST})]))
    assert table.column_names == order
    assert table.to_pylist() == [{key: row.get(key) for key in order} for row in expected]
    assert {table.schema.field(name).type for name in order if name.startswith(("metric_", "time_train"))} <= {pa.float64()}
    assert ignored == 1


def test_histories_come_by_trial_and_epoch(tmp_path):
    """In that order, however they lie in the store; those of trials that did not end or are skipped are left out."""
    store = TrialStore(tmp_path / "store")
    plans = [_plan(number == 3, number, "0.1") for number in (2, 10, 1, 3, 4)]
    pq.write_table(pa.Table.from_pylist(plans), tmp_path / "trials.parquet")
    for number, state in ((10, "complete"), (2, "failed"), (1, "complete"), (3, "complete"), (4, "pruned")):
        store.append([Record(_record(state, number, {}), [{"epoch": epoch, "metric_val_loss": float(number)} for epoch in (3, 1, 2)])])
    history = collect(tmp_path / "trials.parquet", store, {}).history
    assert history.select(["trial_id", "epoch", "metric_val_loss"]).to_pylist() == [
        {"trial_id": f"t{number}", "epoch": epoch, "metric_val_loss": float(number)} for number in (1, 10, 2) for epoch in (1, 2, 3)
    ]


def test_the_trials_are_read_without_their_histories(tmp_path, monkeypatch):
    """A table needs no history, so `collect_trials` opens none."""
    store = TrialStore(tmp_path / "store")
    store.append([_record("complete", 0, {})])
    pq.write_table(pa.Table.from_pylist([_plan(False, 0, None)]), tmp_path / "trials.parquet")
    monkeypatch.setattr(TrialStore, "history_table", None)
    table, _ = collect_trials(tmp_path / "trials.parquet", TrialStore(tmp_path / "store"), {})
    assert table["state"].to_pylist() == ["complete"]


def test_without_a_plan_it_says_what_to_run(tmp_path: Path):
    """A missing plan is one message."""
    with pytest.raises(ConfigError, match="dvc repro plan"):
        collect(tmp_path / "trials.parquet", TrialStore(tmp_path / "store"), {})
