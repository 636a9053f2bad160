"""Trials waiting for a worker: in which order, with which share of a GPU, and what happens after a failure. No Ray in here."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import floor

from pipeline.orchestration.planning import PlannedTrial

CONTEXT_BYTES = 700 * 2**20  # what CUDA and its libraries take of a GPU for each process, beside tensors
HEADROOM = 1.25  # of the allocator over the largest sum of tensors
FREE_LOSSES = 10  # lost nodes that a trial is not blamed for


@dataclass
class Job:
    """A trial on its way.

    Attributes:
        trial: what to run.
        seconds: how long it is expected to take.
        share: of a GPU; 0 on the CPU.
        attempts: starts so far that count against it.
        losses: nodes that were lost under it; not its fault.
        alone: to be run while nothing else runs, since memory did not suffice otherwise.
    """

    trial: PlannedTrial
    seconds: float = 0.0
    share: float = 0.0
    attempts: int = 0
    losses: int = 0
    alone: bool = False

    @property
    def trial_id(self) -> str:
        """Of its trial."""
        return self.trial.spec.trial_id

    def after_loss(self, node_lost: bool, max_attempts: int) -> bool:
        """Count a lost worker; whether to try again. A lost or preempted node is no fault of the trial."""
        if node_lost and self.losses < FREE_LOSSES:
            self.losses += 1
            return True
        self.attempts += 1
        return self.attempts < max_attempts

    def after_out_of_memory(self, max_attempts: int) -> bool:
        """Ask for more: twice the share of the GPU, then the machine for itself; whether to try again. The batch stays what it is."""
        self.attempts += 1
        if self.attempts >= max_attempts or self.alone:
            return False
        if 0 < self.share < 1:
            self.share = min(1.0, 2 * self.share)
        else:
            self.alone = True
        return True


class Waiting:
    """Jobs by share of a GPU, the longest first; those that must run alone come last."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._heaps: dict[float, list[tuple[float, int, Job]]] = {}
        self._alone: list[Job] = []
        self._count = 0
        for job in jobs:
            self.put(job)

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values())) + len(self._alone)

    def __iter__(self) -> Iterator[Job]:
        yield from (job for heap in self._heaps.values() for _, _, job in heap)
        yield from self._alone

    def put(self, job: Job) -> None:
        """Add a job."""
        if job.alone:
            self._alone.append(job)
            return
        self._count += 1
        heapq.heappush(self._heaps.setdefault(job.share, []), (-job.seconds, self._count, job))

    def take(self, share: float) -> Job | None:
        """The longest job that wants this share, or None."""
        heap = self._heaps.get(share)
        return heapq.heappop(heap)[2] if heap else None

    def peek(self, share: float) -> Job | None:
        """The job that `take` or `take_alone` would give, left where it is."""
        heap = self._heaps.get(share)
        return heap[0][2] if heap else next((job for job in self._alone if job.share == share), None)

    def take_alone(self, share: float) -> Job | None:
        """A job that must run alone with this share, once no other job waits."""
        job = next((job for job in self._alone if job.share == share), None)
        if job is None or any(self._heaps.values()):
            return None
        self._alone.remove(job)
        return job

    def shares(self) -> list[float]:
        """Shares wanted, that of the longest job first; those of jobs that must run alone once no other job waits."""
        wanted = sorted((share for share, heap in self._heaps.items() if heap), key=lambda share: self._heaps[share][0][0])
        return wanted or [job.share for job in self._alone[:1]]

    def count(self, share: float) -> int:
        """Jobs that want this share now."""
        together = len(self._heaps.get(share, ()))
        return together or int(not any(self._heaps.values()) and any(job.share == share for job in self._alone))


def share_for(peak_bytes: int, gpu_bytes: int) -> float:
    """The smallest share 1/k of a GPU that holds a trial whose tensors took `peak_bytes` at most.

    Share = (HEADROOM * peak + CONTEXT_BYTES) / memory of the GPU, rounded up to 1/k with k <= 16, so that trials fill a GPU evenly.
    """
    needed = (HEADROOM * peak_bytes + CONTEXT_BYTES) / gpu_bytes
    return 1.0 / max(1, min(16, floor(1.0 / needed)))


def guard_fraction(share: float, gpu_bytes: int | None) -> float:
    """What `set_per_process_memory_fraction` is given: the share without the process's own context, which torch does not count; 1: all."""
    return 1.0 if gpu_bytes is None or share >= 1 else max(0.01, share - CONTEXT_BYTES / gpu_bytes)
