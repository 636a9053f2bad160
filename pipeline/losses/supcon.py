"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362). Letters: B batch, C channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.losses.terms import unit_length
from pipeline.maps import at_least_float32
from pipeline.registry import needed_by


@register("supcon", label="SupCon")
@dataclass(kw_only=True, eq=False)
class SupCon(Loss):
    """`- mean over anchors i, mean over positives p of log( exp(z_i . z_p / t) / sum over a != i of exp(z_i . z_a / t) )`.

    Positives are the other images of the anchor's class, and z is the pooled feature as the classifier sees it, after dropout, at
    unit length. This is the paper's L_out from pytorch-metric-learning, with less around it than in the paper: one view an image, no
    projection head, and together with a term that trains the classifier rather than in a stage before it.
    Anchors without a positive do not count; a batch without a positive or without a negative pair gives 0 with a zero gradient.
    The library looks at the labels on the host, so each step waits for the device.

    Args:
        temperature: t; the paper's is 0.1.
    """

    temperature: float = 0.1
    trains_classifier = False
    takes_mixed_labels = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        with needed_by("loss 'supcon'"):
            from pytorch_metric_learning.distances import DotProductSimilarity
            from pytorch_metric_learning.losses import SupConLoss
        # Normalised here, since the library's way blows up on a feature of zeros.
        self._function = SupConLoss(temperature=self.temperature, distance=DotProductSimilarity(normalize_embeddings=False))

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, in nats, computed in float32 at least."""
        assert inputs.target.other_B is None, "no positives for a mixed label"
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            return self._function(unit_length(at_least_float32(inputs.feature_BC)), inputs.target.label_B)
