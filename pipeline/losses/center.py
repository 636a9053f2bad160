"""Center loss (Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016).

Letters: B batch, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.maps import at_least_float32


@torch.no_grad()
def moved(center_KC: Tensor, feature_BC: Tensor, label_B: Tensor, alpha: float) -> Tensor:
    """Centers after one step of the paper's rule, a new tensor.

    `c_k - alpha * (sum over images of class k of c_k - x_i) / (1 + n_k)`; the center of a class that the batch lacks stays.
    """
    # A product with the one-hot labels, not index_add: that one adds in random order on CUDA.
    onehot_BK = nn.functional.one_hot(label_B, len(center_KC)).to(center_KC.dtype)
    count_K1 = onehot_BK.sum(0)[:, None]
    return center_KC - alpha * (count_K1 * center_KC - onehot_BK.T @ feature_BC) / (1 + count_K1)


@register("center", label="center loss")
@dataclass(kw_only=True, eq=False)
class CenterLoss(Loss):
    """`mean over B of ||x_i - c_{y_i}||^2 / 2` with a running center a class.

    x is the pooled feature as the classifier sees it, after dropout. The paper sums over the batch; the mean keeps the weight's
    meaning when the batch size changes. The paper's lambda is the weight of the term: it weighs squared lengths, which grow with the
    number of channels, so it is well below 1.

    The centers start at zero, on the classifier's device. They are no parameters: each call with gradients on moves them after the
    loss was taken, so a regularizer that computes the gradients twice a step moves them twice. They are detached, and no part of the
    saved network, which needs none of them to classify.

    Args:
        alpha: how far a center moves towards the mean of its class in the batch, in [0, 1]; the default is the paper's.
    """

    alpha: float = 0.5
    trains_classifier = False
    takes_mixed_labels = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        self.center_KC: Tensor | None = None

    def attach(self, classifier: nn.Linear) -> None:
        """Make the centers."""
        self.center_KC = torch.zeros(classifier.out_features, classifier.in_features, device=classifier.weight.device)

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, computed in float32 at least, against the centers before they move."""
        assert self.center_KC is not None, "attach makes the centers"
        assert inputs.target.other_B is None, "no center for a mixed label"
        label_B = inputs.target.label_B
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            feature_BC = at_least_float32(inputs.feature_BC)
            value = 0.5 * (feature_BC - self.center_KC[label_B]).square().sum(1).mean()
            if torch.is_grad_enabled():
                self.center_KC = moved(self.center_KC, feature_BC.detach().to(self.center_KC.dtype), label_B, self.alpha)
        return value
