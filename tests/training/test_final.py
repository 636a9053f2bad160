"""Metrics of the end of a trial against numpy, in one pass or several. Letters: N images, C channels, K classes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.data.image_data import ImageData, Split
from pipeline.metric_names import METRICS
from pipeline.models.backbone import Backbone
from pipeline.training import final
from pipeline.training.diagnostics import class_distances
from pipeline.training.evaluate import evaluate
from pipeline.training.feed import SplitFeed
from pipeline.training.final import evaluate_final
from pipeline.training.loop import autocast_for, evaluate_selected

CPU = torch.device("cpu")
OF_MAPS = {name for name, metric in METRICS.items() if metric.when == "end" and name.split("_")[0] in ("caam", "cam", "flat", "centre")}
OF_MAPS -= {"caam_cam_distance"}


def feed_of(data: ImageData, split: Split | None = None) -> SplitFeed:
    return SplitFeed(data.split("test") if split is None else split, data.mean, data.std, CPU)


@pytest.mark.parametrize("batch", [5, 500])
def test_metrics_equal_numpy(tiny_data: ImageData, make_net: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Distance of the maps, calibration, nll and class distances are those of plain numpy, whatever the batches; the mode is restored."""
    monkeypatch.setattr(final, "EVAL_BATCH", batch)
    net, feed = make_net(), feed_of(tiny_data)
    net.train()
    metrics = evaluate_final(net, feed, contextlib.nullcontext)
    assert net.training
    assert net.body[1].num_batches_tracked == 0, "evaluation does not move the running statistics"

    net.eval()
    label = tiny_data.split("test").label_N
    with torch.no_grad():
        feature = net.forward_features(feed.normalise(feed.images(slice(None)))).double().numpy()
    weight, bias = (p.detach().double().numpy() for p in (net.classifier.weight, net.classifier.bias))
    pooled = feature.mean((2, 3))
    share = np.exp(pooled @ weight.T + bias)
    share /= share.sum(1, keepdims=True)
    assert metrics["nll"] == pytest.approx(-np.log(share[np.arange(len(label)), label]).mean(), rel=1e-5)
    bins = np.ceil(share.max(1) * 15)
    right = share.argmax(1) == label
    error = sum(abs((right[bins == b] - share.max(1)[bins == b]).sum()) for b in np.unique(bins)) / len(label)
    assert metrics["ece"] == pytest.approx(error, rel=1e-4)
    distances = []
    for map_CHW, k in zip(feature, label, strict=True):
        scaled = [(m - m.min()) / (m.max() - m.min()) for m in (map_CHW.sum(0), np.tensordot(weight[k], map_CHW, 1))]
        distances.append(np.abs(scaled[0] - scaled[1]).mean())
    assert metrics["caam_cam_distance"] == pytest.approx(np.mean(distances), rel=1e-4)
    expected = class_distances(torch.from_numpy(pooled), torch.from_numpy(label))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_names_are_those_of_the_table(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """What is measured at the end and after each epoch is exactly what the table of metrics says, all of it finite."""
    at_end = evaluate_final(make_net(), feed_of(tiny_data), contextlib.nullcontext)
    assert set(at_end) == {name for name, metric in METRICS.items() if metric.when == "end"}
    assert all(math.isfinite(value) for value in at_end.values())
    each_epoch = evaluate(make_net(), feed_of(tiny_data), contextlib.nullcontext)
    assert {*each_epoch, "acc_top5"} == {name for name, metric in METRICS.items() if metric.when == "epoch"}
    assert at_end["nll"] == each_epoch["loss"]
    assert at_end["flat_pointing"] == pytest.approx(each_epoch["flat_energy"])


def test_without_masks_nothing_of_maps_and_objects(make_data: Callable[..., ImageData], make_net: Callable[..., Backbone]) -> None:
    """A dataset without masks has calibration, class distances and the distance of the maps; the numbers do not depend on masks."""
    with_masks, without = (evaluate_final(make_net(), feed_of(make_data(masks=m)), contextlib.nullcontext) for m in (True, False))
    assert set(with_masks) - set(without) == OF_MAPS
    assert all(with_masks[name] == value for name, value in without.items())


def test_images_without_an_object_do_not_count_for_maps(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """An empty mask takes its image out of the localisation metrics only; with empty masks alone there are none."""
    split = tiny_data.split("test")
    assert split.mask_NHW is not None
    whole = evaluate_final(make_net(), feed_of(tiny_data), contextlib.nullcontext)
    for empty, counted in ((slice(0, 3), slice(3, None)), (slice(None), slice(0, 0))):
        mask_NHW = split.mask_NHW.copy()
        mask_NHW[empty] = 0
        metrics = evaluate_final(make_net(), feed_of(tiny_data, Split(split.image_NHWC, split.label_N, mask_NHW)), contextlib.nullcontext)
        rest = Split(split.image_NHWC[counted], split.label_N[counted], split.mask_NHW[counted])
        expected = evaluate_final(make_net(), feed_of(tiny_data, rest), contextlib.nullcontext)
        assert {n: v for n, v in metrics.items() if n in OF_MAPS} == pytest.approx({n: v for n, v in expected.items() if n in OF_MAPS})
        assert all(metrics[name] == whole[name] for name in set(whole) - OF_MAPS)


def test_an_empty_split_has_no_metrics(make_data: Callable[..., ImageData], make_net: Callable[..., Backbone]) -> None:
    """Nothing is measured on no images."""
    data = make_data(val=0)
    assert evaluate_final(make_net(), feed_of(data, data.split("val")), contextlib.nullcontext) == {}


def test_a_broken_network_is_not_averaged_away(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """Feature maps that are not numbers give metrics that are not numbers, but for the baselines, which no network touches."""
    net = make_net()
    torch.nn.init.constant_(net.body[1].bias, float("nan"))
    metrics = evaluate_final(net, feed_of(tiny_data), contextlib.nullcontext)
    assert {name for name, value in metrics.items() if math.isfinite(value)} == {
        name for name in METRICS if name.startswith(("flat_", "centre_")) and METRICS[name].when == "end"
    }


def test_bfloat16_stays_near_float32(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """Under autocast the network runs in bfloat16, and what it is measured by does not: numbers differ by rounding only."""
    full, half = (evaluate_final(make_net(), feed_of(tiny_data), autocast_for(p, CPU)) for p in ("float32", "bfloat16"))
    assert half["nll"] != full["nll"]
    for name in ("nll", "caam_cam_distance", "intra_class_distance", "inter_class_distance", "caam_pxap", "cam_pxap"):
        assert half[name] == pytest.approx(full[name], rel=0.05)


def test_both_sets_of_weights_are_measured_and_the_model_keeps_its_own(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """`best_val` holds what the best weights give, `last` what the model's own give; afterwards the model is as it was, bit for bit."""
    last, best = make_net(seed=0), make_net(seed=1)
    before = {name: value.clone() for name, value in last.state_dict().items()}
    measured = evaluate_selected(last, best.state_dict(), False, feed_of(tiny_data), contextlib.nullcontext)
    assert measured == {
        "last": evaluate_final(make_net(seed=0), feed_of(tiny_data), contextlib.nullcontext),
        "best_val": evaluate_final(make_net(seed=1), feed_of(tiny_data), contextlib.nullcontext),
    }
    assert measured["last"] != measured["best_val"]
    assert all(torch.equal(value, before[name]) for name, value in last.state_dict().items())
    assert set(evaluate_selected(last, {}, False, feed_of(tiny_data), contextlib.nullcontext)) == {"last"}
    same = evaluate_selected(last, best.state_dict(), True, feed_of(tiny_data), contextlib.nullcontext)
    assert same["best_val"] == same["last"] == measured["last"]
