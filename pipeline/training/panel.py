"""What the pictures of a trained network are drawn from: activation maps and features of a few test images, accuracy by class.

Letters: N images, C channels, H W feature map, K classes.
It runs after every number of a trial is known and changes none of them, so its code is no part of a trial's identity
(`study.code_key.PLUMBING`): trials that are stored keep the pictures they have.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.image_data import ImageData, Split
from pipeline.data.shown import shown_as_points, shown_in_maps
from pipeline.maps import caam, cam, min_max
from pipeline.training.evaluate import EVAL_BATCH
from pipeline.training.feed import SplitFeed


@torch.no_grad()
def panel_of(
    model: nn.Module, data: ImageData, device: torch.device, autocast: Callable[[], AbstractContextManager[object]]
) -> dict[str, Any]:
    """The `panel_*` columns of a trial (`store.records.panel_types`); a few KB. Draws no random number.

    `panel_cam` is the map of the labelled class, `panel_caam` the class-agnostic one, each scaled to its own range and rounded to 0..255;
    a map that is constant or not finite is 0. `panel_xy` are the coordinates of `principal_plane` as float16, divided by the
    largest of them in magnitude; `panel_share` is the share of the variance along each axis. `panel_class_correct` out of
    `panel_class_count` images of a class, of the whole test split, are classified correctly.

    Args:
        model: the network that is kept, with the weights of the last epoch; its mode is restored.
        data: its dataset; the test split is looked at.
    """
    test = data.split("test")
    map_N, point_N = shown_in_maps(test.label_N), shown_as_points(test.label_N)
    chosen_N = np.concatenate([map_N, point_N])
    feed = SplitFeed(Split(test.image_NHWC[chosen_N], test.label_N[chosen_N], None), data.mean, data.std, device)
    was_training = model.training
    model.eval()
    with autocast():
        feature_map_NCHW = model.forward_features(feed.normalise(feed.images(slice(None))))
        predicted_N = model.forward_head(feature_map_NCHW).argmax(1)
    correct_K = correct_by_class(model, SplitFeed(test, data.mean, data.std, device), data.num_classes, autocast)
    feature_map_NCHW = feature_map_NCHW.float()
    feature_NC = model.pool(feature_map_NCHW)[len(map_N) :]
    model.train(was_training)
    kept_NCHW, label_N = feature_map_NCHW[: len(map_N)], feed.label_N[: len(map_N)]
    xy_N2, share = principal_plane(feature_NC)
    return {
        "panel_digest": data.digest,
        "panel_index": map_N.tolist(),
        "panel_label": label_N.tolist(),
        "panel_predicted": predicted_N[: len(map_N)].tolist(),
        "panel_height": kept_NCHW.shape[2],
        "panel_width": kept_NCHW.shape[3],
        "panel_cam": _as_bytes(cam(kept_NCHW, model.classifier_weight_KC.float(), label_N)),
        "panel_caam": _as_bytes(caam(kept_NCHW)),
        "panel_point_index": point_N.tolist(),
        "panel_point_label": test.label_N[point_N].tolist(),
        "panel_xy": (xy_N2 / xy_N2.abs().max().clamp_min(torch.finfo(xy_N2.dtype).tiny)).numpy().astype("<f2").tobytes(),
        "panel_share": share,
        "panel_class_correct": correct_K.tolist(),
        "panel_class_count": np.bincount(test.label_N, minlength=data.num_classes).tolist(),
    }


def correct_by_class(model: nn.Module, feed: SplitFeed, num_classes: int, autocast: Callable[[], AbstractContextManager[object]]) -> Tensor:
    """Correctly classified images of each class, correct_K as int64 on the CPU, by a network in evaluation mode.

    Batches and arithmetic are those of `evaluate`, so that the sum is the one behind its acc_top1, to the image: in other batches a
    logit may differ in its last bit.
    """
    correct_K = torch.zeros(num_classes, dtype=torch.int64)
    for start in range(0, len(feed), EVAL_BATCH):
        rows = slice(start, start + EVAL_BATCH)
        label_B = feed.label_N[rows]
        with autocast():
            logits_BK = model.forward_head(model.forward_features(feed.normalise(feed.images(rows))))
        correct_K += torch.bincount(label_B[logits_BK.float().argmax(1) == label_B].cpu(), minlength=num_classes)
    return correct_K


def principal_plane(feature_NC: Tensor) -> tuple[Tensor, list[float]]:
    """Coordinates of the images along the first two principal components, and the share of the variance along each.

    The features are centred, not scaled. The sign of a component, which is arbitrary, is such that its loading largest in magnitude is
    positive. Features that are equal for all images, or not finite, give zeros.

    Returns:
        xy_N2 as float64 on the CPU; two shares in [0, 1].
    """
    centred_NC = feature_NC.double().cpu()
    centred_NC = centred_NC - centred_NC.mean(dim=0)
    xy_N2, share = torch.zeros(len(centred_NC), 2, dtype=torch.float64), [0.0, 0.0]
    if not torch.isfinite(centred_NC).all() or not centred_NC.any():
        return xy_N2, share
    _, scale_R, component_RC = torch.linalg.svd(centred_NC, full_matrices=False)
    component_RC = component_RC[:2]
    largest_R1 = component_RC.gather(1, component_RC.abs().argmax(dim=1, keepdim=True))
    xy_NR = centred_NC @ (component_RC * largest_R1.sign()).T
    variance_R = scale_R.square()
    share_R = (variance_R / variance_R.sum())[:2]
    xy_N2[:, : xy_NR.shape[1]] = xy_NR
    share[: len(share_R)] = share_R.tolist()
    return xy_N2, share


def _as_bytes(map_NHW: Tensor) -> bytes:
    finite_N11 = torch.isfinite(map_NHW).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    scaled_NHW = min_max(map_NHW.masked_fill(~finite_N11, 0.0))
    return scaled_NHW.mul(255).round().to(torch.uint8).cpu().contiguous().numpy().tobytes()
