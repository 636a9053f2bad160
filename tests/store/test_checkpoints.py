"""Checkpoints: the newest whole one is found again, whatever happened to the others."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store.checkpoints import KEEP, CheckpointFiles, checkpointed
from pipeline.store.trial_store import TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord


@pytest.fixture(name="url", params=["folder", "memory"])
def url_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store in a folder, and one behind a URL."""
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}/store"


def _files(root: Path, trial_id: str = "t") -> list[Path]:
    return sorted((root / "checkpoints" / trial_id).iterdir())


def test_round_trip(url: str) -> None:
    """The newest payload comes back, two are kept, and nothing is left in the end; a trial never sees another's."""
    checkpoints, other = (CheckpointFiles(TrialStore(url), trial_id, 60.0) for trial_id in ("t", "other"))
    assert checkpoints.load() is None
    assert checkpointed(TrialStore(url)) == {}
    checkpoints.remove()
    for number in range(5):
        checkpoints.save(b"state %d" % number)
    other.save(b"other")
    assert CheckpointFiles(TrialStore(url), "t", None).load() == b"state 4"
    assert checkpointed(TrialStore(url)) == {"t": KEEP * len(b"state 4"), "other": 5}
    checkpoints.remove()
    assert checkpoints.load() is None
    assert checkpointed(TrialStore(url)) == {"other": 5}


def test_nothing_else_of_the_store_is_touched(tmp_path: Path, make_record: MakeRecord) -> None:
    """Records are read as before beside checkpoints, and files that are none are passed over and kept."""
    store = TrialStore(tmp_path)
    store.append([make_record("t")])
    checkpoints = CheckpointFiles(store, "t", None)
    checkpoints.save(b"a")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "t" / "99999999999999999999.ckpt").write_text("no checkpoint")
    checkpoints.save(b"b")
    assert checkpoints.load() == b"b"
    assert checkpointed(store) == {"t": 2}
    assert set(TrialStore(tmp_path).records()) == {"t"}
    assert (tmp_path / "checkpoints" / "notes.txt").read_text() == "mine"


def test_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Due after so many seconds since the start or the last one; never without a period."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints, never = CheckpointFiles(TrialStore(tmp_path), "t", 10.0), CheckpointFiles(TrialStore(tmp_path), "t", None)
    assert not checkpoints.due()
    now[0] += 10.0
    assert checkpoints.due()
    checkpoints.save(b"")
    assert not checkpoints.due()
    now[0] += 1e9
    assert checkpoints.due()
    assert not never.due()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "folder"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    """The digest in the name proves the content: when the newest is not what was written, the one before it is used."""
    checkpoints = CheckpointFiles(TrialStore(tmp_path), "t", None)
    for payload in (b"older" * 100, b"newer" * 100):
        checkpoints.save(payload)
    newest = _files(tmp_path)[-1]
    content = newest.read_bytes()
    if damage == "folder":
        newest.unlink()
        newest.mkdir()
    else:
        newest.write_bytes({"truncated": content[:50], "flipped": bytes([content[0] ^ 1]) + content[1:], "empty": b""}[damage])
    assert checkpoints.load() == b"older" * 100
    _files(tmp_path)[0].write_bytes(b"garbage")
    assert checkpoints.load() is None


def test_a_clock_that_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that moves to a machine with an earlier clock goes on from what it saved there."""
    CheckpointFiles(TrialStore(tmp_path), "t", None).save(b"first")
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    behind = CheckpointFiles(TrialStore(tmp_path), "t", None)
    for payload in (b"second", b"third", b"fourth"):
        behind.save(payload)
        assert behind.load() == payload
    assert len(_files(tmp_path)) == KEEP


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, KEEP - 1)), max_size=12))
def test_what_is_loaded_is_the_newest_that_is_whole(acts: list[bytes | int]) -> None:
    """However saving and damage alternate, what is loaded is the newest saved payload that was kept and not damaged."""
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    checkpoints, whole = CheckpointFiles(store, "t", None), []  # [payload, is it whole], oldest first
    for act in acts:
        if isinstance(act, bytes):
            checkpoints.save(act)
            whole = [*whole, [act, True]][-KEEP:]
        elif act < len(whole):
            name = sorted(store.files.names("checkpoints/t"))[act]
            store.files.write(f"checkpoints/t/{name}", b"damaged beyond repair")
            whole[act][1] = False
    assert checkpoints.load() == next((payload for payload, sound in reversed(whole) if sound), None)


def test_a_save_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a listener a failure is raised; with one it is told once, and saving goes on when there is room again."""
    told: list[StoreError] = []
    checkpoints = CheckpointFiles(TrialStore(tmp_path), "t", 60.0, on_error=told.append)
    checkpoints.save(b"kept")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        checkpoints.save(b"lost")
        checkpoints.save(b"lost too")
        with pytest.raises(StoreError, match="No space left on device"):
            CheckpointFiles(TrialStore(tmp_path), "t", 60.0).save(b"lost")
    assert len(told) == 1
    assert "No space left on device" in str(told[0])
    assert not checkpoints.due()
    assert [path.read_bytes() for path in _files(tmp_path)] == [b"kept"]
    checkpoints.save(b"later")
    assert checkpoints.load() == b"later"


def test_a_place_that_cannot_be_read(tmp_path: Path) -> None:
    """A file where the folder should be: raised without a listener, told with one, and the trial begins anew."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "t").write_text("I am a file")
    with pytest.raises(StoreError, match=r"cannot be listed: checkpoints/t is a file"):
        CheckpointFiles(TrialStore(tmp_path), "t", None).load()
    told: list[StoreError] = []
    assert CheckpointFiles(TrialStore(tmp_path), "t", None, on_error=told.append).load() is None
    assert len(told) == 1
