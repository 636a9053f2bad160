"""The training loss: weighted terms, each from its start epoch on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline import losses
from pipeline.batch import LossInputs

WEIGHT, START_EPOCH = 1.0, 0  # defaults of every term


class Objective:
    """`total = sum over active terms of weight * term`; a term is active from its `start_epoch` (counted from 0) on.

    Args:
        terms: loss name -> {"weight": float, "start_epoch": int, option: value, ...}, as in a resolved trial configuration.
    """

    def __init__(self, terms: dict[str, dict[str, Any]]) -> None:
        self.terms = []
        for name, settings in terms.items():
            options = {key: value for key, value in settings.items() if key not in ("weight", "start_epoch")}
            weight, start_epoch = settings.get("weight", WEIGHT), settings.get("start_epoch", START_EPOCH)
            self.terms.append((name, weight, start_epoch, losses.create(name, **options)))

    def __call__(self, inputs: LossInputs, epoch: int) -> dict[str, Tensor]:
        """Unweighted terms by name, and their weighted sum as 'total'."""
        values = {name: loss(inputs) for name, _, start, loss in self.terms if epoch >= start}
        weights = {name: weight for name, weight, _, _ in self.terms}
        total = sum(weights[name] * value for name, value in values.items())
        return {"total": total, **values}  # type: ignore[dict-item]
