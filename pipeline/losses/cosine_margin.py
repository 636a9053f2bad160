"""Softmax with a margin on the angle between feature and class: AM-Softmax (CosFace), ArcFace, SphereFace.

Letters: B batch, C channels, K classes. theta_k is the angle between the pooled feature, as the classifier sees it after dropout, and
row k of the classifier. Each loss replaces the logit of the label by a smaller one while training, so that the feature must come
closer to its class than would do to be classified.

What is compared is the angle, so the classifier is made to compare it too: `attach` gives it rows of unit length and takes its bias,
after which its plain logits `W f = ||f|| cos(theta_k)` rank the classes as the cosine does, accuracy needs no margin code, and class
activation maps stay exact. `classifier.weight` is then the normalised weight, computed from the trained one at each look, and
- the trained parameter and its key in the saved state are `classifier.parametrizations.weight.original`, and `classifier.bias` is
  gone: a fresh network takes such a state after the same `attach`;
- weight decay shrinks a length that the logits do not see. It acts through the learning rate only: the shorter a row, the further
  the next step turns it (van Laarhoven, arXiv 1706.05350).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.losses.terms import mean_over_labels, unit_length
from pipeline.maps import at_least_float32

SIN2_MIN = 1e-7  # the square root has an infinite slope at 0; no angle in float32 is told from 0 below it


class UnitRows(nn.Module):
    """Parametrization: rows of unit length."""

    def forward(self, weight_KC: Tensor) -> Tensor:
        """weight_KC with normalised rows."""
        return unit_length(weight_KC)


class CosineMargin(Loss):
    """What the family shares; each member says what the label's logit becomes.

    Mixed labels: `lam * L(a) + (1 - lam) * L(b)`, each with the margin on its own label.
    """

    changes_classifier = True

    def attach(self, classifier: nn.Linear) -> None:
        """Normalise the rows from now on and drop the bias; see the module's text."""
        classifier.bias = None
        parametrize.register_parametrization(classifier, "weight", UnitRows())

    def label_cosine(self, cos_B: Tensor) -> Tensor:
        """What stands for cos(theta_y) of the label: smaller, and still falling with the angle."""
        raise NotImplementedError

    def scales(self, feature_BC: Tensor) -> Tensor | float:
        """Factor between cosines and logits: a number, or length_B1."""
        raise NotImplementedError

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, in nats, computed in float32 at least."""
        target = inputs.target
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            feature_BC = at_least_float32(inputs.feature_BC)
            weight_KC = inputs.classifier_weight_KC.to(feature_BC.dtype)
            cos_BK = unit_length(feature_BC) @ unit_length(weight_KC).T
            scale = self.scales(feature_BC)

            def loss_of(label_B: Tensor) -> Tensor:
                label_B1 = label_B[:, None]
                logits_BK = scale * cos_BK.scatter(1, label_B1, self.label_cosine(cos_BK.gather(1, label_B1)))
                return F.cross_entropy(logits_BK, label_B, label_smoothing=target.smoothing, reduction="none")

            return mean_over_labels(target, loss_of)


@register("am_softmax", label="AM-Softmax")
@dataclass(frozen=True, kw_only=True)
class AMSoftmax(CosineMargin):
    """Logits `s (cos(theta_y) - m)` for the label and `s cos(theta_k)` for the others.

    Additive margin softmax (Wang et al., IEEE SPL 2018, arXiv 1801.05599), the same as CosFace (Wang et al., CVPR 2018,
    arXiv 1801.09414).

    Args:
        scale: s. Cosines reach no further than 1, so without a scale the softmax stays flat and the loss high however good the
            features are. The default is that of AM-Softmax; CosFace takes 64.
        margin: m, in units of the cosine.
    """

    scale: float = 30.0
    margin: float = 0.35

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not 0 <= self.margin < 2:
            raise ValueError(f"margin must be in [0, 2), the range of the cosine, got {self.margin}")

    def label_cosine(self, cos_B: Tensor) -> Tensor:
        """`cos(theta) - m`."""
        return cos_B - self.margin

    def scales(self, feature_BC: Tensor) -> float:
        """s."""
        return self.scale


@register("arcface", label="ArcFace")
@dataclass(frozen=True, kw_only=True)
class ArcFace(CosineMargin):
    """Logits `s cos(theta_y + m)` for the label and `s cos(theta_k)` for the others (Deng et al., CVPR 2019, arXiv 1801.07698).

    Beyond theta = pi - m, where cos(theta + m) would rise again, the label's cosine is `cos(theta) - m sin(m)`, as in the authors'
    code. Within about 3e-4 of theta = 0 the slope of the sine counts as 0.

    Args:
        scale: s; see `AMSoftmax`. The paper takes 64, for faces of many thousands of classes; with it and a learning rate of 0.1 a
            resnet8 on cluttered digits did not learn in 8 epochs (one seed).
        margin: m in radians, the paper's by default (`pytorch_metric_learning.losses.ArcFaceLoss` takes degrees). At wide
            angles the gradient is damped by sin(theta + m) / sin(theta); in those 8 epochs 0.1 did better.
    """

    scale: float = 30.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if not 0 <= self.margin <= math.pi / 2:
            raise ValueError(f"margin must be in [0, pi / 2] radians, got {self.margin}")

    def label_cosine(self, cos_B: Tensor) -> Tensor:
        """`cos(theta + m)` by the sum formula, so that no inverse cosine with its infinite slopes is needed."""
        sin_B = (1 - cos_B.square()).clamp_min(SIN2_MIN).sqrt()
        turned_B = cos_B * math.cos(self.margin) - sin_B * math.sin(self.margin)
        return torch.where(cos_B >= -math.cos(self.margin), turned_B, cos_B - self.margin * math.sin(self.margin))

    def scales(self, feature_BC: Tensor) -> float:
        """s."""
        return self.scale


@register("sphereface", label="SphereFace")
@dataclass(kw_only=True, eq=False)
class SphereFace(CosineMargin):
    """Logits `||f|| (lambda cos(theta_y) + psi(theta_y)) / (lambda + 1)` for the label and `||f|| cos(theta_k)` for the others.

    `psi(theta) = (-1)^j cos(m theta) - 2 j` on `[j pi / m, (j + 1) pi / m]` (A-Softmax, Liu et al., CVPR 2017, arXiv 1704.08063).
    lambda begins high, where the loss is close to a plain softmax, and falls with the number t of steps taken:
    `lambda = max(softening, softening_start / (1 + softening_decay t))`. With a constant 5 a small net stayed at log K.
    A step counts when the loss is computed with gradients on, from the term's start epoch on; a regularizer that computes them twice a
    step makes t run twice as fast.

    Args:
        margin: m, a whole number; 1 is no margin. The paper's is 4.
        softening: lambda in the end; 0 is the margin in full. It and the next two are by default as in the authors' prototxt.
        softening_start: lambda at the first step.
        softening_decay: how fast it falls, a step.
    """

    margin: int = 4
    softening: float = 5.0
    softening_start: float = 1000.0
    softening_decay: float = 0.12

    def __post_init__(self) -> None:
        if self.margin < 1:
            raise ValueError(f"margin must be a whole number >= 1, got {self.margin}")
        if self.softening < 0:
            raise ValueError(f"softening must be >= 0, got {self.softening}")
        if self.softening_start < self.softening:
            raise ValueError(f"softening_start must be >= softening ({self.softening}), got {self.softening_start}")
        if self.softening_decay < 0:
            raise ValueError(f"softening_decay must be >= 0, got {self.softening_decay}")
        self._steps = 0

    @property
    def present_softening(self) -> float:
        """lambda of the next step."""
        return max(self.softening, self.softening_start / (1 + self.softening_decay * self._steps))

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, in nats, computed in float32 at least."""
        value = super().__call__(inputs)
        self._steps += torch.is_grad_enabled()
        return value

    def label_cosine(self, cos_B: Tensor) -> Tensor:
        """The softened psi. cos(m theta) is the Chebyshev polynomial of the cosine, smooth everywhere."""
        before_B, multiple_B = torch.ones_like(cos_B), cos_B
        for _ in range(self.margin - 1):
            before_B, multiple_B = multiple_B, 2 * cos_B * multiple_B - before_B
        piece_B = (cos_B.detach().clamp(-1, 1).acos() * (self.margin / math.pi)).floor().clamp_max(self.margin - 1)
        sign_B = 1 - 2 * (piece_B % 2)
        psi_B = sign_B * multiple_B - 2 * piece_B
        softening = self.present_softening
        return (softening * cos_B + psi_B) / (1 + softening)

    def scales(self, feature_BC: Tensor) -> Tensor:
        """The feature's length: this loss does not normalise it."""
        return torch.linalg.vector_norm(feature_BC, dim=1, keepdim=True)


def _check_scale(scale: float) -> None:
    if scale <= 0:
        raise ValueError(f"scale must be > 0, got {scale}")
