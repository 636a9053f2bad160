"""Label smoothing as a loss (Szegedy et al., CVPR 2016, arXiv 1512.00567). Letters: B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.losses.ce import cross_entropy


@register("label_smoothing", label="label smoothing")
@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Loss):
    """Softmax cross-entropy with the target `(1 - epsilon) * onehot + epsilon / K`; the 0.1 is the paper's.

    The regularizer of the same name smooths the target for every term of a trial, this loss only for itself. Where a target comes in
    smoothed by s already, both apply in turn: `1 - (1 - s) (1 - epsilon)` of the mass is even.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must be in (0, 1), got {self.epsilon}")

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss, in nats."""
        smoothing = 1 - (1 - inputs.target.smoothing) * (1 - self.epsilon)
        return cross_entropy(inputs.logits_BK, replace(inputs.target, smoothing=smoothing))
