"""The trial store when things break: no room, no folder, damaged files, killed and competing processes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import StoreError
from pipeline.store.checkpoints import CheckpointFiles
from pipeline.store.claims import Claims
from pipeline.store.repair import examine
from pipeline.store.trial_store import FAN_IN, RECORDS, TrialStore

if TYPE_CHECKING:
    from .conftest import MakeRecord

NEXT_STEP = r"Nothing stored before is lost; mend the place or set `store\.url` in params\.yaml"
WRITER = textwrap.dedent("""
    import itertools, sys
    from pipeline.store.records import Record
    from pipeline.store.trial_store import TrialStore

    url, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = TrialStore(url)
    for number in itertools.count() if count == 0 else range(count):
        trial_id = f"{prefix}{number}"
        history = [{"epoch": epoch, "metric_train_loss": 1.0} for epoch in range(1, 4)]
        store.append([Record({"trial_id": trial_id, "state": "complete", "metric_x": 0.5}, history)])
        print(trial_id, flush=True)
        if number % 10 == 9:
            store.compact()
""")


def _writer(url: Path, prefix: str, count: int = 0) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(url), prefix, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


@pytest.mark.parametrize("where", ["", "segments"])
def test_a_file_stands_where_the_folder_should_be(tmp_path: Path, make_record: MakeRecord, where: str) -> None:
    """A file in place of the store, or of its folder of segments, is refused for reading and for writing, and left as it is."""
    place = tmp_path / "store" / where if where else tmp_path / "store"
    place.parent.mkdir(exist_ok=True)
    place.write_text("I am a file")
    store = TrialStore(tmp_path / "store")
    for act in (store.check_writable, lambda: store.append([make_record()])):
        with pytest.raises(StoreError, match=rf"The store .*/store cannot be written: .*{NEXT_STEP}"):
            act()
    with pytest.raises(StoreError, match=r"The store .*/store cannot be listed: .*Mend the place or set `store\.url`"):
        store.records()
    assert place.read_text() == "I am a file"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "nosuch://bucket/store",
            "The store URL 'nosuch://bucket/store' is not usable: .*Set `store.url` to a folder or a URL such as s3://",
        )
    ],
)
def test_an_url_that_nothing_understands(url: str, message: str) -> None:
    """A URL of an unknown kind is refused at once."""
    with pytest.raises(StoreError, match=message):
        TrialStore(url)


def test_a_place_that_can_only_be_read(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem without writing, such as a web page, is a StoreError and not a traceback."""
    store = TrialStore("memory://only/read")

    def refuse(path: str, payload: bytes) -> None:
        raise NotImplementedError

    monkeypatch.setattr(store.files.fs, "pipe_file", refuse)
    with pytest.raises(StoreError, match=rf"cannot be written: NotImplementedError\. {NEXT_STEP}"):
        store.append([make_record()])


@pytest.fixture(name="size_limit")
def size_limit_fixture() -> Iterator[int]:
    """No file of this process may grow beyond the limit while the test runs, as on a full disk."""
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE), 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_file(tmp_path: Path, make_record: MakeRecord, size_limit: int) -> None:
    """A segment that does not fit is a StoreError that names place and next step; what was stored stays, no scrap is left."""
    store = TrialStore(tmp_path)
    store.append([make_record("small")])
    files = set((tmp_path / "segments").iterdir())
    noise = "".join(random.Random(1).choices("0123456789abcdef", k=8 * size_limit))  # compresses to half at best
    with pytest.raises(StoreError, match=rf"The store {tmp_path} cannot be written: .*File too large.*{NEXT_STEP}"):
        store.append([make_record("large", traceback=noise, epochs=0)])
    assert set((tmp_path / "segments").iterdir()) == files
    assert set(TrialStore(tmp_path).records()) == {"small"}


def test_a_full_disk(tmp_path: Path, make_record: MakeRecord) -> None:
    """Appending until a small disk is full ends in a StoreError; all that was stored before is read, and goes on once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    try:
        store, stored = TrialStore(disk), 0

        def fill() -> None:
            nonlocal stored
            while True:
                store.append([make_record(f"t{stored}")])
                stored += 1

        with pytest.raises(StoreError, match=rf"The store {disk} cannot be written: .*No space left.*{NEXT_STEP}"):
            fill()
        assert stored >= 3
        assert set(TrialStore(disk).records()) == {f"t{number}" for number in range(stored)}
        checkpoints, claims = CheckpointFiles(store, "t", None), Claims(store, "me", 60.0)
        for act in (store.check_writable, lambda: checkpoints.save(b"x" * 4096), lambda: claims.take("t")):
            with pytest.raises(StoreError, match=NEXT_STEP):
                act()
        assert {path.name.split(".", 1)[1] for path in disk.rglob("*") if path.is_file()} == {"records.parquet", "history.parquet"}
        assert len(list(disk.glob("segments/*"))) == 2 * stored
        assert examine(store) == []
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        store.append([make_record("later")])
        checkpoints.save(b"x" * 4096)
        assert claims.take("t")
        assert len(TrialStore(disk).records()) == stored + 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_room_to_merge(tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging that cannot write its result removes nothing."""
    store = TrialStore(tmp_path)
    for number in range(FAN_IN):
        store.append([make_record(f"t{number}")])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            store.compact()
    assert len(TrialStore(tmp_path).records()) == FAN_IN
    store.compact()
    assert len(list((tmp_path / "segments").iterdir())) == 2


def test_a_flipped_bit_never_changes_a_number(tmp_path: Path, make_record: MakeRecord) -> None:
    """A single wrong bit in the data of a segment is either reported or has no effect: pages carry checksums."""
    TrialStore(tmp_path).append([make_record(f"t{n}", seed=n, metric_x=0.1 * n, name=f"resnet8 cam {n}", epochs=0) for n in range(20)])
    segment = next((tmp_path / "segments").glob(f"*{RECORDS}"))
    content, sound = segment.read_bytes(), TrialStore(tmp_path).records()
    footer = int.from_bytes(content[-8:-4], "little")  # describes the columns; it has no checksum
    reported = 0
    for position in range(4, len(content) - 8 - footer, 5):
        flipped = bytearray(content)
        flipped[position] ^= 1
        segment.write_bytes(bytes(flipped))
        try:
            found = TrialStore(tmp_path).records()
        except StoreError:
            reported += 1
        else:
            assert found == sound, position
    assert reported > 100


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
@pytest.mark.parametrize("kind", ["records", "history"])
def test_a_damaged_segment(tmp_path: Path, make_record: MakeRecord, damage: str, kind: str) -> None:
    """A segment that is not what was written is named, with what to do; once it is moved away the rest is read."""
    store = TrialStore(tmp_path / "store")
    store.append([make_record("good", epochs=30)])
    store.append([make_record("bad", epochs=30)])
    victim = sorted((tmp_path / "store" / "segments").glob(f"*.{kind}.parquet"))[-1]
    content = victim.read_bytes()
    wrong = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"no parquet " * 20}
    victim.write_bytes(wrong[damage])
    with pytest.raises(StoreError) as caught:
        TrialStore(tmp_path / "store").history_table(["good", "bad"])
    message = str(caught.value)
    assert f"{victim.name} cannot be read" in message
    name = victim.name.split(".", 1)[0]
    assert (
        f"let `ablate doctor --repair` move {name}.*.parquet away to quarantine/ and run again: only the trials in them are trained anew"
        in message
    )
    for path in victim.parent.glob(f"{name}.*.parquet"):
        path.unlink()
    remaining = TrialStore(tmp_path / "store")
    assert set(remaining.records()) == {"good"}
    assert len(remaining.history("good")) == 30


def test_a_lost_history(tmp_path: Path, make_record: MakeRecord) -> None:
    """History that someone removed is missed at once, and never taken for a trial without history."""
    TrialStore(tmp_path).append([make_record("a")])
    next((tmp_path / "segments").glob("*.history.parquet")).unlink()
    assert set(TrialStore(tmp_path).records()) == {"a"}
    with pytest.raises(StoreError, match=r"history\.parquet is missing\. Bring it back from a copy, or let `ablate doctor --repair` move"):
        TrialStore(tmp_path).history("a")


def test_files_that_are_no_segments_are_passed_over(tmp_path: Path, make_record: MakeRecord) -> None:
    """Scraps of a killed writer and files of the operating system do not disturb a reader or a merge."""
    store = TrialStore(tmp_path)
    store.append([make_record("a")])
    for name in (f".00-1-ab{RECORDS}.77-ff.tmp", ".DS_Store", "notes.txt", f"copy of{RECORDS}"):
        (tmp_path / "segments" / name).write_bytes(b"half a rec")
    assert set(TrialStore(tmp_path).records()) == {"a"}
    TrialStore(tmp_path).compact()
    assert set(TrialStore(tmp_path).records()) == {"a"}


def test_a_killed_writer_loses_nothing_that_it_said_was_stored(tmp_path: Path) -> None:
    """SIGKILL at any moment: every trial reported as stored is read back whole, and no half record is there."""
    moments, reported = random.Random(5), set()
    for round_number in range(3):
        process = _writer(tmp_path, f"r{round_number}-")
        assert process.stdout is not None
        first = process.stdout.readline()  # from here on it is appending and merging
        time.sleep(moments.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        lines = [first, *process.stdout]
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
        reported |= {line.strip() for line in lines if line.endswith("\n")}
    store = TrialStore(tmp_path)
    records = store.records()
    assert len(reported) >= 3
    assert reported <= set(records)
    assert len(set(records) - reported) <= 3  # stored, but killed before it could say so
    history = store.history_table(records)
    assert history.num_rows == 3 * len(records)
    assert all(record["metric_x"] == 0.5 for record in records.values())


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    """Two writers on one store, both merging, lose nothing of each other."""
    writers = [_writer(tmp_path, prefix, 40) for prefix in ("a", "b")]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    store = TrialStore(tmp_path)
    assert set(store.records()) == {f"{prefix}{number}" for prefix in "ab" for number in range(40)}
    assert store.history_table(store.records()).num_rows == 3 * 80
