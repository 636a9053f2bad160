"""Softmax cross-entropy. Letters: B batch, K classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pipeline.batch import LossInputs, Target
from pipeline.losses import Loss, register
from pipeline.losses.terms import mean_over_labels


def cross_entropy(logits_BK: Tensor, target: Target) -> Tensor:
    """Mean cross-entropy, with mixed and smoothed labels where the target says so.

    `lam * CE(logits, a) + (1 - lam) * CE(logits, b)` (mixup, Zhang et al., arXiv 1710.09412; CutMix, Yun et al., arXiv 1905.04899).

    Returns:
        Scalar, in nats, computed in float32.
    """
    logits_BK = logits_BK.float()
    return mean_over_labels(target, lambda label_B: F.cross_entropy(logits_BK, label_B, label_smoothing=target.smoothing, reduction="none"))


@register("ce", label="CE")
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy with the labels of the batch."""

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss, in nats."""
        return cross_entropy(inputs.logits_BK, inputs.target)
