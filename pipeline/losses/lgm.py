"""Large-margin Gaussian mixture loss (Wan et al., "Rethinking Feature Distribution for Loss Functions in Image Classification",
CVPR 2018, arXiv 1803.02988), with identity covariances and equal priors. Letters: B batch, C channels, K classes.

The logit of class k is minus half the squared distance of the feature to the class mean,
    -||f - mu_k||^2 / 2 = f . mu_k - ||mu_k||^2 / 2 - ||f||^2 / 2,
and the last part is the same for all classes: up to it, this is a linear classifier with weight mu_k and bias -||mu_k||^2 / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.losses.terms import mean_over_labels
from pipeline.maps import at_least_float32


class NearestMean(nn.Linear):
    """A linear layer whose rows are class means and whose bias follows from them, so that the highest logit is the nearest mean.

    A class and not a parametrization, since the bias depends on the weight and has nothing of its own to be trained or saved.
    """

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        """`-||mu_k||^2 / 2`."""
        return -0.5 * at_least_float32(self.weight).square().sum(1)

    def forward(self, feature_BC: Tensor) -> Tensor:
        """logits_BK in float32 under autocast too: product and bias are large and nearly cancel, which bfloat16 cannot hold."""
        with torch.autocast(feature_BC.device.type, enabled=False):
            feature_BC = at_least_float32(feature_BC)
            return F.linear(feature_BC, self.weight.to(feature_BC.dtype), self.bias.to(feature_BC.dtype))


@register("lgm", label="L-GM")
@dataclass(kw_only=True, eq=False)
class GaussianMixture(Loss):
    """`cross-entropy of -(1 + alpha [k = y]) d_k, plus likelihood * d_y`, with `d_k = ||f - mu_k||^2 / 2`; mean over B.

    f is the pooled feature as the classifier sees it, after dropout, and the means are the rows of the classifier: `attach` ties its
    bias to them, so that plain logits, accuracy and class activation maps are those of the mixture. The state that is saved has no
    bias then. Weight decay draws the means towards the origin. The paper also trains the covariances; the classifier would then no
    longer be linear in f.

    Mixed labels: `lam * L(a) + (1 - lam) * L(b)`. Smoothing spreads the label of the cross-entropy.

    Args:
        alpha: margin. The authors' CIFAR-100 example doubles it from 0.1 up to 0.3 in the course of training.
        likelihood: weight of d_y, the likelihood of the feature under its class up to a constant; 0.1 as in that example.
        ramp_steps: steps over which alpha and likelihood rise from 0, linearly. Not the paper's: with both in full from the first step
            a small net hardly learned in 8 epochs on cluttered digits. A step counts when the loss is
            computed with gradients on, from the term's start epoch on; 0 switches the ramp off.
    """

    alpha: float = 0.3
    likelihood: float = 0.1
    ramp_steps: int = 1000
    changes_classifier = True

    def __post_init__(self) -> None:
        for option in ("alpha", "likelihood", "ramp_steps"):
            if getattr(self, option) < 0:
                raise ValueError(f"{option} must be >= 0, got {getattr(self, option)}")
        self._steps = 0

    @property
    def present_share(self) -> float:
        """Share of `alpha` and `likelihood` at the next step."""
        return min(1.0, self._steps / self.ramp_steps) if self.ramp_steps else 1.0

    def attach(self, classifier: nn.Linear) -> None:
        """Tie the bias to the weight, which keeps its initial value."""
        classifier.bias = None
        classifier.__class__ = NearestMean

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, computed in float32 at least."""
        target, share = inputs.target, self.present_share
        self._steps += torch.is_grad_enabled()
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            feature_BC = at_least_float32(inputs.feature_BC)
            mean_KC = inputs.classifier_weight_KC.to(feature_BC.dtype)
            logits_BK = feature_BC @ mean_KC.T - 0.5 * mean_KC.square().sum(1)

            def loss_of(label_B: Tensor) -> Tensor:
                distance_B = 0.5 * (feature_BC - mean_KC[label_B]).square().sum(1)
                margin_BK = logits_BK.scatter_add(1, label_B[:, None], -share * self.alpha * distance_B[:, None])
                entropy_B = F.cross_entropy(margin_BK, label_B, label_smoothing=target.smoothing, reduction="none")
                return entropy_B + share * self.likelihood * distance_B

            return mean_over_labels(target, loss_of)
