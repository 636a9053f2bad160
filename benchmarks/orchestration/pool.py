"""Trials of about a second on two slots: wall over ideal, and the same trials run by others."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean, median

from benchmarks.measure import Row
from benchmarks.orchestration.peers import SLOTS
from benchmarks.orchestration.scratch import Scratch, trained
from benchmarks.orchestration.watched import run_watched
from tests.e2e.project import ROOT

TARGET = 1.10
IMAGES = 320
STUDY = "seconds"
# Imported by its name, so that Ray's workers can import it as well.
PEER = "from benchmarks.orchestration.peers import main; main()"


@dataclass(frozen=True)
class Race:
    """One way of running the trials, once.

    Attributes:
        starts, ends: of the trials, seconds since 1970, sorted.
        trial_s: the trials' own times.
        slots: trials at a time.
        start_up_s: from the start of the process to the first trial's.
        driver_share: CPU time of the driver over the wall clock while trials ran; None where it was not watched.
    """

    starts: Sequence[float]
    ends: Sequence[float]
    trial_s: Sequence[float]
    slots: int
    start_up_s: float
    driver_share: float | None = None

    @property
    def wall_s(self) -> float:
        """From the first trial's start to the last one's end."""
        return self.ends[-1] - self.starts[0]

    @property
    def over_ideal(self) -> float:
        """Wall over the sum of the trials' own times in this very run, shared out evenly over the slots."""
        return self.wall_s / (sum(self.trial_s) / self.slots)

    @property
    def last_up_s(self) -> float:
        """From the first trial's start until all slots have one: workers do not come up at the same moment."""
        changes = sorted([(at, 1) for at in self.starts] + [(at, -1) for at in self.ends])
        running = list(accumulate(change for _, change in changes))
        return changes[running.index(self.slots)][0] - self.starts[0]

    @property
    def over_ideal_once_up(self) -> float:
        """The same, where the time before all slots have had a trial counts for one slot only; exact for two slots."""
        return (self.wall_s * self.slots - self.last_up_s * (self.slots - 1)) / sum(self.trial_s)


def measure(scratch: Scratch, *, trials: int, seconds: float, rounds: int) -> list[Row]:
    """Run the trials by `ablate run` and by others, taking turns.

    Args:
        trials: a multiple of 16.
        seconds: about what one takes on one core.
        rounds: of ours and of Ray's floor; the others run once, the slow ones with fewer trials.
    """
    epochs = _epochs_of(scratch, seconds)
    scratch.write(STUDY, rates=trials // 4, seeds=2, epochs=epochs, images=IMAGES)
    scratch.write("half", rates=trials // 8, seeds=2, epochs=epochs, images=IMAGES)
    scratch.choose(STUDY, store="any")
    plan, _ = scratch.plan(STUDY)
    listing = scratch.folder / "listing.jsonl"
    listing.write_text("".join(trial.to_json() + "\n" for trial in plan.trials.values()), encoding="utf-8")
    ours, mirrored = "`ablate run`", "`ablate run`, mirrored to sqlite"
    floor, tune = "Ray's floor: bare tasks on a pool of 2 actors", "`tune.Tuner`, reuse_actors=True"
    tune_default, brute, serial = "`tune.Tuner`, default settings", "Optuna BruteForceSampler loop", "`ablate run`, executor: serial"
    races: dict[str, list[Race]] = {name: [] for name in (ours, mirrored, floor, tune, tune_default, brute, serial)}
    for turn in range(rounds):
        races[ours].append(_ours(scratch, STUDY, f"ours-{turn}"))
        races[floor].append(_peer(scratch, "actor_pool", trials))
    races[mirrored].append(_ours(scratch, STUDY, "mirrored", mirrored=True))
    races[tune].append(_peer(scratch, "tuner_reuse", trials))
    races[tune_default].append(_peer(scratch, "tuner", trials // 4))
    races[brute].append(_peer(scratch, "brute_force", trials // 2, slots=1))
    races[serial].append(_ours(scratch, "half", "serial", executor="serial"))
    rows = []
    for name, runs in races.items():
        counted = f"{len(runs[0].trial_s)} trials, {runs[0].slots} slot{'s' if runs[0].slots > 1 else ''}"
        ratio = f"{name} ({counted}): wall over ideal"
        rows.append(Row(f"**{ratio}**" if name == ours else ratio, "ratio", [run.over_ideal for run in runs]))
        if runs[0].slots > 1:
            rows.append(Row("... once both workers are up", "ratio", [run.over_ideal_once_up for run in runs]))
            rows.append(Row("... the second worker's first trial after the first one's", "s", [run.last_up_s for run in runs]))
        if name == ours:
            rows.append(Row("**once both are up, over the target of 1.10**", "ratio", [r.over_ideal_once_up / TARGET for r in runs]))
        rows.append(Row("... a trial's own time, mean", "s", [fmean(run.trial_s) for run in runs]))
        rows.append(Row("... start-up, until the first trial", "s", [run.start_up_s for run in runs]))
        shares = [run.driver_share for run in runs if run.driver_share is not None]
        if shares:
            rows.append(Row("... CPU of the driver, on the same cores", "% of a core", [100 * share for share in shares]))
    pace = {name: median(run.wall_s / len(run.trial_s) for run in runs) for name, runs in races.items()}
    return rows + [Row(f"seconds of wall a trial, {name} over ours", "ratio", [pace[name] / pace[ours]]) for name in races if name != ours]


def _epochs_of(scratch: Scratch, seconds: float) -> int:
    """How many epochs make a trial last so long when nothing else runs."""
    scratch.write("probe", rates=1, seeds=1, epochs=4, images=IMAGES)
    scratch.choose("probe", store="any")
    plan, params = scratch.plan("probe")
    trial = next(iter(plan.trials.values()))
    took = min(trained(scratch, trial, params)["time_total_s"] for _ in range(3))
    return max(1, round(4 * seconds / took))


def _ours(scratch: Scratch, study: str, store: str, *, executor: str = "ray", mirrored: bool = False) -> Race:
    scratch.choose(study, store=store, executor=executor, mirrored=mirrored)
    if mirrored:
        (scratch.folder / "mlflow.db").unlink(missing_ok=True)
    run = run_watched(scratch, study)
    return Race(run.starts, run.ends, run.trial_s, 1 if executor == "serial" else SLOTS, run.start_up_s, run.driver_cpu_s() / run.work_s)


def _peer(scratch: Scratch, name: str, trials: int, slots: int = SLOTS) -> Race:
    result = scratch.folder / "raced.json"
    with_root = replace(scratch, also=str(ROOT))
    began = time.time()
    with_root.timed(sys.executable, "-c", PEER, name, "listing.jsonl", str(trials), str(result))
    done = json.loads(result.read_text(encoding="utf-8"))
    assert len(done) == trials, f"{name} ran {len(done)} of {trials} trials"
    starts, ends = sorted(run["began"] for run in done), sorted(run["ended"] for run in done)
    return Race(starts, ends, [run["seconds"] for run in done], slots, starts[0] - began)
