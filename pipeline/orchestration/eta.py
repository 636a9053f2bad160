"""Time left of a run: a schedule of what runs and what waits, corrected by how long finished trials really took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from pipeline.orchestration.forecast import Forecast, makespan


@dataclass
class _Running:
    began: float
    epochs_before: int
    epochs: int = 0
    last_epoch: float = 0.0


class Eta:
    """Follows the trials of a forecast from their start to their end.

    Args:
        forecast: all trials to run; its model may learn meanwhile.
        now: seconds on a clock that never goes back; None: the system's.
    """

    def __init__(self, forecast: Forecast, now: Callable[[], float] | None = None) -> None:
        self.forecast, self._now = forecast, now or time.monotonic
        self.waiting = dict.fromkeys(forecast.specs)
        self.running: dict[str, _Running] = {}
        self._took: dict[str, tuple[float, float]] = {}  # seconds, and the share of the trial's epochs that they were for

    def started(self, trial_id: str, epochs_before: int = 0) -> None:
        """A trial began, or went on from a checkpoint with so many epochs behind it."""
        self.waiting.pop(trial_id, None)
        self.running[trial_id] = _Running(self._now(), epochs_before)

    def epoch(self, trial_id: str) -> None:
        """A trial finished an epoch."""
        if trial_id in self.running:
            self.running[trial_id].epochs += 1
            self.running[trial_id].last_epoch = self._now()

    def finished(self, trial_id: str, *, counts: bool = True) -> None:
        """A trial ended; `counts`: how long it took tells something of the others."""
        self.waiting.pop(trial_id, None)
        trial = self.running.pop(trial_id, None)
        if trial is not None and counts:
            self._took[trial_id] = self._now() - trial.began, 1 - trial.epochs_before / self.forecast.epochs(trial_id)

    def requeued(self, trial_id: str) -> None:
        """A running trial has to wait for another start."""
        self.running.pop(trial_id, None)
        self.waiting[trial_id] = None

    def left_out(self, trial_id: str) -> None:
        """A trial is not to be run here any more."""
        self.waiting.pop(trial_id, None)
        self.running.pop(trial_id, None)

    def correction(self) -> float:
        """Time that finished trials took over what the model expects of them by now; 1 before the first."""
        pairs = [(took, share * seconds) for i, (took, share) in self._took.items() if (seconds := self.forecast.estimate(i).seconds)]
        expected = sum(seconds for _, seconds in pairs)
        return sum(took for took, _ in pairs) / expected if expected > 0 else 1.0

    def seconds_left(self) -> float | None:
        """Until the last trial ends, longest first on the slots; None while nothing is known of some trial."""
        correction = self.correction()
        ours = [*self.running, *self.waiting]
        known = {i: seconds * correction for i in ours if (seconds := self.forecast.estimate(i).seconds) is not None}
        whole = [took / share for took, share in self._took.values() if share > 0]
        if len(known) < len(ours):
            typical = fmean(whole) if whole else fmean(known.values()) if known else None
            if typical is None:
                return None
            known = {i: known.get(i, typical) for i in ours}
        left = [self._left(trial_id, trial, known[trial_id]) for trial_id, trial in self.running.items()]
        return makespan((known[i] for i in self.waiting), self.forecast.slots or len(left), left)

    def _left(self, trial_id: str, trial: _Running, whole: float) -> float:
        """Of a running trial: by the estimate at first, by its own pace the further it is."""
        epochs, now = self.forecast.epochs(trial_id), self._now()
        own = epochs - trial.epochs_before
        by_estimate = whole * own / epochs - (now - trial.began)
        if not trial.epochs:
            return max(0.0, by_estimate)
        by_pace = (trial.last_epoch - trial.began) / trial.epochs * own - (now - trial.began)
        share = trial.epochs / own
        return max(0.0, (1 - share) * by_estimate + share * by_pace)
