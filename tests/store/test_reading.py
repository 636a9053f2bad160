"""Reading records column by column: the same values as Arrow gives, and no more of the files than is asked for."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store.records import Record
from pipeline.store.row_values import rows_of
from pipeline.store.segments import Segments
from pipeline.store.trial_store import FAN_IN, TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord

COLUMNS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.sampled_from(["", "a", "resnet8", "é\nΔ"])),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.list_(pa.int32()), st.lists(st.integers(0, 5), max_size=3)),
    (pa.large_binary(), st.binary(max_size=3)),
    (pa.null(), st.none()),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables of one or several chunks, with columns of all types, with and without nulls."""
    kinds = draw(st.lists(st.sampled_from(COLUMNS), max_size=5))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    chunks = [
        pa.table({f"c{at}": pa.array([draw(st.none() | values) for _ in range(n)], kind) for at, (kind, values) in enumerate(kinds)})
        for n in lengths
    ]
    return pa.concat_tables(chunks)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_rows_are_those_of_arrow(table: pa.Table) -> None:
    """Values and their types are what `to_pylist` gives, in the order of the columns, without what is null."""
    expected = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    found = rows_of(table)
    assert repr(found) == repr(expected)  # repr: nan equals nan, and 1 differs from 1.0 and True


@pytest.mark.parametrize("url", ["folder", "memory"])
def test_summary(url: str, tmp_path: Path, make_record: MakeRecord) -> None:
    """It holds the asked columns of the records that count; a column that older records lack is absent from their rows only."""
    store = TrialStore(str(tmp_path) if url == "folder" else f"memory://{secrets.token_hex(8)}")
    assert store.summary(["state"]) == {}
    store.append([make_record("a", state="failed"), make_record("b", state="failed")])
    store.append([make_record("a", attempt=2, resumed=1), make_record("c", failure=None)])
    for reader in (store, TrialStore(store.url)):
        found = reader.summary(["failure", "attempt", "resumed", "no such column"])
        assert found == {"a": {"failure": "", "attempt": 2, "resumed": 1}, "b": {"failure": "error", "attempt": 1}, "c": {"attempt": 1}}
        assert reader.summary([]) == {"a": {}, "b": {}, "c": {}}
        assert reader.summary(["trial_id", "state"])["b"] == {"trial_id": "b", "state": "failed"}
        records = reader.records()
        everything = reader.summary([key for record in records.values() for key in record])
        assert everything == {trial_id: dict(record) for trial_id, record in records.items()}


def test_only_the_asked_columns_are_read(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not read for records, nothing but a few columns for a summary, and nothing is read twice."""
    TrialStore(tmp_path).append([Record(make_record("a"), panel={"panel_index": [1]})])
    read, asked = pq.ParquetFile.read, []

    def noted(file: pq.ParquetFile, columns: list[str], **options: Any) -> pa.Table:
        asked.append(columns)
        return read(file, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", noted)
    store = TrialStore(tmp_path)
    for _ in range(2):
        store.summary(["failure"])
    assert sorted(asked.pop()) == ["failure", "state", "time_finished_ns", "trial_id"]
    for _ in range(2):
        store.records()
    assert {"failure", "trial_id", "panel_index"}.isdisjoint(asked.pop())
    for _ in range(2):
        store.panels_table(["a"])
    assert asked == [["panel_index"]]


def test_history_of_one_trial_needs_its_own_segment_only(tmp_path: Path, make_record: MakeRecord) -> None:
    """A damaged history elsewhere does not stand in the way of the others."""
    store = TrialStore(tmp_path)
    for trial_id in ("a", "b"):
        store.append([make_record(trial_id)])
    max((tmp_path / "segments").glob("*.history.parquet")).write_bytes(b"garbage")
    store = TrialStore(tmp_path)
    assert len(store.history("a")) == 2
    with pytest.raises(StoreError, match="cannot be read"):
        store.history("b")


def test_merged_segments_leave_the_memory(tmp_path: Path, make_record: MakeRecord) -> None:
    """What a long-lived reader keeps does not grow with segments that are gone."""
    reader, writer = TrialStore(tmp_path), TrialStore(tmp_path)
    for number in range(3 * FAN_IN):
        writer.append([make_record(f"t{number}")])
        assert len(reader.records()) == number + 1
        writer.compact()
    segments: Segments = reader._segments
    reader.records()
    assert {key.split(".")[0] for key in segments._cache} == set(segments.names())
    assert len(segments._cache) == 3


def test_complete_record_beside_a_writer(tmp_path: Path, make_record: MakeRecord) -> None:
    """A reader that lives long finds a trial with its history once it is complete, before and after merging, and never a failed one."""
    reader, writer = TrialStore(tmp_path), TrialStore(tmp_path)
    assert reader.complete_record("t0") is None
    writer.append([make_record("t0", state="failed")])
    assert reader.complete_record("t0") is None
    for number in range(FAN_IN):
        writer.append([make_record(f"t{number}", attempt=2)])
        found = reader.complete_record(f"t{number}")
        assert found == writer.records()[f"t{number}"]
        assert len(found.history) == 2
    writer.compact()
    assert reader.complete_record("t3")["attempt"] == 2
    assert reader.complete_record("absent") is None
