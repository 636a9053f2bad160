"""From labels to the classes whose maps or scores a loss asks for, each with its share.

Letters: B batch, C channels, K classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UnknownNameError

MixedLabel = tuple[Tensor, Tensor, "Tensor | float"]
Label = Tensor | MixedLabel  # label_B; (label_a_B, label_b_B, lam); or share_BK, a matrix of real numbers
Mixed = Literal["maps", "losses", "dominant", "skip"]
WHOLE = 1.0  # the factor of a loss that is not divided


def class_shares(label: Label, num_classes: int, smoothing: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """share_BK of each class in an image's target: `(1 - s) q + s / K` with q one-hot, mixed as `lam q_a + (1 - lam) q_b`, or given."""
    if isinstance(label, tuple):
        label_a_B, label_b_B, lam = label
        lam_B1 = lam.view(-1, 1) if isinstance(lam, Tensor) else lam
        a_BK, b_BK = (F.one_hot(each_B, num_classes).to(dtype) for each_B in (label_a_B, label_b_B))
        share_BK = (lam_B1 * a_BK + (1 - lam_B1) * b_BK).to(dtype)
    elif label.is_floating_point():
        share_BK = label.to(dtype)
    else:
        share_BK = F.one_hot(label, num_classes).to(dtype)
    return share_BK if smoothing == 0 else (1 - smoothing) * share_BK + smoothing / num_classes


def target_weights(classifier_weight_KC: Tensor, label: Label, smoothing: float = 0.0) -> Tensor:
    """weight_BC: `sum_k share_k W_k`, whose map is `sum_k share_k CAM_k`; see `class_shares`."""
    if isinstance(label, Tensor) and not label.is_floating_point() and smoothing == 0:
        return classifier_weight_KC[label]  # rows, without a B x K matrix
    return class_shares(label, len(classifier_weight_KC), smoothing, classifier_weight_KC.dtype) @ classifier_weight_KC


def comparisons(label: Label, mixed: Mixed) -> list[tuple[Tensor | float, Label]]:
    """What a loss is taken of for possibly mixed labels: pairs of a factor, one an image, and a label; the loss is the sum over them.

    `maps`: the mixed label as it is, so that a map is mixed of two; `losses`: `lam L_a + (1 - lam) L_b`; `dominant`: the label with
    the larger share, a at a tie; `skip`: images of one label only. An image with lam 0 or 1 is not mixed: CutMix leaves such.

    Raises:
        UnknownNameError: unknown way.
    """
    if mixed not in get_args(Mixed):
        raise UnknownNameError("mixed", mixed, get_args(Mixed))
    if isinstance(label, Tensor) or mixed == "maps":
        return [(WHOLE, label)]
    label_a_B, label_b_B, lam = label
    if mixed == "losses":
        return [(lam, label_a_B), (1 - lam, label_b_B)]
    lam_B = lam.expand(len(label_a_B)) if isinstance(lam, Tensor) else torch.full(label_a_B.shape, lam, device=label_a_B.device)
    dominant_B = torch.where(lam_B >= 0.5, label_a_B, label_b_B)
    return [(WHOLE if mixed == "dominant" else ((lam_B == 0) | (lam_B == 1)).to(lam_B.dtype), dominant_B)]


def present_classes(label: Label) -> Label:
    """Every class present in an image with an equal share, however large its part of the image."""
    if isinstance(label, Tensor):
        return label
    label_a_B, label_b_B, lam = label
    share = ((lam > 0) * 1.0 - (lam < 1) * 1.0 + 1) / 2  # 1 and 0 stay, all between become a half
    return label_a_B, label_b_B, share
