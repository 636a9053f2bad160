"""Metrics against numpy. Letters: B batch, H W feature map, Y X image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.data.image_data import ImageData, Split
from pipeline.models.backbone import Backbone
from pipeline.training import evaluate as evaluation
from pipeline.training.evaluate import energy_on_mask, evaluate
from pipeline.training.feed import SplitFeed

CPU = torch.device("cpu")


def half_mask(rows: int = 8, columns: int = 6) -> torch.Tensor:
    """mask_BYX with the left third on the object."""
    mask_BYX = torch.zeros(1, rows, columns)
    mask_BYX[:, :, :2] = 1
    return mask_BYX


def test_energy_of_a_constant_map_is_the_area_of_the_mask() -> None:
    """A map without structure places its energy evenly: it counts as the share of the image that the mask covers."""
    for value in (0.0, -3.0, 5.0):
        assert energy_on_mask(torch.full((1, 4, 3), value), half_mask()).item() == pytest.approx(1 / 3)


def test_energy_on_and_off_the_mask() -> None:
    """A map that is high on the mask only scores 1, one that is high beside it only scores 0, whatever its scale and offset."""
    mask_BYX = half_mask()
    for scale, offset in ((1.0, 0.0), (30.0, -7.0)):
        torch.testing.assert_close(energy_on_mask(scale * mask_BYX + offset, mask_BYX), torch.ones(1))
        torch.testing.assert_close(energy_on_mask(scale * (1 - mask_BYX) + offset, mask_BYX), torch.zeros(1))


def test_energy_by_hand() -> None:
    """Map (1, 3; 5, 1) scales to (0, .5; 1, 0): a mask over the first column holds 1 of 1.5."""
    mask_BYX = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.uint8)
    assert energy_on_mask(torch.tensor([[[1.0, 3.0], [5.0, 1.0]]]), mask_BYX).item() == pytest.approx(1 / 1.5)


def test_energy_of_an_empty_mask_is_not_a_number() -> None:
    """Without an object the energy is undefined: NaN for that image, and only for that one."""
    mask_BYX = torch.cat([half_mask(), torch.zeros(1, 8, 6)])
    energy_B = energy_on_mask(torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)), mask_BYX)
    assert torch.isfinite(energy_B).tolist() == [True, False]


def test_a_map_is_resized_to_the_image() -> None:
    """A 2x2 map on an 8x8 image is interpolated bilinearly without aligned corners before it is summed."""
    map_BHW, mask_BYX = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), torch.zeros(1, 8, 8)
    mask_BYX[:, :, 4:] = 1
    along = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)  # source coordinate of each column
    assert energy_on_mask(map_BHW, mask_BYX).item() == pytest.approx(along[4:].sum() / along.sum())


@pytest.mark.parametrize("batch", [7, 500])
def test_metrics_equal_numpy(tiny_data: ImageData, make_net: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Accuracy, loss and energies over a split, in one batch or with a smaller last one, are the plain means over images."""
    monkeypatch.setattr(evaluation, "EVAL_BATCH", batch)
    net, split = make_net(), tiny_data.split("test")
    net.train()
    feed = SplitFeed(split, tiny_data.mean, tiny_data.std, CPU)
    metrics = evaluate(net, feed, contextlib.nullcontext)
    assert net.training, "the mode it came in is restored"
    assert net.body[1].num_batches_tracked == 0, "evaluation does not move the running statistics"

    net.eval()
    image_NCHW = torch.from_numpy((split.image_NHWC / 255 - tiny_data.mean) / tiny_data.std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        feature_map_NCHW = net.forward_features(image_NCHW)
    feature = feature_map_NCHW.double().numpy()
    weight, bias = (p.detach().double().numpy() for p in (net.classifier.weight, net.classifier.bias))
    logits = feature.mean((2, 3)) @ weight.T + bias
    label = split.label_N
    assert metrics["acc_top1"] == pytest.approx((logits.argmax(1) == label).mean())
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]
    assert metrics["loss"] == pytest.approx(nll.mean(), rel=1e-5)
    assert "acc_top5" not in metrics, "top-5 of 3 classes says nothing"
    assert split.mask_NHW is not None
    for name, map_NHW in (("caam", feature.sum(1)), ("cam", (weight[label][:, :, None, None] * feature).sum(1))):
        energies = []
        for map_HW, mask_YX in zip(map_NHW, split.mask_NHW, strict=True):
            scaled = torch.from_numpy((map_HW - map_HW.min()) / (map_HW.max() - map_HW.min()))
            full_YX = F.interpolate(scaled[None, None], size=mask_YX.shape, mode="bilinear")[0, 0].numpy()
            energies.append((full_YX * mask_YX).sum() / full_YX.sum())
        assert metrics[f"{name}_energy"] == pytest.approx(np.mean(energies), rel=1e-4)
    assert metrics["flat_energy"] == pytest.approx(split.mask_NHW.mean())
    assert set(metrics) == {"acc_top1", "loss", "caam_energy", "cam_energy", "flat_energy"}


def test_top5_with_more_than_five_classes(make_net: Callable[..., Backbone]) -> None:
    """With 8 classes top-5 accuracy counts the label among the five largest logits."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (40, 6, 5, 1), dtype=np.uint8), rng.integers(0, 8, 40), None)
    net = make_net(classes=8).eval()
    feed = SplitFeed(split, (0.5,), (0.3,), CPU)
    metrics = evaluate(net, feed, contextlib.nullcontext)
    with torch.no_grad():
        logits = net(feed.normalise(feed.images(slice(None)))).numpy()
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert metrics["acc_top5"] == pytest.approx((top5 == split.label_N[:, None]).any(1).mean())
    assert set(metrics) == {"acc_top1", "acc_top5", "loss"}, "no energies without masks"


def test_images_without_an_object_do_not_count_in_the_energies(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """One empty mask leaves the mean energy of the others, not NaN; a split of empty masks has no energies at all."""
    split = tiny_data.split("test")
    assert split.mask_NHW is not None
    whole = evaluate(make_net(), SplitFeed(split, tiny_data.mean, tiny_data.std, CPU), contextlib.nullcontext)
    for empty, counted in ((slice(0, 1), slice(1, None)), (slice(None), slice(0, 0))):
        mask_NHW = split.mask_NHW.copy()
        mask_NHW[empty] = 0
        feed = SplitFeed(Split(split.image_NHWC, split.label_N, mask_NHW), tiny_data.mean, tiny_data.std, CPU)
        metrics = evaluate(make_net(), feed, contextlib.nullcontext)
        rest = Split(split.image_NHWC[counted], split.label_N[counted], split.mask_NHW[counted])
        expected = evaluate(make_net(), SplitFeed(rest, tiny_data.mean, tiny_data.std, CPU), contextlib.nullcontext)
        energies = {name for name in metrics if name.endswith("energy")}
        assert energies == {name for name in expected if name.endswith("energy")}
        for name in energies:
            assert metrics[name] == pytest.approx(expected[name])
        assert metrics["acc_top1"] == whole["acc_top1"]


def test_a_broken_network_is_not_averaged_away(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """Logits that are not numbers give a loss that is not a number."""
    net = make_net()
    torch.nn.init.constant_(net.classifier.bias, float("nan"))
    metrics = evaluate(net, SplitFeed(tiny_data.split("test"), tiny_data.mean, tiny_data.std, CPU), contextlib.nullcontext)
    assert np.isnan(metrics["loss"])


def test_an_empty_split_has_no_metrics(make_data: Callable[..., ImageData], make_net: Callable[..., Backbone]) -> None:
    """Nothing is measured on no images."""
    data = make_data(val=0)
    assert evaluate(make_net(), SplitFeed(data.split("val"), data.mean, data.std, CPU), contextlib.nullcontext) == {}
