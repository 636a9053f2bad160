"""The training loss: weighted terms, each from its start epoch on, some with a ramp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import losses
from pipeline.batch import LossInputs
from pipeline.stateful import Stateful


@dataclass(frozen=True)
class Term(Stateful):
    """One weighted term of the loss.

    Attributes:
        weight: its factor once the ramp is over.
        start_epoch: first epoch (counted from 0) in which it counts.
        ramp_epochs: epochs over which the weight rises linearly to its full value, the last of them with all of it; 0: no ramp.
    """

    name: str
    loss: losses.Loss
    weight: float = 1.0
    start_epoch: int = 0
    ramp_epochs: int = 0

    def weight_at(self, epoch: int) -> float:
        """`weight * min(1, (epoch - start_epoch + 1) / ramp_epochs)`, 0 before the start."""
        if epoch < self.start_epoch:
            return 0.0
        passed = epoch - self.start_epoch + 1
        return self.weight * (passed / self.ramp_epochs if passed < self.ramp_epochs else 1.0)


class Objective(Stateful):
    """`total = sum over active terms of weight_at(epoch) * term`.

    Args:
        terms: loss name -> {"weight": float, "start_epoch": int, "ramp_epochs": int, option: value, ...}, as in a resolved trial
            configuration.
    """

    def __init__(self, terms: dict[str, dict[str, Any]]) -> None:
        common = ("weight", "start_epoch", "ramp_epochs")
        self.terms = []
        for name, settings in terms.items():
            options = {key: value for key, value in settings.items() if key not in common}
            own = {key: settings[key] for key in common if key in settings}
            self.terms.append(Term(name, losses.create(name, **options), **own))

    def attach(self, classifier: nn.Linear, seed_of: Callable[[str], int]) -> None:
        """Let each term look at, or change, the classifier; torch's global generator is seeded by `seed_of(name)` for each."""
        for term in self.terms:
            torch.manual_seed(seed_of(term.name))
            term.loss.attach(classifier)

    def parameters(self) -> list[nn.Parameter]:
        """Trained parameters of the terms themselves."""
        return [parameter for term in self.terms for parameter in term.loss.parameters()]

    def needs_stages(self, epoch: int) -> bool:
        """Whether a term that is active in this epoch wants the feature maps of all stages."""
        return any(term.loss.fewest_stages > 1 for term in self.terms if epoch >= term.start_epoch)

    def __call__(self, inputs: LossInputs, epoch: int) -> dict[str, Tensor]:
        """Unweighted terms by name, and their weighted sum as 'total'."""
        active = [term for term in self.terms if epoch >= term.start_epoch]
        values = {term.name: term.loss(inputs) for term in active}
        total = sum(term.weight_at(epoch) * values[term.name] for term in active)
        return {"total": total, **values}  # type: ignore[dict-item]
