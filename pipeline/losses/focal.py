"""Focal loss, softmax form (Lin et al., ICCV 2017, arXiv 1708.02002). Letters: B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.batch import LossInputs, Target
from pipeline.errors import IncompatibleError
from pipeline.losses import Loss, register
from pipeline.losses.terms import mean_over_labels
from pipeline.maps import at_least_float32

TINY = 1e-12  # below it 1 - p counts as constant: for 0 < gamma < 1 the power has an infinite slope at 0


def focal(logits_BK: Tensor, target: Target, gamma: float, alpha_K: Tensor | None = None) -> Tensor:
    """`sum over k of q_k * alpha_k * (1 - p_k)^gamma * (-log p_k)`, mean over B, with p = softmax(logits) and q the target.

    For a hard label this is the paper's `-alpha_y (1 - p_y)^gamma log p_y`. Being linear in q, it covers mixed labels and smoothing
    the way cross-entropy does, and with gamma 0 it is cross-entropy.

    The paper's own form has one sigmoid a class, for detection; that is `torchvision.ops.sigmoid_focal_loss`. Labels that exclude
    each other need the softmax form, which torchvision does not have.

    Returns:
        Scalar, in nats, computed in float32 at least.
    """
    log_p_BK = at_least_float32(logits_BK).log_softmax(1)
    value_BK = (-log_p_BK.expm1()).clamp_min(TINY) ** gamma * -log_p_BK
    if alpha_K is not None:
        value_BK = alpha_K * value_BK
    even_B = value_BK.mean(1)

    def loss_of(label_B: Tensor) -> Tensor:
        return (1 - target.smoothing) * value_BK.gather(1, label_B[:, None])[:, 0] + target.smoothing * even_B

    return mean_over_labels(target, loss_of)


@register("focal", label="focal")
@dataclass(kw_only=True, eq=False)
class Focal(Loss):
    """Focal loss; see `focal`. The default gamma is the paper's choice.

    Args:
        gamma: how much less a well classified image counts; 0 is cross-entropy.
        alpha: one weight a class; None weighs all alike.
    """

    gamma: float = 2.0
    alpha: list[float] | None = None

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {self.gamma}")
        if self.alpha is not None and not (self.alpha and min(self.alpha) >= 0 and max(self.alpha) > 0):
            raise ValueError(f"alpha must be one weight >= 0 a class, not all of them 0, got {self.alpha}")
        self.alpha_K: Tensor | None = None

    def attach(self, classifier: nn.Linear) -> None:
        """Put alpha on the classifier's device.

        Raises:
            IncompatibleError: there are more or fewer weights than classes.
        """
        if self.alpha is None:
            return
        if len(self.alpha) != classifier.out_features:
            raise IncompatibleError(
                f"loss.focal.alpha must be one weight a class: got {len(self.alpha)} for {classifier.out_features} classes"
            )
        self.alpha_K = torch.tensor(self.alpha, device=classifier.weight.device)

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, in nats; before `attach` without alpha."""
        return focal(inputs.logits_BK, inputs.target, self.gamma, self.alpha_K)
