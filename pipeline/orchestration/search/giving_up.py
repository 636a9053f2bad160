"""Who gives a point up early: ASHA or Hyperband among the points of one arm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.orchestration.ray_session import settle_environment
from pipeline.orchestration.search.arms import ArmPlan


@dataclass(frozen=True)
class _Named:
    trial_id: str  # all that Ray's schedulers look at


class NeverGiveUp:
    """No pruner."""

    def gives_up(self, number: int, epoch: int, value: float | None) -> bool:
        """Never."""
        return False


class SuccessiveHalving:
    """Ray's asynchronous successive halving; a point goes on when it is among the best of those that got as far.

    With several brackets (Hyperband) points take turns: each bracket begins to compare later than the one before, so that slow starters
    get a chance in some. Which bracket a point is in depends on its number alone, so that a continued search decides alike.

    Args:
        arm: whose points are compared among themselves.
    """

    def __init__(self, arm: ArmPlan) -> None:
        settle_environment()
        try:
            from ray.tune.schedulers import ASHAScheduler
        except ImportError as error:
            place = arm.resolver.file.locate(("search", "pruner"))
            raise ConfigError(
                f"{place}: {arm.spec.pruner_name} is Ray's, which is not installed. Install it or set pruner: none."
            ) from error

        options = arm.spec.pruner[arm.spec.pruner_name]
        grace, reduction = options["grace_epochs"], options["reduction"]
        starts = [grace * reduction**bracket for bracket in range(options.get("brackets", 1))]
        self.epochs = arm.epochs
        self.brackets = [
            ASHAScheduler(
                time_attr="epoch",
                metric="value",
                mode="max" if arm.directions[0] == "maximize" else "min",
                max_t=arm.epochs,
                grace_period=start,
                reduction_factor=reduction,
            )
            for start in starts
            if start < arm.epochs
        ]
        self._added: set[int] = set()

    def gives_up(self, number: int, epoch: int, value: float | None) -> bool:
        """Whether a point is given up after this epoch; its value is remembered for those that come later."""
        if value is None or not math.isfinite(value):
            return False
        bracket, point = self.brackets[number % len(self.brackets)], _Named(str(number))
        if number not in self._added:
            bracket.on_trial_add(None, point)
            self._added.add(number)
        decision: Any = bracket.on_trial_result(None, point, {"epoch": epoch, "value": value})
        return epoch < self.epochs and decision == bracket.STOP


Pruner = NeverGiveUp | SuccessiveHalving


def make_pruner(arm: ArmPlan) -> Pruner:
    """The pruner of an arm."""
    return NeverGiveUp() if arm.spec.pruner_name == "none" else SuccessiveHalving(arm)
