"""Metrics of a model on one split. Letters: B batch, C channels, H W feature map, K classes, Y X image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.maps import caam, cam, min_max
from pipeline.training.feed import SplitFeed

EVAL_BATCH = 500


def energy_on_mask(map_BHW: Tensor, mask_BYX: Tensor) -> Tensor:
    """Share of a map's energy on the object: `sum over mask of M / sum of M`, one number an image.

    Energy-based pointing game (Wang et al., Score-CAM, arXiv 1910.01279, section 4.3) with the object mask in place of its box:
    the map is scaled to [0, 1] an image, resized bilinearly to the image, and nothing is thresholded.
    A constant map has no energy to place and counts as a flat one: the share of the image that the mask covers.

    Args:
        map_BHW: any real map.
        mask_BYX: 1 on the object, 0 elsewhere, at image size.

    Returns:
        energy_B in [0, 1], float32; NaN where the mask is empty.
    """
    mask_BYX = mask_BYX.float()
    full_BYX = F.interpolate(min_max(map_BHW.float())[:, None], size=mask_BYX.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    total_B = full_BYX.sum((1, 2))
    share_B = (full_BYX * mask_BYX).sum((1, 2)) / total_B
    area_B = mask_BYX.mean((1, 2))
    return torch.where(total_B > 0, share_B, area_B).masked_fill(area_B == 0, float("nan"))


@torch.no_grad()
def evaluate(model: torch.nn.Module, feed: SplitFeed, autocast: Callable[[], AbstractContextManager[object]]) -> dict[str, float]:
    """Accuracy, cross-entropy and, where masks are known, the energy of CAAM and CAM on the object.

    Returns:
        acc_top1, acc_top5 (where K > 5), loss (nats), and with masks caam_energy, cam_energy (map of the labelled class),
        flat_energy (what a constant map would get); fractions in [0, 1] but for the loss. Energies are means over the images whose
        mask is not empty. Nothing for an empty split, no energies where every mask is empty.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def add(name: str, value_B: Tensor, counted_B: Tensor | None = None) -> None:
        counted_B = torch.ones_like(value_B, dtype=torch.bool) if counted_B is None else counted_B
        sums[name] = sums.get(name, 0) + value_B.double().masked_fill(~counted_B, 0).sum()
        counts[name] = counts.get(name, 0) + counted_B.sum()

    for start in range(0, len(feed), EVAL_BATCH):
        rows = slice(start, start + EVAL_BATCH)
        label_B = feed.label_N[rows]
        with autocast():
            feature_map_BCHW = model.forward_features(feed.normalise(feed.images(rows)))
            logits_BK = model.forward_head(feature_map_BCHW)
        logits_BK = logits_BK.float()
        add("acc_top1", logits_BK.argmax(1) == label_B)
        if logits_BK.shape[1] > 5:
            add("acc_top5", (logits_BK.topk(5, dim=1).indices == label_B[:, None]).any(1))
        add("loss", F.cross_entropy(logits_BK, label_B, reduction="none"))
        if feed.mask_NHW is not None:
            mask_BYX = feed.mask_NHW[rows].to(feed.device)
            feature_map_BCHW = feature_map_BCHW.float()
            area_B = mask_BYX.float().mean((1, 2))
            cam_BHW = cam(feature_map_BCHW, model.classifier_weight_KC.float(), label_B)
            add("caam_energy", energy_on_mask(caam(feature_map_BCHW), mask_BYX), area_B > 0)
            add("cam_energy", energy_on_mask(cam_BHW, mask_BYX), area_B > 0)
            add("flat_energy", area_B, area_B > 0)
    model.train(was_training)
    return {name: float(value) / int(counts[name]) for name, value in sums.items() if counts[name] > 0}
