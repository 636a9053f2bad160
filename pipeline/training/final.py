"""Metrics that are measured once a set of weights, after training. Letters: B batch, C channels, K classes, Y X image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.maps import caam, cam, min_max
from pipeline.training.diagnostics import class_distances, expected_calibration_error
from pipeline.training.evaluate import EVAL_BATCH
from pipeline.training.feed import SplitFeed
from pipeline.training.localisation import BaselineMeter, MapMeter, object_sides


@torch.no_grad()
def evaluate_final(model: torch.nn.Module, feed: SplitFeed, autocast: Callable[[], AbstractContextManager[object]]) -> dict[str, float]:
    """Localisation, calibration and class structure in one pass over a split.

    Pooled features and confidences wait on the CPU until the pass is over: 4 C bytes an image. Maps are counted batch by batch.

    Returns:
        nll (nats), ece, `class_distances`, caam_cam_distance: mean over pixels and images of the absolute difference of CAAM and CAM
        of the label, both scaled to [0, 1] an image, which is what CAM-loss with its defaults lowers; where masks are known also
        the metrics of `MapMeter` for caam_ and cam_ (map of the label) and those of `BaselineMeter`. Nothing for an empty split.
    """
    if len(feed) == 0:
        return {}
    was_training = model.training
    model.eval()
    meters = {"caam": MapMeter(), "cam": MapMeter()}
    baselines = BaselineMeter()
    nll, distance = 0.0, 0.0
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    for start in range(0, len(feed), EVAL_BATCH):
        rows = slice(start, start + EVAL_BATCH)
        label_B = feed.label_N[rows]
        with autocast():
            feature_map_BCHW = model.forward_features(feed.normalise(feed.images(rows)))
            feature_BC, logits_BK = model.pool(feature_map_BCHW), model.forward_head(feature_map_BCHW)
        logits_BK = logits_BK.float()
        nll = nll + F.cross_entropy(logits_BK, label_B, reduction="none").double().sum()
        confidence_B, predicted_B = logits_BK.softmax(1).max(1)
        waiting.append((feature_BC.float().cpu(), confidence_B.cpu(), (predicted_B == label_B).cpu()))
        feature_map_BCHW = feature_map_BCHW.float()
        maps = {"caam": caam(feature_map_BCHW), "cam": cam(feature_map_BCHW, model.classifier_weight_KC.float(), label_B)}
        distance = distance + (min_max(maps["caam"]) - min_max(maps["cam"])).abs().mean((1, 2)).double().sum()
        if feed.mask_NHW is not None:
            mask_BYX = feed.mask_NHW[rows].to(feed.device) > 0
            counted_B = mask_BYX.any(2).any(1)
            mask_BYX = mask_BYX[counted_B]
            if len(mask_BYX):
                object_4B = object_sides(mask_BYX)
                baselines.add(mask_BYX, object_4B)
                for name, meter in meters.items():
                    meter.add(maps[name][counted_B], mask_BYX, object_4B)
    model.train(was_training)

    feature_NC, confidence_N, correct_N = (torch.cat(parts) for parts in zip(*waiting, strict=True))
    return {
        "nll": float(nll) / len(feed),
        "ece": expected_calibration_error(confidence_N, correct_N),
        "caam_cam_distance": float(distance) / len(feed),
        **class_distances(feature_NC, feed.label_N.cpu()),
        **{f"{short}_{name}": value for short, meter in meters.items() for name, value in meter.metrics().items()},
        **baselines.metrics(),
    }
