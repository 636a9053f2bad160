"""Claims: each trial is taken by one driver, and a driver that is gone blocks nobody."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.errors import StoreError
from pipeline.store import claims as claims_module
from pipeline.store import files as files_module
from pipeline.store import holder
from pipeline.store.claims import Claims
from pipeline.store.keep_alive import KeepAlive
from pipeline.store.trial_store import TrialStore

LEASE_S = 60.0
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(name="url", params=["folder", "memory"])
def url_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store in a folder, and one behind a URL."""
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{secrets.token_hex(8)}/store"


@pytest.fixture(name="later")
def later_fixture(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the wall clock forward."""
    true_time, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead[0])

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward


def _of_another_machine(monkeypatch: pytest.MonkeyPatch, claims: Claims, trial_id: str) -> None:
    """Let `claims` take a trial as a process of another machine would: its pid means nothing here."""
    with monkeypatch.context() as patch:
        patch.setattr(claims_module, "machine", lambda: "0badcafe")
        patch.setattr(os, "getpid", lambda: 2**22 + 5)
        patch.setattr(claims_module, "started_s", lambda pid: 1.0)
        assert claims.take(trial_id)


def _names(store: TrialStore) -> list[str]:
    return sorted(store.files.names("claims"))


def test_one_driver_has_it_until_it_is_released(url: str) -> None:
    """Another driver gets nothing while the first holds the trial, the first may ask again, and no file is left in the end."""
    one, two = (Claims(TrialStore(url), owner, LEASE_S) for owner in ("one", "two"))
    assert one.held() == {}
    first = one.take("t")
    assert (first.owner, first.pid, first.generation) == ("one", os.getpid(), 1)
    assert two.take("t") is None
    again = one.take("t")
    assert again.since == first.since
    assert again.renewed >= first.renewed
    assert two.take("u") is not None
    assert {trial_id: claim.owner for trial_id, claim in Claims(TrialStore(url), "three", LEASE_S).held().items()} == {
        "t": "one",
        "u": "two",
    }
    assert (one.mine(), two.mine()) == (["t"], ["u"])
    one.release("t")
    one.release("never taken")
    assert two.take("t") is not None
    for trial_id in ("t", "u"):
        two.release(trial_id)
    assert _names(TrialStore(url)) == []


def test_progress_is_seen_by_others(url: str) -> None:
    """What is noted with a renewal is merged with what was noted before, and read by whoever asks."""
    one = Claims(TrialStore(url), "one", LEASE_S)
    taken = one.take("t")
    assert one.renew("t", epoch=3, epochs=8)
    assert one.renew("t", epoch=4, where=Path("x"))
    seen = Claims(TrialStore(url), "two", LEASE_S).held()["t"]
    assert seen.note == {"epoch": 4, "epochs": 8, "where": "x"}
    assert seen.since == taken.since
    assert seen.renewed >= taken.renewed
    assert not one.renew("never taken")


def test_stale_by_time(url: str, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]) -> None:
    """A claim of another machine is taken over when it was not renewed for its lease; its holder learns of it and cannot disturb."""
    one, two = (Claims(TrialStore(url), owner, LEASE_S) for owner in ("one", "two"))
    _of_another_machine(monkeypatch, one, "t")
    later(0.9 * LEASE_S)
    assert two.take("t") is None
    assert one.renew("t")
    later(0.9 * LEASE_S)
    assert two.take("t") is None
    later(0.2 * LEASE_S)
    assert "t" not in two.held()
    assert two.take("t").generation == 2
    assert not one.renew("t", epoch=7)
    assert one.lost == {"t"}
    one.release("t")
    assert two.held()["t"].owner == "two"
    assert _names(TrialStore(url)) == ["t.000002.json"]
    assert one.take("t") is None


def test_a_claim_that_another_took_finished_and_a_third_took(
    url: str, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    """A holder that slept through a takeover and a release does not take the next holder's file for its own."""
    one, two, three = (Claims(TrialStore(url), owner, LEASE_S) for owner in ("one", "two", "three"))
    _of_another_machine(monkeypatch, one, "t")
    later(2 * LEASE_S)
    assert two.take("t")
    two.release("t")
    assert three.take("t").generation == 1
    assert not one.renew("t")
    one.release("t")
    assert three.renew("t")
    assert two.held()["t"].owner == "three"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"owner": "me"}', b'{"trial_id": 1}'])
def test_a_claim_that_cannot_be_read(tmp_path: Path, content: bytes, later: Callable[[float], None]) -> None:
    """It is nobody's progress, and after a lease nobody's claim."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "t.000004.json").write_bytes(content)
    claims = Claims(TrialStore(tmp_path), "one", LEASE_S)
    assert claims.held() == {}
    assert claims.take("t") is None
    later(1.1 * LEASE_S)
    assert claims.take("t").generation == 5
    assert _names(TrialStore(tmp_path)) == ["t.000005.json"]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    """A scrap of a killed writer or a stranger's file is no claim."""
    (tmp_path / "claims").mkdir()
    for name in (".t.000001.json.12345678-77-00000000.tmp", "t.json", "README", "t.1.json"):
        (tmp_path / "claims" / name).write_text("{}")
    claims = Claims(TrialStore(tmp_path), "one", LEASE_S)
    assert claims.held() == {}
    assert claims.take("t").generation == 1


# --- processes -------------------------------------------------------------------------------------------------------------------


def _take_all(url: str, owner: str, trial_ids: list[str], begin: Any, taken: Queue[tuple[str, str]]) -> None:
    claims = Claims(TrialStore(url), owner, LEASE_S)
    begin.wait()
    for trial_id in trial_ids:
        if claims.take(trial_id):
            taken.put((owner, trial_id))
    taken.put((owner, ""))
    begin.wait()  # alive until all have asked: a dead holder's trials would be taken over


def _hold(url: str, trial_ids: list[str], ready: Any) -> None:
    claims = Claims(TrialStore(url), "killed", LEASE_S)
    for trial_id in trial_ids:
        assert claims.take(trial_id)
    ready.set()
    time.sleep(600)


def _race(url: str, trial_ids: list[str], racers: int) -> dict[str, list[str]]:
    """Who took what when several processes ask for the same trials at once."""
    begin, taken = SPAWN.Barrier(racers), SPAWN.Queue()
    owners = [f"driver{number}" for number in range(racers)]
    processes = [SPAWN.Process(target=_take_all, args=(url, owner, trial_ids, begin, taken)) for owner in owners]
    for process in processes:
        process.start()
    found: dict[str, list[str]] = {owner: [] for owner in owners}
    ended = 0
    while ended < racers:
        owner, trial_id = taken.get(timeout=60)
        ended += not trial_id
        found[owner] += [trial_id] if trial_id else []
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


def _killed_holder(url: str, trial_ids: list[str]) -> multiprocessing.process.BaseProcess:
    """A process that took the trials and was then killed."""
    ready = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(url, trial_ids, ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    return process


def test_processes_race_for_trials(tmp_path: Path) -> None:
    """Two processes ask for the same 200 trials in the same order: each trial is taken exactly once."""
    trial_ids = [f"t{number}" for number in range(200)]
    found = _race(str(tmp_path), trial_ids, 2)
    assert sorted(itertools.chain.from_iterable(found.values())) == sorted(trial_ids)


def test_processes_race_for_the_trials_of_a_dead_driver(tmp_path: Path) -> None:
    """Three processes take over 60 trials of a driver that was killed: each trial goes to one of them, and one file each is left."""
    trial_ids = [f"t{number}" for number in range(60)]
    _killed_holder(str(tmp_path), trial_ids).join()
    found = _race(str(tmp_path), trial_ids, 3)
    assert sorted(itertools.chain.from_iterable(found.values())) == sorted(trial_ids)
    assert _names(TrialStore(tmp_path)) == sorted(f"{trial_id}.000002.json" for trial_id in trial_ids)


def test_a_killed_driver_blocks_nobody_on_its_machine(tmp_path: Path) -> None:
    """Its trial is taken over at once, long before the lease ends, and even while nobody has collected its exit status."""
    process = _killed_holder(str(tmp_path), ["t"])
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    claims = Claims(TrialStore(tmp_path), "next", LEASE_S)
    assert claims.held() == {}
    assert claims.take("t").generation == 2
    process.join()


def test_a_process_that_got_the_number_of_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living process with the pid of the holder, but of another start, does not pass for the holder."""
    with monkeypatch.context() as patch:
        patch.setattr(claims_module, "started_s", lambda pid: holder.started_s(pid) - 100.0)
        assert Claims(TrialStore(tmp_path), "old", LEASE_S).take("t")
    assert Claims(TrialStore(tmp_path), "new", LEASE_S).take("t").generation == 2


def test_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder is still recognised after the machine's clock was set, which moves all start times at once."""
    one = Claims(TrialStore(tmp_path), "one", LEASE_S)
    one.take("t")
    create_time, boot_time = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 3600)
    assert Claims(TrialStore(tmp_path), "two", LEASE_S).take("t") is None


# --- filesystems -----------------------------------------------------------------------------------------------------------------


def test_a_filesystem_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the file is created in place, exclusively all the same."""

    def refuse(*names: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one, two = (Claims(TrialStore(tmp_path), owner, LEASE_S) for owner in ("one", "two"))
    assert one.take("t")
    assert two.take("t") is None
    assert not TrialStore(tmp_path).files.create("claims/t.000001.json", b"{}")
    assert _names(TrialStore(tmp_path)) == ["t.000001.json"]


def test_an_object_store_without_exclusive_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver of an object store knows no `mode`, a claim is still refused to whoever comes later."""
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    plain = store.files.fs.pipe_file
    monkeypatch.setattr(type(store.files.fs), "pipe_file", lambda self, path, value: plain(path, value))
    with pytest.raises(TypeError):
        store.files.fs.pipe_file("/x", b"", mode="create")
    assert Claims(store, "one", LEASE_S).take("t")
    assert not store.files.create("claims/t.000001.json", b"{}")
    assert Claims(store, "two", LEASE_S).take("t") is None


def test_an_object_store_that_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where exclusive creation is ignored, whoever reads back the content of another has lost."""
    store = TrialStore(f"memory://{secrets.token_hex(8)}")
    fs = store.files.fs

    def overtaken(self: fsspec.AbstractFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        self.open(path, "wb", data=b"of another that wrote a moment later")

    monkeypatch.setattr(type(fs), "pipe_file", overtaken)
    assert Claims(store, "one", LEASE_S).take("t") is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be is a StoreError for taking and for looking."""
    (tmp_path / "claims").write_text("I am a file")
    claims = Claims(TrialStore(tmp_path), "one", LEASE_S)
    for act in (lambda: claims.take("t"), claims.held):
        with pytest.raises(StoreError, match=r"cannot be listed: claims is a file"):
            act()


def test_the_loser_of_a_late_creation_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever creates a generation below one that appeared meanwhile gives it up: the highest counts."""
    store = TrialStore(tmp_path)
    one, two = Claims(store, "one", LEASE_S), Claims(store, "two", LEASE_S)
    create = files_module.StoreFiles.create

    def overtaken(files: files_module.StoreFiles, name: str, payload: bytes) -> bool:
        monkeypatch.undo()
        with monkeypatch.context() as patch:  # two took over a stale first generation and tidied it up
            patch.setattr(claims_module, "_generations", lambda *_: [1])
            patch.setattr(claims_module, "read_claim", lambda *_: None)
            assert create(files, "claims/t.000002.json", claims_module._dump(two._new("t", 2)))
        return create(files, name, payload)

    monkeypatch.setattr(files_module.StoreFiles, "create", overtaken)
    assert one.take("t") is None
    assert _names(store) == ["t.000002.json"]
    assert one.held()["t"].owner == "two"


# --- keeping alive ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(name="soon")
def soon_fixture() -> Callable[[Callable[[], bool]], None]:
    """A function that waits until something holds."""

    def soon(holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.005)

    return soon


def test_the_thread_renews_and_notes(tmp_path: Path, soon: Callable[[Callable[[], bool]], None]) -> None:
    """Claims are renewed while the driver does other things, with the latest note, and not after the block."""
    claims, seen = Claims(TrialStore(tmp_path), "one", LEASE_S), Claims(TrialStore(tmp_path), "two", LEASE_S)
    with KeepAlive(claims, 0.01) as alive:
        claims.take("t")
        before = seen.held()["t"].renewed
        alive.note("t", epoch=1, epochs=8)
        alive.note("t", epoch=2)
        alive.note("unknown", epoch=2)
        soon(lambda: seen.held()["t"].note == {"epoch": 2, "epochs": 8} and seen.held()["t"].renewed > before)
        claims.release("t")
        soon(lambda: not alive._notes.get("t"))
    assert claims.lost == set()
    assert not alive._thread.is_alive()
    assert _names(TrialStore(tmp_path)) == []


def test_the_thread_survives_a_hiccup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: Callable[[Callable[[], bool]], None]) -> None:
    """A renewal that fails is tried again, and no note is lost."""
    claims, seen = Claims(TrialStore(tmp_path), "one", LEASE_S), Claims(TrialStore(tmp_path), "two", LEASE_S)
    claims.take("t")

    def full(path: Path, target: str) -> None:
        raise OSError(28, "No space left on device")

    with KeepAlive(claims, 0.01) as alive:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            alive.note("t", epoch=1, epochs=8)
            soon(lambda: alive.error is not None)
            assert "No space left" in str(alive.error)
            alive.note("t", epoch=2)
        soon(lambda: seen.held()["t"].note == {"epoch": 2, "epochs": 8})
        soon(lambda: alive.error is None)


def test_the_thread_notices_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]) -> None:
    """A trial that another driver took over is named, and no longer renewed."""
    one, two = (Claims(TrialStore(tmp_path), owner, LEASE_S) for owner in ("one", "two"))
    _of_another_machine(monkeypatch, one, "t")
    later(2 * LEASE_S)
    two.take("t")
    KeepAlive(one, 1000).beat()
    assert (one.lost, one.mine()) == ({"t"}, [])


# --- any order -------------------------------------------------------------------------------------------------------------------

DRIVERS, TRIALS = st.integers(0, 2), st.sampled_from(["a", "b"])


class AnyOrder(RuleBasedStateMachine):
    """Three drivers on machines of their own, two trials, a clock, and a model of who must hold what."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.patch = 1e9, pytest.MonkeyPatch()
        self.patch.setattr(time, "time", lambda: self.now)
        self.patch.setattr(holder, "machine", lambda: "here")
        self.patch.setattr(claims_module, "machine", lambda: "elsewhere")
        url = f"memory://{secrets.token_hex(8)}"
        self.drivers = [Claims(TrialStore(url), f"driver{number}", LEASE_S) for number in range(3)]
        self.model: dict[str, tuple[int, float]] = {}  # trial: driver, time of renewal

    def _live(self, trial: str) -> bool:
        return trial in self.model and self.now - self.model[trial][1] <= LEASE_S

    @rule(driver=DRIVERS, trial=TRIALS)
    def take(self, driver: int, trial: str) -> None:
        free = not self._live(trial) or self.model[trial][0] == driver
        assert (self.drivers[driver].take(trial) is not None) == free
        if free:
            self.model[trial] = (driver, self.now)

    @rule(driver=DRIVERS, trial=TRIALS)
    def renew(self, driver: int, trial: str) -> None:
        ours = self.model.get(trial, (None,))[0] == driver
        assert self.drivers[driver].renew(trial) == ours
        if ours:
            self.model[trial] = (driver, self.now)

    @rule(driver=DRIVERS, trial=TRIALS)
    def release(self, driver: int, trial: str) -> None:
        self.drivers[driver].release(trial)
        if self.model.get(trial, (None,))[0] == driver:
            del self.model[trial]

    @rule(seconds=st.sampled_from([1.0, 0.6 * LEASE_S, 1.1 * LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def all_see_the_same(self) -> None:
        expected = {trial: f"driver{driver}" for trial, (driver, _) in self.model.items() if self._live(trial)}
        for driver in self.drivers:
            assert {trial: claim.owner for trial, claim in driver.held().items()} == expected
        assert len(self.drivers[0].files.names("claims")) == len(self.model)

    def teardown(self) -> None:
        self.patch.undo()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_claim_is_plain_json(tmp_path: Path) -> None:
    """Any program can read who runs a trial."""
    Claims(TrialStore(tmp_path), "one", LEASE_S).take("t")
    found = json.loads((tmp_path / "claims" / "t.000001.json").read_text(encoding="utf-8"))
    assert {"owner": "one", "trial_id": "t", "generation": 1, "pid": os.getpid(), "note": {}}.items() <= found.items()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
