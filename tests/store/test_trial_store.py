"""The trial store: what goes in comes out, the better record counts, and merging loses nothing."""

from __future__ import annotations

import os
import random
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store import trial_store
from pipeline.store.records import SCHEMA_VERSION, Record
from pipeline.store.trial_store import FAN_IN, TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord


def _files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "segments").iterdir())


@pytest.fixture(name="url", params=["folder", "memory"])
def url_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store in a folder, and one behind a URL."""
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}/store"


def test_an_empty_store(url: str) -> None:
    """A store that was never written is empty, not broken, and reading makes no folder."""
    store = TrialStore(url)
    assert store.records() == {}
    assert store.records_table(["t"]) is None
    assert store.history_table(["t"]) is None
    assert store.history("t") == []
    store.compact()
    assert url.startswith("memory") or not Path(url).exists()


def test_round_trip(url: str, make_record: MakeRecord) -> None:
    """Records and histories with different keys come back as they went in, from another process's view too."""
    first = make_record("a", epochs=3, best_val_epoch=2, seed_init=2**63 - 1, text="é\nΔ", flag=True)
    second = make_record("b", state="failed", traceback="Traceback ...", mem_peak_bytes=2**40)
    third = Record({**make_record("c"), "metric_val_loss_last": 1}, [{"epoch": 1, "metric_other": 0.25}])
    store = TrialStore(url)
    store.append([first, second])
    store.append([third])
    back = TrialStore(url).records()
    assert list(back) == ["a", "b", "c"] or set(back) == {"a", "b", "c"}
    for record in (first, second, third):
        stored = back[record["trial_id"]]
        assert stored["schema_version"] == SCHEMA_VERSION
        assert {key: stored[key] for key in record} == dict(record)
        assert set(stored) == {*record, "schema_version", "time_finished_ns"}
        assert TrialStore(url).history(record["trial_id"]) == record.history
    assert store.history("absent") == []


def test_tables(url: str, make_record: MakeRecord) -> None:
    """The Arrow views hold the trials asked for, and nothing of how they are stored."""
    store = TrialStore(url)
    store.append([make_record("a", epochs=3)])
    store.append([make_record("b", epochs=1)])
    records, history = store.records_table(["b", "absent"]), store.history_table(["a"])
    assert records["trial_id"].to_pylist() == ["b"]
    assert history["epoch"].to_pylist() == [1, 2, 3]
    assert "segment" not in records.column_names + history.column_names


def test_a_record_without_history(url: str, make_record: MakeRecord) -> None:
    """A trial that failed before its first epoch has a record and no history."""
    store = TrialStore(url)
    store.append([make_record("a", state="failed", epochs=0)])
    assert store.history("a") == []
    assert store.history_table(["a"]) is None
    store.append([make_record("b", epochs=1)])
    assert store.history("a") == []
    assert len(store.history("b")) == 1


def test_nothing_to_append(url: str) -> None:
    """An empty list of records leaves no file."""
    store = TrialStore(url)
    store.append([])
    assert store.records() == {}


def test_an_unsound_record_stores_nothing(url: str, make_record: MakeRecord) -> None:
    """One record of a batch that contradicts itself keeps the whole batch out."""
    store = TrialStore(url)
    with pytest.raises(ValueError, match="not 'running'"):
        store.append([make_record("a"), make_record("b", state="running")])
    assert store.records() == {}


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("attempts", "winner"),
    [
        (["failed", "complete"], 1),
        (["complete", "failed"], 0),
        (["failed", "failed"], 1),
        (["complete", "complete"], 1),
        (["failed", "complete", "failed", "complete", "failed"], 3),
    ],
)
def test_the_better_then_the_later_record_counts(
    tmp_path: Path, make_record: MakeRecord, attempts: list[str], winner: int, compacted: bool
) -> None:
    """Complete beats failed, later beats earlier, and the history is that of the record that counts; so also after merging."""
    store = TrialStore(tmp_path)
    for number, state in enumerate(attempts):
        store.append([Record(make_record("t", state=state, attempt=number), [{"epoch": 1, "metric_x": float(number)}])])
    if compacted:
        for number in range(2 * FAN_IN):
            store.append([make_record(f"other{number}")])
        store.compact()
        assert len(_files(tmp_path)) == 2
    store = TrialStore(tmp_path)
    assert store.records()["t"]["attempt"] == winner
    assert store.history("t") == [{"epoch": 1, "metric_x": float(winner)}]


def test_appending_changes_no_file(tmp_path: Path, make_record: MakeRecord) -> None:
    """The store only grows: what was written stays byte for byte when the same trial is stored again."""
    store = TrialStore(tmp_path)
    store.append([make_record("a")])
    before = {name: (tmp_path / "segments" / name).read_bytes() for name in _files(tmp_path)}
    store.append([make_record("a"), make_record("b")])
    after = {name: (tmp_path / "segments" / name).read_bytes() for name in _files(tmp_path)}
    assert before.items() <= after.items()
    assert len(after) == 2 * len(before) == 4


@pytest.mark.parametrize("epochs", [1, 40])
def test_merging_bounds_the_number_of_files(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """600 trials, one append each, end in a few files however many epochs they have, and every one of them is still there."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 1,200 of them are slow and prove nothing here
    store = TrialStore(tmp_path)
    most = 0
    for number in range(600):
        store.append([make_record(f"t{number}", seed=number, epochs=epochs)])
        if number % 50 == 49:
            store.compact()
            most = max(most, len(_files(tmp_path)))
    assert most <= 64
    records = TrialStore(tmp_path).records()
    assert {trial_id: record["seed"] for trial_id, record in records.items()} == {f"t{number}": number for number in range(600)}
    history = store.history_table(records)
    assert history.num_rows == 600 * epochs
    assert len(store.history("t599")) == epochs


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=60))
def test_merging_never_changes_what_is_read(plan: list[tuple[int, bool, bool]], make_record: MakeRecord) -> None:
    """Whatever is appended and whenever it is merged, a store reads as one that was never merged."""
    merged, plain = TrialStore(f"memory://{secrets.token_hex(8)}"), TrialStore(f"memory://{secrets.token_hex(8)}")
    for attempt, (number, complete, compact) in enumerate(plan):
        record = make_record(f"t{number}", state="complete" if complete else "failed", attempt=attempt, epochs=attempt % 3)
        for store in (merged, plain):
            store.append([record])
        if compact:
            merged.compact()
    merged.compact()
    expected = plain.records()
    found = merged.records()
    assert {key: record["attempt"] for key, record in found.items()} == {key: record["attempt"] for key, record in expected.items()}
    for trial_id in expected:
        assert merged.history(trial_id) == plain.history(trial_id)


def test_a_merge_that_was_cut_short(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a process dies between writing the merged segment and removing the old ones, nothing is doubled, and the next one tidies up."""
    store = TrialStore(tmp_path)
    for number in range(FAN_IN):
        store.append([make_record(f"t{number}")])
    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "_remove", lambda self, name: None)
        store.compact()
    assert len(_files(tmp_path)) == 2 * (FAN_IN + 1)
    assert len(TrialStore(tmp_path).records()) == FAN_IN
    assert len(TrialStore(tmp_path).history("t3")) == 2
    store.compact()
    assert len(_files(tmp_path)) <= 4
    assert len(TrialStore(tmp_path).records()) == FAN_IN
    assert [len(TrialStore(tmp_path).history(f"t{number}")) for number in range(FAN_IN)] == [2] * FAN_IN


def test_history_without_records_counts_for_nothing(tmp_path: Path, make_record: MakeRecord) -> None:
    """History is written before its records: when a process dies between the two, the trial was never stored."""
    store = TrialStore(tmp_path)
    store.append([make_record("a")])
    store.append([make_record("b")])
    newest = max(path for path in (tmp_path / "segments").iterdir() if path.name.endswith(trial_store.RECORDS))
    newest.unlink()
    assert set(TrialStore(tmp_path).records()) == {"a"}
    assert TrialStore(tmp_path).history("b") == []
    assert len(TrialStore(tmp_path).history("a")) == 2


def test_readers_and_a_writer_beside_merging(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """While two others merge, every reader sees every trial stored before it looked, each with its whole history."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    TrialStore(tmp_path).append([make_record("t0", epochs=2)])
    stored, stop, problems = [1], threading.Event(), []

    def guard(act: Any) -> None:
        try:
            while not stop.is_set():
                act()
        except Exception as error:  # noqa: BLE001 - a thread's failure is this test's failure
            problems.append(repr(error))

    def read() -> None:
        count = stored[0]
        store = TrialStore(tmp_path)
        history = store.history_table([f"t{number}" for number in range(count)])
        if history is None or history.num_rows != 2 * count or len(store.records()) < count:
            problems.append(f"{count} stored, {None if history is None else history.num_rows} rows of history read")

    acts = [read, lambda: TrialStore(tmp_path).compact(), lambda: TrialStore(tmp_path).compact()]
    threads = [threading.Thread(target=guard, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    writer = TrialStore(tmp_path)
    for number in range(1, 150):
        writer.append([make_record(f"t{number}", epochs=2)])
        stored[0] = number + 1
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(TrialStore(tmp_path).records()) == 150


def test_weights(url: str) -> None:
    """Weights go in and come out as safetensors, bit for bit; asking for what was not kept says what to set."""
    import torch
    from safetensors.torch import load, save

    state = {"layer.weight": torch.randn(3, 4), "steps": torch.tensor([7]), "half": torch.ones(2, dtype=torch.bfloat16)}
    store = TrialStore(url)
    store.save_weights("t", save(state))
    back = load(TrialStore(url).load_weights("t"))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in state.items())
    with pytest.raises(StoreError, match=r"No weights of trial other in .*Set `store\.weights` to last or best"):
        store.load_weights("other")


def test_a_segment_of_another_type(tmp_path: Path, make_record: MakeRecord) -> None:
    """Two segments that disagree about a column's type are named as such, not as a traceback of a library."""
    store = TrialStore(tmp_path)
    store.append([make_record("a", seed=1)])
    store.append([make_record("b", seed="one")])
    with pytest.raises(StoreError, match=r"disagree about the type of a column.*seed"):
        TrialStore(tmp_path).records()


def test_a_segment_can_be_read_by_any_parquet_reader(tmp_path: Path, make_record: MakeRecord) -> None:
    """Segments are plain Parquet files: the data outlives this program."""
    TrialStore(tmp_path).append([make_record("a", epochs=2)])
    tables = {path.name.split(".", 1)[1]: pq.read_table(path) for path in (tmp_path / "segments").iterdir()}
    assert tables["records.parquet"]["trial_id"].to_pylist() == ["a"]
    assert tables["history.parquet"]["epoch"].to_pylist() == [1, 2]


def test_records_are_found_in_any_order(tmp_path: Path, make_record: MakeRecord) -> None:
    """The order of appending does not decide what is found."""
    order = [f"t{number}" for number in range(20)]
    random.Random(3).shuffle(order)
    store = TrialStore(tmp_path)
    for trial_id in order:
        store.append([make_record(trial_id)])
    assert set(store.records()) == set(order)
