"""What travels through a training step: images, targets, and what a loss may look at.

Letters: B batch, C channels, H W rows and columns, K classes.
Plain containers of tensors: losses and regularizers, which never import each other, meet here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """Labels of a batch, possibly mixed from two images and smoothed.

    Attributes:
        label_B: class indices.
        other_B: class indices of the images mixed in (mixup, CutMix), or None when the labels are not mixed.
        lam: share of `label_B` in each image, a float or lam_B; 1.0 when the labels are not mixed.
        smoothing: mass spread evenly over all classes (label smoothing), in [0, 1).
    """

    label_B: Tensor
    other_B: Tensor | None = None
    lam: Tensor | float = 1.0
    smoothing: float = 0.0

    @property
    def cam_label(self) -> Tensor | tuple[Tensor, Tensor, Tensor | float]:
        """label_B, or (label_a_B, label_b_B, lam) when labels are mixed: the form `cam_loss` takes."""
        return self.label_B if self.other_B is None else (self.label_B, self.other_B, self.lam)


@dataclass(frozen=True)
class Batch:
    """Images as the network sees them (normalised, augmented) and their targets."""

    image_BCHW: Tensor
    target: Target

    def with_(self, **changes: object) -> Batch:
        """A copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LossInputs:
    """All that a loss may look at: tensors, never the model.

    Attributes:
        feature_map_BCHW: last feature map, before global average pooling.
        logits_BK: output of the classifier.
        classifier_weight_KC: weight of the classifier, live: detach it where it must not move.
        target: labels of the batch.
        feature_BC: pooled features as the classifier sees them, after dropout; by default the spatial mean of the feature map.
        stage_maps: feature map at the end of each stage, the last one included, in forward order; empty unless a term asks for
            them with `Loss.fewest_stages`. The logits depend on each of them, so `torch.autograd.grad` goes through.
    """

    feature_map_BCHW: Tensor
    logits_BK: Tensor
    classifier_weight_KC: Tensor
    target: Target
    feature_BC: Tensor = None  # type: ignore[assignment]  # filled in below
    stage_maps: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.feature_BC is None:
            object.__setattr__(self, "feature_BC", self.feature_map_BCHW.mean(dim=(2, 3)))
