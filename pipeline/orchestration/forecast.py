"""How long a list of trials will take on some number of slots, by the estimates of a cost model."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

from pipeline.orchestration.cost import CostModel, Estimate, in_words
from pipeline.study.spec import TrialSpec


class Forecast:
    """What is to come. Asks the model anew each time, so it follows whatever the model learns.

    Args:
        specs: trials to be run.
        model: what they cost.
        slots: trials at a time; None: nobody knows, as with a cluster that is not there yet.
    """

    def __init__(self, specs: Iterable[TrialSpec], model: CostModel, slots: int | None) -> None:
        self.specs = {spec.trial_id: spec for spec in specs}
        self.model, self.slots = model, slots

    def estimate(self, trial_id: str) -> Estimate:
        """What one of the trials will take from its start to its record."""
        return self.model.seconds(self.specs[trial_id])

    def epochs(self, trial_id: str) -> int:
        """Epochs of one of the trials."""
        return int(self.specs[trial_id].config["epochs"])

    def sources(self) -> Counter[str]:
        """Where the estimates come from: source -> number of trials."""
        return Counter(self.estimate(trial_id).source for trial_id in self.specs)

    def sources_in_words(self) -> str:
        """'40 trials measured, 14 from a probe'."""
        return in_words(self.sources())

    def trial_seconds(self) -> float | None:
        """Of all trials whose cost is known, one after the other; None where trials remain and none is known."""
        known = self._known()
        return sum(known) if known or not self.specs else None

    def critical_path_seconds(self) -> float | None:
        """The longest single trial, which no number of slots can shorten."""
        return max(self._known(), default=None if self.specs else 0.0)

    def wall_seconds(self) -> float | None:
        """On the slots, the longest trials first; None where no cost, or not the number of slots, is known."""
        known = self._known()
        if self.slots is None or (self.specs and not known):
            return None
        return makespan(known, self.slots)

    def _known(self) -> list[float]:
        return [seconds for trial_id in self.specs if (seconds := self.estimate(trial_id).seconds) is not None]


def makespan(waiting: Iterable[float], slots: int, running: Iterable[float] = ()) -> float:
    """Seconds until all is done when each free slot takes the longest trial that waits.

    List scheduling, longest first, ends at most a third later than the best schedule (Graham, SIAM J. Appl. Math. 17, 1969).

    Args:
        waiting: seconds of each trial that has not begun.
        slots: trials at a time; where more are running, so many.
        running: seconds left of each running trial.
    """
    free = [max(0.0, left) for left in running]
    free += [0.0] * (max(slots, 1) - len(free))
    heapq.heapify(free)
    for seconds in sorted(waiting, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def span(seconds: float | None) -> str:
    """'40 s', '12 min', '5.3 h', '8.1 days'; 'unknown' for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
