"""Activation maps: what CAM-loss compares and what evaluation measures.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.errors import UnknownNameError

Agnostic = Literal["sum", "abs", "energy"]


def weighted_map(feature_map_BCHW: Tensor, weight_BC: Tensor) -> Tensor:
    """map_BHW: `sum_c weight_c f_c(h, w)`, each image with its own weights."""
    return torch.einsum("bchw,bc->bhw", feature_map_BCHW, weight_BC.to(feature_map_BCHW.dtype))


def cam(feature_map_BCHW: Tensor, classifier_weight_KC: Tensor, label_B: Tensor) -> Tensor:
    """Class activation map `sum_c W[y, c] f_c(h, w)` (Zhou et al., CVPR 2016), without bias and without ReLU.

    Args:
        label_B: class whose map is wanted, one an image.

    Returns:
        cam_BHW, in the units of a logit.
    """
    return weighted_map(feature_map_BCHW, classifier_weight_KC[label_B])


def grad_cam_weights(logits_BK: Tensor, maps: Sequence[Tensor], share_BK: Tensor) -> list[Tensor]:
    """Grad-CAM's channel weights `mean over h, w of ds / df_c(h, w)` (Selvaraju et al., ICCV 2017), s the score `sum_k q_k logit_k`.

    For a map f that is pooled by its mean and classified linearly they are `sum_k q_k W_k / (H W)`: the class activation map up to
    its scale. Batch norm in training mode couples the images, so there the weights of one hold a little of the scores of the others.

    Args:
        logits_BK: computed from each of `maps`; their graph is kept.
        maps: feature maps, each B C H W of its own size.
        share_BK: q, the share of each class in the score.

    Returns:
        weight_BC for each map, detached, float32 at least.
    """
    gradients = torch.autograd.grad(logits_BK, maps, grad_outputs=share_BK.to(logits_BK.dtype), retain_graph=True)
    return [at_least_float32(gradient_BCHW).mean(dim=(2, 3)) for gradient_BCHW in gradients]


def caam(feature_map_BCHW: Tensor, kind: Agnostic = "sum") -> Tensor:
    """Class-agnostic activation map as caam_BHW.

    `sum`: `sum_c f_c(h, w)`, CAM-loss's; `abs`: `mean_c |f_c(h, w)|`; `energy`: `sum_c f_c(h, w)^2`.

    Raises:
        UnknownNameError: unknown kind.
    """
    if kind == "sum":
        return feature_map_BCHW.sum(dim=1)
    if kind == "abs":
        return feature_map_BCHW.abs().mean(dim=1)
    if kind == "energy":
        return feature_map_BCHW.square().sum(dim=1)
    raise UnknownNameError("caam", kind, get_args(Agnostic))


def min_max(map_BHW: Tensor) -> Tensor:
    """Scale each image's map to [0, 1]; a constant map gives zeros, with zero gradient."""
    low_B11 = map_BHW.amin(dim=(1, 2), keepdim=True)
    range_B11 = map_BHW.amax(dim=(1, 2), keepdim=True) - low_B11
    flat_B11 = range_B11 <= 0
    # Both branches of `where` are differentiated, so the unused one must stay finite as well.
    scaled_BHW = (map_BHW - low_B11) / range_B11.masked_fill(flat_B11, 1.0)
    return scaled_BHW.masked_fill(flat_B11, 0.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """bfloat16 and float16 as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
