"""What Optuna's storage says of the points of one arm, and the words in which it is said there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

# User attributes of an Optuna trial, also there for people who look at it in optuna-dashboard.
TRIAL_ID, ARM, NAME, SOURCE, EPOCHS, REASON, FAILURE, REPEATS = (
    "trial_id", "arm", "name", "source", "epochs", "reason", "failure", "repeats",
)  # fmt: skip
TRAINED, STORED = "trained", "stored"  # SOURCE: trained by this search, or found in the store
FINAL = ("diverged", "no_metric")  # kinds of failure that the same point would meet again
LEFT_OVER = "left over"  # FAILURE of an Optuna trial that is no point: never run, no epochs


@dataclass
class Point:
    """One distinct point of an arm: several Optuna trials may stand for it.

    Attributes:
        number: of the Optuna trial that counts.
        trial_id: the stored trial.
        fields: dotted field -> value, in the words of Optuna.
        state: running, complete, pruned or failed.
        epochs: how much of the budget it takes: those it had; all of them if it failed; those kept free for it while it runs.
        values: what is optimised, of a complete point.
        source: 'trained' or 'stored'.
        reason, failure: as in its record.
        seen: epochs that a decision was made about, in this process.
    """

    number: int
    trial_id: str
    fields: dict[str, Any]
    state: str
    epochs: int
    values: list[float] | None = None
    source: str = TRAINED
    reason: str = ""
    failure: str = ""
    seen: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether running it again could not change anything."""
        return self.state in ("complete", "pruned") or (self.state == "failed" and self.failure in FINAL)


@dataclass
class Points:
    """All points of an arm.

    Attributes:
        by_id: trial id -> point, in the order in which they were first asked for.
        repeats: Optuna trials that repeated a point.
        unfinished: Optuna trials that a driver left running.
        waiting: parameters that wait to be tried again.
    """

    by_id: dict[str, Point] = field(default_factory=dict)
    repeats: int = 0
    unfinished: list[FrozenTrial] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """How much of the budget is taken."""
        return sum(point.epochs for point in self.by_id.values())

    def to_retry(self) -> list[Point]:
        """Points that failed for a reason that may pass."""
        return [point for point in self.by_id.values() if point.state == "failed" and point.failure not in FINAL]


_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def read_points(trials: Iterable[FrozenTrial]) -> Points:
    """The points behind the trials of an Optuna study; a later trial of the same point counts instead of a failed one."""
    points = Points()
    for trial in sorted(trials, key=lambda trial: trial.number):
        said: Mapping[str, Any] = trial.user_attrs
        if trial.state == TrialState.RUNNING:
            points.unfinished.append(trial)
        elif trial.state == TrialState.WAITING:
            points.waiting.append(trial.system_attrs.get("fixed_params", {}))
        elif REPEATS in said:
            points.repeats += 1
        elif TRIAL_ID in said and said.get(FAILURE) != LEFT_OVER:
            points.by_id[said[TRIAL_ID]] = Point(
                number=trial.number,
                trial_id=said[TRIAL_ID],
                fields=dict(trial.params),
                state=_STATES[trial.state],
                epochs=said.get(EPOCHS, 0),
                values=list(trial.values) if trial.state == TrialState.COMPLETE else None,
                source=said.get(SOURCE, TRAINED),
                reason=said.get(REASON, ""),
                failure=said.get(FAILURE, ""),
            )
    return points
