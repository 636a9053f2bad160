"""Triplet loss (Schroff et al., FaceNet, CVPR 2015, arXiv 1503.03832). Letters: B batch, C channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.batch import LossInputs
from pipeline.errors import UnknownNameError
from pipeline.losses import Loss, register
from pipeline.losses.terms import unit_length
from pipeline.maps import at_least_float32
from pipeline.registry import needed_by

Mining = Literal["hard", "all"]


@register("triplet", label="triplet")
@dataclass(kw_only=True, eq=False)
class Triplet(Loss):
    """`mean over violating triplets of ||z_a - z_p||^2 - ||z_a - z_n||^2 + margin`, where that is > 0.

    z is the pooled feature as the classifier sees it, after dropout, at unit length; p has the anchor's class and n another one.
    Triplets that keep the margin do not count in the mean, either. A batch without any triplet gives 0 with a zero gradient.
    The work is done by pytorch-metric-learning, which looks at the labels on the host, so each step waits for the device.

    Args:
        margin: in squared distance, of which two unit vectors have at most 4; 0.2 is FaceNet's.
        mining: `hard`: for each anchor the furthest positive and the nearest negative of the batch (Hermans et al.,
            arXiv 1703.07737); `all`: all triplets of the batch, whose number and memory grow with the cube of the batch size.
    """

    margin: float = 0.2
    mining: Mining = "hard"
    trains_classifier = False
    takes_mixed_labels = False

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 4:
            raise ValueError(f"margin must be in [0, 4], the range of the squared distance, got {self.margin}")
        if self.mining not in get_args(Mining):
            raise UnknownNameError("mining", self.mining, get_args(Mining), where="loss 'triplet'")
        with needed_by("loss 'triplet'"):
            from pytorch_metric_learning.distances import DotProductSimilarity
            from pytorch_metric_learning.losses import TripletMarginLoss
            from pytorch_metric_learning.miners import BatchHardMiner
        # ||a - b||^2 = 2 - 2 a.b at unit length, so the loss is twice one of dot products with half the margin: the library's
        # distance loses the small ones to rounding.
        similarity = DotProductSimilarity(normalize_embeddings=False)
        self._function = TripletMarginLoss(margin=self.margin / 2, distance=similarity)
        self._mine = BatchHardMiner(distance=similarity) if self.mining == "hard" else None

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, computed in float32 at least."""
        assert inputs.target.other_B is None, "no positives for a mixed label"
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            unit_BC = unit_length(at_least_float32(inputs.feature_BC))
            mined = None if self._mine is None else self._mine(unit_BC, inputs.target.label_B)
            return 2 * self._function(unit_BC, inputs.target.label_B, mined)
