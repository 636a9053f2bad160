"""Pictures in the store: beside the record they belong to, and out of the way of everything else."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store.records import Record, panel_types
from pipeline.store.trial_store import FAN_IN, TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord


def panel(mark: int = 0) -> dict[str, Any]:
    """Pictures of two images of 1 x 2 and one point."""
    return {
        "panel_digest": "d",
        "panel_index": [0, 5],
        "panel_label": [0, 1],
        "panel_predicted": [0, mark],
        "panel_height": 1,
        "panel_width": 2,
        "panel_cam": bytes([0, 255, 255, mark]),
        "panel_caam": bytes([0, 1, 2, 255]),
        "panel_point_index": [0],
        "panel_point_label": [0],
        "panel_xy": b"\x00\x3c\x00\x00",
        "panel_share": [0.5, 0.25],
        "panel_class_correct": [3, mark],
        "panel_class_count": [4, 40],
    }


@pytest.mark.parametrize("compacted", [False, True])
def test_round_trip_beside_records_without_them(make_record: MakeRecord, compacted: bool) -> None:
    """What goes in comes out, in the declared types; older and failed records have no row; records never carry the bytes."""
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    store.append([make_record("old")])
    assert store.panels_table(["old"]) is None
    for number in range(FAN_IN):
        store.append([Record(make_record(f"t{number}"), panel=panel(number))])
    store.append([make_record("bad", state="failed")])
    if compacted:
        store.compact()
    store = TrialStore(store.url)
    table = store.panels_table(["old", "bad", "t1", "t3", "absent"])
    assert table.sort_by("trial_id").to_pylist() == [{"trial_id": f"t{n}", **panel(n)} for n in (1, 3)]
    assert {field.name: field.type for field in table.schema} == {"trial_id": pa.string(), **panel_types()}
    assert store.panels_table(["old", "bad"]) is None
    assert len(store.records()) == FAN_IN + 2
    assert not [key for record in store.records().values() for key in record if key.startswith("panel_")]
    assert not [name for name in store.records_table(["t1"]).column_names if name.startswith(("panel_", "segment"))]


def test_an_empty_store_and_empty_lists(tmp_path: Path, make_record: MakeRecord) -> None:
    """No records: no pictures. A trial without images to show keeps its empty lists, whatever the others hold."""
    store = TrialStore(tmp_path)
    assert store.panels_table(["t"]) is None
    empty = {key: [] if isinstance(value, list) else value for key, value in panel().items()}
    store.append([Record(make_record("empty"), panel=empty)])
    store.append([Record(make_record("full"), panel=panel())])
    rows = TrialStore(tmp_path).panels_table(["empty", "full"]).sort_by("trial_id").to_pylist()
    assert [row["panel_index"] for row in rows] == [[], [0, 5]]


def test_a_store_written_before_there_were_pictures(tmp_path: Path, make_record: MakeRecord) -> None:
    """Segments without the columns are read beside new ones, and the better record's pictures count."""
    store = TrialStore(tmp_path)
    store.append([make_record("a"), make_record("b", state="failed")])
    (segment,) = (tmp_path / "segments").glob("*.records.parquet")
    assert not [name for name in pq.read_schema(segment).names if name.startswith("panel_")]
    store.append([Record(make_record("b"), panel=panel())])
    store = TrialStore(tmp_path)
    assert set(store.records()) == {"a", "b"}
    assert store.panels_table(["a", "b"])["trial_id"].to_pylist() == ["b"]


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("order", ["older first", "newer first", "older only"])
def test_pictures_of_an_earlier_version(make_record: MakeRecord, order: str, compacted: bool) -> None:
    """Trials stored before accuracies by class were kept have nulls there, whichever segment comes first, and lose nothing else."""
    known = {key: value for key, value in panel().items() if not key.startswith("panel_class_")}
    older = [Record(make_record(f"a{number}"), panel=known) for number in range(FAN_IN)]
    newer = [] if order == "older only" else [Record(make_record("b"), panel=panel(7))]
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    for record in newer + older if order == "newer first" else older + newer:
        store.append([record])
    if compacted:
        store.compact()
    table = TrialStore(store.url).panels_table(["a0", "a1", "b"]).sort_by("trial_id")
    absent = {"panel_class_correct": None, "panel_class_count": None}
    expected = [{"trial_id": f"a{number}", **known, **absent} for number in range(2)]
    assert table.to_pylist() == expected + [{"trial_id": "b", **panel(7)} for _ in newer]
    assert {field.name: field.type for field in table.schema} == {"trial_id": pa.string(), **panel_types()}


def test_a_panel_of_other_columns_is_refused(make_record: MakeRecord) -> None:
    """A key without the prefix would overwrite a column of the record."""
    with pytest.raises(ValueError, match="columns of the panel of trial t0 begin with panel_, not so state"):
        Record(make_record(), panel={"state": "failed", "panel_index": []}).check()
