"""Activation maps, normalisations and distances written out in numpy's float64, one term at a time.

Letters: B batch, C channels, H W rows and columns of the feature map (never equal here), K classes.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import LossInputs

B, C, H, W, K = 4, 5, 3, 4, 6
FLAT = ("zeros", "constant", "one_constant_image", "one_pixel")
LAM_B = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
OTHER_B = torch.tensor([5, 0, 1, 2])


def example(batch: int = B, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """feature_map_BCHW, classifier_weight_KC and label_B in float64."""
    rng = torch.Generator().manual_seed(seed)
    feature_map_BCHW = torch.randn(batch, C, H, W, generator=rng, dtype=torch.float64)
    weight_KC = torch.randn(K, C, generator=rng, dtype=torch.float64)
    return feature_map_BCHW, weight_KC, torch.randint(K, (batch,), generator=rng)


def loops(feature_map_BCHW: np.ndarray, weight_BC: np.ndarray) -> np.ndarray:
    """sum over c of weight[b, c] * f[b, c, h, w], one term at a time."""
    batch, channels, height, width = feature_map_BCHW.shape
    out_BHW = np.zeros((batch, height, width))
    for b, c, h, w in itertools.product(range(batch), range(channels), range(height), range(width)):
        out_BHW[b, h, w] += weight_BC[b, c] * feature_map_BCHW[b, c, h, w]
    return out_BHW


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def normalized(map_HW: np.ndarray, how: str) -> np.ndarray:
    if how == "min_max":
        return (map_HW - map_HW.min()) / (map_HW.max() - map_HW.min())
    if how == "l2":
        return map_HW / math.sqrt((map_HW**2).sum())
    if how == "softmax":
        return softmax(map_HW)
    if how == "standardize":
        return (map_HW - map_HW.mean()) / np.sqrt(map_HW.var() + 1e-5)
    assert how == "none"
    return map_HW


def distance(a_HW: np.ndarray, b_HW: np.ndarray, kind: str, reduction: str) -> float:
    difference_HW = np.abs(a_HW - b_HW)
    if kind == "kl":
        p_HW, q_HW = softmax(b_HW), softmax(a_HW)
        return float((p_HW * np.log(p_HW / q_HW)).sum())
    if kind == "cosine":
        return float(1 - (a_HW * b_HW).sum() / math.sqrt((a_HW**2).sum() * (b_HW**2).sum()))
    pixel_HW = {
        "l1": difference_HW,
        "l2": difference_HW**2,
        "smooth_l1": np.where(difference_HW < 1, difference_HW**2 / 2, difference_HW - 0.5),
    }[kind]
    return float(pixel_HW.mean() if reduction == "mean" else pixel_HW.sum())


def flat_example(content: str) -> tuple[Tensor, Tensor, Tensor]:
    """`example` in float32 with maps that have no shape, ready for gradients; `content` is one of `FLAT`."""
    feature_map_BCHW, weight_KC, label_B = (tensor.float() if tensor.is_floating_point() else tensor for tensor in example())
    if content == "zeros":
        feature_map_BCHW = torch.zeros_like(feature_map_BCHW)
    elif content == "constant":
        feature_map_BCHW = torch.full_like(feature_map_BCHW, 0.7)
    elif content == "one_constant_image":
        feature_map_BCHW[1] = 0.0
    else:
        assert content == "one_pixel"
        feature_map_BCHW = feature_map_BCHW[:, :, :1, :1]
    return feature_map_BCHW.requires_grad_(), weight_KC.requires_grad_(), label_B


def agnostic(feature_map_BCHW: np.ndarray, kind: str) -> np.ndarray:
    """The class-agnostic map as plain loops."""
    changed_BCHW = {"sum": feature_map_BCHW, "abs": np.abs(feature_map_BCHW) / C, "energy": feature_map_BCHW**2}[kind]
    return loops(changed_BCHW, np.ones((B, C)))


def each(feature_map_BCHW: Tensor, weight_BC: np.ndarray, kind: str = "sum") -> np.ndarray:
    """loss_B: the l1 distance of the scaled class-agnostic map and the scaled map with these channel weights, image by image."""
    maps = agnostic(feature_map_BCHW.numpy(), kind), loops(feature_map_BCHW.numpy(), weight_BC)
    return np.array([distance(normalized(a, "min_max"), normalized(b, "min_max"), "l1", "mean") for a, b in zip(*maps, strict=True)])


def shares_by_hand(kind: str, inputs: LossInputs, top_k: int) -> np.ndarray:
    """share_BK of a target, an image at a time."""
    share_BK = np.zeros((B, K))
    for b, scores_K in enumerate(inputs.logits_BK.detach().numpy()):
        label, other = int(inputs.target.label_B[b]), None if inputs.target.other_B is None else int(inputs.target.other_B[b])
        lam = float(np.broadcast_to(np.asarray(inputs.target.lam), (B,))[b])
        present = {label} if other is None or lam == 1 else {other} if lam == 0 else {label, other}
        highest = sorted(range(K), key=lambda k: -scores_K[k])
        chosen = {"predicted": highest[:1], "top_k": highest[:top_k], "multi_label": sorted(present)}[kind]
        share_BK[b, chosen] = 1 / len(chosen)
    return share_BK
