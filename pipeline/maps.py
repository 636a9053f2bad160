"""Activation maps: what CAM-loss compares and what evaluation measures.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cam(feature_map_BCHW: Tensor, classifier_weight_KC: Tensor, label_B: Tensor) -> Tensor:
    """Class activation map `sum_c W[y, c] f_c(h, w)` (Zhou et al., CVPR 2016), without bias and without ReLU.

    Args:
        label_B: class whose map is wanted, one an image.

    Returns:
        cam_BHW, in the units of a logit.
    """
    return torch.einsum("bchw,bc->bhw", feature_map_BCHW, classifier_weight_KC[label_B].to(feature_map_BCHW.dtype))


def caam(feature_map_BCHW: Tensor) -> Tensor:
    """Class-agnostic activation map `sum_c f_c(h, w)` as caam_BHW."""
    return feature_map_BCHW.sum(dim=1)


def min_max(map_BHW: Tensor) -> Tensor:
    """Scale each image's map to [0, 1]; a constant map gives zeros, with zero gradient."""
    low_B11 = map_BHW.amin(dim=(1, 2), keepdim=True)
    range_B11 = map_BHW.amax(dim=(1, 2), keepdim=True) - low_B11
    flat_B11 = range_B11 <= 0
    # Both branches of `where` are differentiated, so the unused one must stay finite as well.
    scaled_BHW = (map_BHW - low_B11) / range_B11.masked_fill(flat_B11, 1.0)
    return scaled_BHW.masked_fill(flat_B11, 0.0)
