"""A store of many trials with long histories: files, bytes, and what reading takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.measure import Row
from benchmarks.orchestration.scratch import Scratch, count_bytes, fill, trained
from pipeline.store.trial_store import TrialStore

AT_ONCE = 10  # trials of an append; one a trial would only take longer to fill


def measure(scratch: Scratch, *, trials: int, epochs: int, rounds: int) -> list[Row]:
    """Fill a store and read it, with nothing cached but by the system.

    Args:
        trials: of the store, a multiple of 10.
    """
    scratch.write("volume", rates=trials // 10, seeds=5, epochs=epochs)
    scratch.write("pattern", rates=1, seeds=1)
    scratch.choose("volume", store="volume")
    short, params = scratch.plan("pattern")
    pattern = trained(scratch, next(iter(short.trials.values())), params)
    plan, _ = scratch.plan("volume")
    wanted, store = list(plan.trials.values()), TrialStore(scratch.folder / "volume")
    filled = fill(store, wanted, pattern, epochs, at_once=AT_ONCE)
    a_tenth = max(count for count in filled.files if count <= trials // 10)
    last = wanted[-1].spec.trial_id
    reads: dict[str, Callable[[TrialStore], object]] = {
        "two columns of all (`summary`)": lambda store: store.summary(["state", "metric_test_acc_top1_last"]),
        "all records": lambda store: store.records(),
        "the history of one trial": lambda store: store.history(last),
    }
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(rounds):
        for name, read in reads.items():
            started = time.perf_counter()
            read(TrialStore(scratch.folder / "volume"))
            seconds[name].append(time.perf_counter() - started)
    assert len(store.records()) == trials
    assert len(store.history(last)) == epochs
    what = f"store of {trials:,} trials x {epochs} epochs"
    return [
        Row(f"{what}: files", "", [filled.files[trials]]),
        Row(f"files at {a_tenth:,} trials", "", [filled.files[a_tenth]]),
        Row("**files of the store over its trials**", "ratio", [filled.files[trials] / trials]),
        Row(f"{what}: size", "MB", [count_bytes(store) / 1e6]),
        *(Row(f"{what}: {name}", "s", values) for name, values in seconds.items()),
    ]
