"""A study run by `ablate run` as a process of its own, watched from outside."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.orchestration.scratch import Scratch

LOOK_S = 0.1
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Sample:
    """The driver's process at one moment.

    Attributes:
        time: seconds since 1970.
        cpu_s: CPU time of the driver so far, its threads among it, its children not.
        rss: bytes of its resident memory.
    """

    time: float
    cpu_s: float
    rss: int


@dataclass(frozen=True)
class Watched:
    """What was seen of a run.

    Attributes:
        began, ended: of the process, seconds since 1970.
        samples: of the driver, in the order of time.
        starts, ends: of trials, sorted, seconds since 1970, by the driver's event log.
        trial_s: the trials' own `time_total_s`.
    """

    began: float
    ended: float
    samples: list[Sample]
    starts: list[float]
    ends: list[float]
    trial_s: list[float]

    @property
    def work_s(self) -> float:
        """From the first trial's start to the last one's end."""
        return self.ends[-1] - self.starts[0]

    @property
    def start_up_s(self) -> float:
        """Until the first trial's start."""
        return self.starts[0] - self.began

    def at(self, moment: float) -> Sample:
        """The last sample until then."""
        return max((sample for sample in self.samples if sample.time <= moment), key=lambda sample: sample.time, default=self.samples[0])

    def driver_cpu_s(self) -> float:
        """CPU time of the driver while trials ran."""
        return self.at(self.ends[-1]).cpu_s - self.at(self.starts[0]).cpu_s


def run_watched(scratch: Scratch, study: str) -> Watched:
    """Run the study that `Scratch.choose` has chosen.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    log = scratch.folder / f"logs/{study}.events.jsonl"
    log.unlink(missing_ok=True)
    began, samples = time.time(), []
    process = scratch.start(sys.executable, "-m", "pipeline", "run")
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        if time.time() - began > TIMEOUT_S:
            process.terminate()
        try:
            with driver.oneshot():
                cpu = driver.cpu_times()
                samples.append(Sample(time.time(), cpu.user + cpu.system, driver.memory_info().rss))
        except psutil.Error:
            break
        time.sleep(LOOK_S)
    if process.wait() != 0:
        raise RuntimeError(f"The run of {study} ended with {process.returncode}:\n{(scratch.folder / 'started.log').read_text()[-3000:]}")
    events = scratch.events(study)
    ended = _of(events, "trial_ended")
    return Watched(
        began,
        time.time(),
        samples,
        sorted(event["time"] for event in _of(events, "trial_started")),
        sorted(event["time"] for event in ended),
        [event["time_total_s"] for event in ended],
    )


def _of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]
