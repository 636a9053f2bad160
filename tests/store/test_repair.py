"""Repair: what is damaged or left over is found and put right, and everything else stays byte for byte."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.store import claims as claims_module
from pipeline.store import holder
from pipeline.store.checkpoints import CheckpointFiles
from pipeline.store.claims import Claims
from pipeline.store.records import Record
from pipeline.store.repair import OLD_S, Finding, examine, repair
from pipeline.store.trial_store import FAN_IN, TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"no parquet " * 20,
    "hole": lambda content: content[:40] + bytes(60) + content[100:],
}


def _content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _segment(store: TrialStore, record: Record | list[Record]) -> str:
    """Append records; the name of the segment they are in."""
    before = set(store._segments.names())
    store.append(record if isinstance(record, list) else [record])
    (name,) = set(store._segments.names()) - before
    return name


def _files(findings: list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.severity, finding.file) for finding in findings)


def test_a_sound_store(tmp_path: Path, make_record: MakeRecord) -> None:
    """In a store with records, histories, weights, checkpoints, live claims and strangers' files nothing is found, nothing changed."""
    store = TrialStore(tmp_path)
    assert examine(store) == repair(store) == []
    store.append([make_record("a"), make_record("b", state="failed", epochs=0)])
    for number in range(FAN_IN + 3):
        store.append([make_record(f"t{number}")])
    store.compact()
    store.save_weights("a", b"weights")
    for payload in (b"1", b"2", b"3"):
        CheckpointFiles(store, "b", None).save(payload)
    claims = Claims(store, "me", 60.0)
    claims.take("b")
    for name in ("notes.txt", "segments/.DS_Store", "segments/copy of.records.parquet", "claims/README", "checkpoints/b/x.ckpt.old"):
        (tmp_path / name).write_text("a stranger's")
    before = _content(tmp_path)
    assert examine(store) == repair(store) == []
    assert _content(tmp_path) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_goes_to_quarantine(tmp_path: Path, make_record: MakeRecord, damage: str) -> None:
    """Both files are moved as they are, the rest of the store is untouched, and only the trials in it are missing."""
    store = TrialStore(tmp_path)
    good = _segment(store, make_record("good"))
    bad = _segment(store, [make_record("bad"), make_record("good", state="failed")])
    file = tmp_path / "segments" / f"{bad}.records.parquet"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    before = _content(tmp_path)
    with pytest.raises(StoreError, match="`ablate doctor --repair`"):
        TrialStore(tmp_path).records_table(["bad"])
    (finding,) = examine(store)
    assert (finding.severity, finding.file) == ("damage", f"segments/{bad}.records.parquet")
    assert "it holds 2 trials, 1 of them stored elsewhere too; 1 will be trained again; move it and its history to quarantine/" in str(
        finding
    )
    assert _content(tmp_path) == before
    assert repair(store) == [finding]
    moved = {f"quarantine/{bad}.{kind}.parquet": before.pop(f"segments/{bad}.{kind}.parquet") for kind in ("records", "history")}
    assert _content(tmp_path) == before | moved
    assert all(good in name for name in before)
    assert set(TrialStore(tmp_path).records()) == {"good"}
    assert len(TrialStore(tmp_path).history("good")) == 2
    assert examine(TrialStore(tmp_path)) == []


def test_when_nothing_tells_which_trials_are_affected(tmp_path: Path, make_record: MakeRecord) -> None:
    """With both files of a segment unreadable the finding does not guess."""
    store = TrialStore(tmp_path)
    name = _segment(store, make_record("bad"))
    for kind in ("records", "history"):
        (tmp_path / "segments" / f"{name}.{kind}.parquet").write_bytes(b"")
    (finding,) = repair(store)
    assert "its trials will be trained again" in finding.what
    assert TrialStore(tmp_path).records() == {}
    assert len(_content(tmp_path / "quarantine")) == 2


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_damaged_history_leaves_the_results(tmp_path: Path, make_record: MakeRecord, damage: str) -> None:
    """The records are written again, to the bit and marked, and the old files kept: no trial is trained again for its curve."""
    store = TrialStore(tmp_path)
    _segment(store, make_record("good"))
    bad = _segment(store, [make_record("bad", metric_x=0.1 + 0.2), Record(make_record("nan", metric_x=float("nan")))])
    expected = TrialStore(tmp_path).records()
    file = tmp_path / "segments" / f"{bad}.history.parquet"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(StoreError, match="`ablate doctor --repair`"):
        TrialStore(tmp_path).history("bad")
    (finding,) = repair(store)
    assert (finding.severity, finding.file) == ("damage", f"segments/{bad}.history.parquet")
    assert "2 trials lose their numbers by epoch, their results stay" in str(finding)
    repaired = TrialStore(tmp_path)
    found = repaired.records()
    assert {trial_id: record.pop("history_lost", False) for trial_id, record in found.items()} == {"good": False, "bad": True, "nan": True}
    assert {trial_id: repr(record) for trial_id, record in found.items()} == {i: repr(record) for i, record in expected.items()}
    assert (len(repaired.history("good")), repaired.history("bad")) == (2, [])
    assert f"quarantine/{bad}.records.parquet" in _content(tmp_path)
    assert examine(repaired) == []


def test_every_wrong_bit_is_found(tmp_path: Path, make_record: MakeRecord) -> None:
    """Bit rot anywhere in a segment, the names of columns included, is found, and what is read after the repair is right."""
    origin = TrialStore(tmp_path / "origin")
    name = _segment(origin, make_record("a", metric_x=0.3, epochs=3))
    expected = origin.records()["a"]
    files = _content(tmp_path / "origin")
    for at, (file, content) in enumerate(files.items()):
        for position in range(at, len(content), 41):
            root = tmp_path / f"{at}-{position}"
            (root / "segments").mkdir(parents=True)
            for each, sound in files.items():
                wrong = content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
                (root / each).write_bytes(wrong if each == file else sound)
            (finding,) = repair(TrialStore(root))
            assert (finding.severity, finding.file) == ("damage", file), position
            found = TrialStore(root).records()
            assert set(found) <= {"a"}
            assert all(dict(record) == {**expected, "history_lost": True} for record in found.values())
            assert bool(found) == ("history" in file)
    assert name in file


def test_a_store_of_an_earlier_version(tmp_path: Path, make_record: MakeRecord) -> None:
    """Segments without digests of their own are sound as long as their pages are."""
    store = TrialStore(tmp_path)
    name = _segment(store, make_record("a"))
    for path in (tmp_path / "segments").iterdir():
        table = pq.read_table(path)
        known = {b"has_history": b"yes"} if "records" in path.name else None
        pq.write_table(table.replace_schema_metadata(known), path.with_name(path.name.replace(name, name[:-8] + "00000000")))
        path.unlink()
    assert examine(TrialStore(tmp_path)) == []
    assert len(TrialStore(tmp_path).history("a")) == 2


def test_a_parquet_file_that_holds_something_else(tmp_path: Path) -> None:
    """A table without the columns of records under the name of a segment is damage, not a traceback."""
    (tmp_path / "segments").mkdir()
    name = f"00-{time.time_ns():020d}-00000000"
    pq.write_table(pa.table({"x": [1]}), tmp_path / "segments" / f"{name}.records.parquet")
    (finding,) = repair(TrialStore(tmp_path))
    assert "has no column trial_id, state, time_finished_ns" in finding.what
    assert TrialStore(tmp_path).records() == {}


def test_scraps_of_writers_that_are_gone(tmp_path: Path, make_record: MakeRecord) -> None:
    """Half files go when their writer on this machine is dead or they are an hour old; those of living or unknown writers stay."""
    store = TrialStore(tmp_path)
    store.append([make_record("a")])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = holder.machine()
    gone = [f"segments/.x.records.parquet.{here}-{dead.pid}-00000000.tmp", f"checkpoints/b/.x.ckpt.{here}-{dead.pid}-00000000.tmp"]
    old = ["segments/.x.records.parquet.77-00000000.tmp", "weights/.a.0badcafe-1-00000000.tmp", "segments/probe-1.tmp"]
    kept = [f"claims/.x.{here}-{os.getpid()}-00000000.tmp", f"segments/.y.0badcafe-{dead.pid}-00000000.tmp", "notes.tmp"]
    for name in (*gone, *old, *kept):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        if name in old:
            os.utime(path, (time.time() - OLD_S - 60,) * 2)
    before = _content(tmp_path)
    assert _files(examine(store)) == _files(repair(store)) == sorted(("leftover", name) for name in gone + old)
    assert _content(tmp_path) == {name: content for name, content in before.items() if name not in gone + old}
    assert examine(store) == []


def test_history_without_records(tmp_path: Path, make_record: MakeRecord) -> None:
    """It may be about to get its records, so it is left alone for an hour, and removed after that."""
    store = TrialStore(tmp_path)
    store.append([make_record("a")])
    young, old = (f"segments/00-{time.time_ns() - int(age * 1e9):020d}-00000000.history.parquet" for age in (0, OLD_S + 60))
    for name in (young, old):
        (tmp_path / name).write_bytes(b"history")
    assert _files(repair(store)) == [("leftover", old)]
    assert (tmp_path / young).exists()
    assert not (tmp_path / old).exists()
    assert examine(store) == []


def test_checkpoints(tmp_path: Path, make_record: MakeRecord) -> None:
    """Those of trials that will not run again and those that are damaged are removed; those that may be needed stay."""
    store = TrialStore(tmp_path)
    outcomes = {
        "complete": make_record("complete"),
        "diverged": make_record("diverged", state="failed", failure="diverged"),
        "failed": make_record("failed", state="failed"),
        "pruned": make_record("pruned", state="pruned"),
    }
    store.append(outcomes.values())
    for trial_id in (*outcomes, "running", "damaged"):
        for payload in (b"older", b"newer"):
            CheckpointFiles(store, trial_id, None).save(payload)
    damaged = max((tmp_path / "checkpoints" / "damaged").iterdir())
    damaged.write_bytes(b"garbage")
    before = _content(tmp_path)
    expected = [("damage", str(damaged.relative_to(tmp_path))), ("leftover", "checkpoints/complete"), ("leftover", "checkpoints/diverged")]
    assert _files(examine(store)) == _files(repair(store)) == expected
    gone = {name for name in before if name.startswith(tuple(file for _, file in expected))}
    assert len(gone) == 5
    assert _content(tmp_path) == {name: content for name, content in before.items() if name not in gone}
    assert CheckpointFiles(store, "damaged", None).load() == b"older"
    assert examine(store) == []


def test_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of dead holders, superseded ones and ones that cannot be read are removed; live ones stay."""
    store = TrialStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(claims_module, "started_s", lambda pid: -1000.0)  # of a process that had this pid before
        assert Claims(store, "dead", 60.0).take("dead")
    live = Claims(store, "live", 60.0)
    live.take("live")
    (tmp_path / "claims" / "live.000000.json").write_text("{}")
    (tmp_path / "claims" / "unreadable.000003.json").write_text('{"trial_id": ')
    expected = [
        ("damage", "claims/unreadable.000003.json"),
        ("leftover", "claims/dead.000001.json"),
        ("leftover", "claims/live.000000.json"),
    ]
    assert _files(examine(store)) == _files(repair(store)) == expected
    assert list(_content(tmp_path)) == ["claims/live.000001.json"]
    assert live.renew("live")
    assert examine(store) == []


def test_behind_a_url(make_record: MakeRecord) -> None:
    """A store in an object store is examined and repaired like a folder."""
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    good, bad = _segment(store, make_record("good")), _segment(store, make_record("bad"))
    CheckpointFiles(store, "good", None).save(b"left over")
    store.files.write(f"segments/{bad}.records.parquet", b"garbage")
    assert len(repair(store)) == 2
    assert set(TrialStore(store.url).records()) == {"good"}
    assert store.files.names("segments") == [f"{good}.history.parquet", f"{good}.records.parquet"]
    assert store.files.read(f"quarantine/{bad}.records.parquet") == b"garbage"
    assert examine(store) == []


def test_a_network_that_fails_is_no_damage(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound segments that cannot be reached at the moment stay where they are; one that the disk has lost is moved."""
    store = TrialStore(tmp_path)
    name = _segment(store, make_record("a"))
    before = _content(tmp_path)
    read = Path.read_bytes

    def failing(code: int) -> Callable[[Path], bytes]:
        def read_bytes(path: Path) -> bytes:
            if path.name == f"{name}.records.parquet":
                raise OSError(code, os.strerror(code))
            return read(path)

        return read_bytes

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(116))
        with pytest.raises(StoreError, match="Stale file handle"):
            repair(store)
    assert _content(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(5))
        (finding,) = repair(store)
    assert "Input/output error" in finding.what
    assert set(_content(tmp_path)) == {file.replace("segments", "quarantine") for file in before}


def test_repair_that_is_cut_short(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a repair dies after writing records again and before moving the old ones, nothing is doubled, and the next one ends it."""
    store = TrialStore(tmp_path)
    name = _segment(store, make_record("a"))
    (tmp_path / "segments" / f"{name}.history.parquet").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with contextlib.suppress(StoreError):
            repair(store)
    assert len(store._segments.names()) == 2
    assert TrialStore(tmp_path).records()["a"]["history_lost"]
    repair(store)
    assert set(TrialStore(tmp_path).records()) == {"a"}
    assert TrialStore(tmp_path).history("a") == []
    assert examine(store) == []
