"""CAM-loss: pull the class-agnostic activation map towards the class activation map of the label.

Wang et al., "CAM-loss: Towards Learning Spatially Discriminative Feature Representations", ICCV 2021, arXiv 2109.01359.
Letters: B batch, C channels, H W rows and columns of the feature map, K classes.

Known of the paper: CAM and CAAM are taken just before global average pooling, an l1 distance compares them, and the classifier
weight is updated by cross-entropy only. Not known: the normalisation of the maps, the reduction of the distance, and whether both
maps move. Those are options here, with defaults that a study can ablate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.batch import LossInputs
from pipeline.errors import UnknownNameError
from pipeline.losses import Loss, register
from pipeline.maps import caam, cam, min_max

__all__ = ["CamLoss", "caam", "cam", "cam_loss", "distance_B", "min_max", "normalize"]

Distance = Literal["l1", "l2", "smooth_l1", "kl", "cosine"]
Normalization = Literal["min_max", "l2", "softmax", "standardize", "none"]
Reduction = Literal["mean", "sum"]
MixedLabel = tuple[Tensor, Tensor, "Tensor | float"]


def normalize(map_BHW: Tensor, how: Normalization) -> Tensor:
    """Make maps of different scale comparable, each image by itself.

    `min_max`: to [0, 1]; `l2`: unit Euclidean norm; `softmax`: sums to one; `standardize`: zero mean, unit variance; `none`: as is.
    A constant map becomes zeros under `min_max` and `standardize`, a zero map stays zero under `l2`.
    """
    if how == "min_max":
        return min_max(map_BHW)
    if how == "none":
        return map_BHW
    flat_BP = map_BHW.flatten(1)
    if how == "l2":
        flat_BP = F.normalize(flat_BP, dim=1)
    elif how == "softmax":
        flat_BP = flat_BP.softmax(dim=1)
    elif how == "standardize":
        flat_BP = F.layer_norm(flat_BP, flat_BP.shape[1:])
    else:
        raise UnknownNameError("normalization", how, get_args(Normalization))
    return flat_BP.view_as(map_BHW)


def distance_B(a_BHW: Tensor, b_BHW: Tensor, kind: Distance, reduction: Reduction) -> Tensor:
    """Distance between two maps, one number an image.

    `l1`, `l2` (squared) and `smooth_l1` are taken a pixel and reduced over H W by `reduction`. `kl` is KL(softmax(b) || softmax(a))
    and `cosine` is 1 - cos(a, b): both are one number for a whole map, so `reduction` does not touch them.
    """
    if reduction not in ("mean", "sum"):
        raise UnknownNameError("reduction", reduction, get_args(Reduction))
    a_BP, b_BP = a_BHW.flatten(1), b_BHW.flatten(1)
    if kind == "kl":
        return F.kl_div(a_BP.log_softmax(1), b_BP.log_softmax(1), reduction="none", log_target=True).sum(1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(a_BP, b_BP, dim=1)
    if kind == "l1":
        pixel_BP = (a_BP - b_BP).abs()
    elif kind == "l2":
        pixel_BP = (a_BP - b_BP).square()
    elif kind == "smooth_l1":
        pixel_BP = F.smooth_l1_loss(a_BP, b_BP, reduction="none")
    else:
        raise UnknownNameError("distance", kind, get_args(Distance))
    return pixel_BP.mean(1) if reduction == "mean" else pixel_BP.sum(1)


def cam_loss(
    feature_map_BCHW: Tensor,
    classifier_weight_KC: Tensor,
    label_B: Tensor | MixedLabel,
    *,
    distance: Distance = "l1",
    normalization: Normalization = "min_max",
    reduction: Reduction = "mean",
    classifier_grad: bool = False,
    target_grad: bool = True,
) -> Tensor:
    """`mean over B of d(norm(CAAM), norm(CAM_y))`, the L_cam of the module docstring.

    Args:
        label_B: labels, or (label_a_B, label_b_B, lam) when labels are mixed: then the target is
            `lam * CAM_a + (1 - lam) * CAM_b`, mixed before normalisation.
        distance: see `distance_B`.
        normalization: applied to both maps, see `normalize`.
        reduction: over the pixels of a map; the batch is always averaged.
        classifier_grad: let the gradient reach the classifier weight. Off by default: the weight is detached.
        target_grad: let the gradient flow through the CAM into the feature map too; False detaches the CAM.

    Returns:
        Scalar >= 0, computed in float32 at least.

    Raises:
        UnknownNameError: unknown distance, normalization or reduction.
    """
    if feature_map_BCHW.dtype in (torch.bfloat16, torch.float16):
        feature_map_BCHW = feature_map_BCHW.float()
    weight_KC = classifier_weight_KC if classifier_grad else classifier_weight_KC.detach()
    # Autocast would send the sum over channels back to bfloat16.
    with torch.autocast(feature_map_BCHW.device.type, enabled=False):
        if isinstance(label_B, tuple):
            label_a_B, label_b_B, lam = label_B
            lam_B11 = lam.view(-1, 1, 1) if isinstance(lam, Tensor) else lam
            target_BHW = lam_B11 * cam(feature_map_BCHW, weight_KC, label_a_B) + (1 - lam_B11) * cam(feature_map_BCHW, weight_KC, label_b_B)
        else:
            target_BHW = cam(feature_map_BCHW, weight_KC, label_B)
        if not target_grad:
            target_BHW = target_BHW.detach()
        source_BHW = normalize(caam(feature_map_BCHW), normalization)
        return distance_B(source_BHW, normalize(target_BHW, normalization), distance, reduction).mean()


@register("cam", label="CAM-loss")
@dataclass(frozen=True, kw_only=True)
class CamLoss(Loss):
    """CAM-loss term; see `cam_loss` for what each option does."""

    distance: Distance = "l1"
    normalization: Normalization = "min_max"
    reduction: Reduction = "mean"
    classifier_grad: bool = False
    target_grad: bool = True
    trains_classifier = False

    def __post_init__(self) -> None:
        for option, known in (("distance", Distance), ("normalization", Normalization), ("reduction", Reduction)):
            if getattr(self, option) not in get_args(known):
                raise UnknownNameError(option, getattr(self, option), get_args(known), where="loss 'cam'")

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar L_cam of the batch, unweighted."""
        return cam_loss(
            inputs.feature_map_BCHW,
            inputs.classifier_weight_KC,
            inputs.target.cam_label,
            distance=self.distance,
            normalization=self.normalization,
            reduction=self.reduction,
            classifier_grad=self.classifier_grad,
            target_grad=self.target_grad,
        )
