"""Localisation metrics against brute force, scikit-learn and hand-made maps. Letters: N images, H W feature map, Y X image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score
from torch import Tensor

from pipeline.training import localisation
from pipeline.training.evaluate import energy_on_mask
from pipeline.training.localisation import BaselineMeter, MapMeter, box_iou, centre_map, object_sides, points_at, resize, to_levels


def random_maps(seed: int, count: int = 5, map_size: tuple[int, int] = (3, 4), size: tuple[int, int] = (11, 9)) -> tuple[Tensor, Tensor]:
    """Feature-map sized maps, and masks of random boxes with a hole each; no mask is empty."""
    rng = torch.Generator().manual_seed(seed)
    map_NHW = torch.randn(count, *map_size, generator=rng)
    mask_NYX = torch.zeros(count, *size, dtype=torch.bool)
    for mask_YX in mask_NYX:
        (top, bottom), (left, right) = (sorted(torch.randint(0, length, (2,), generator=rng).tolist()) for length in size)
        mask_YX[top : bottom + 1, left : right + 1] = True
        if bottom - top > 1 and right - left > 1:
            mask_YX[top + 1, left + 1] = False
    return map_NHW, mask_NYX


def measured(map_NHW: Tensor, mask_NYX: Tensor, batch: int = 100) -> dict[str, float]:
    meter = MapMeter()
    for start in range(0, len(map_NHW), batch):
        rows = slice(start, start + batch)
        meter.add(map_NHW[rows], mask_NYX[rows], object_sides(mask_NYX[rows]))
    return meter.metrics()


def brute_force(map_NHW: Tensor, mask_NYX: Tensor) -> dict[str, float]:
    """All metrics by loops: one labelling a threshold and image, boxes as sets of pixels, scikit-learn over all pixels."""
    points, levels = [], []
    for map_HW, mask_YX in zip(map_NHW, mask_NYX.numpy(), strict=True):
        full_YX = F.interpolate(map_HW[None, None], size=mask_YX.shape, mode="bilinear")[0, 0].numpy()
        points.append(mask_YX.ravel()[full_YX.argmax()])
        scaled_YX = (full_YX - full_YX.min()) / (full_YX.max() - full_YX.min())
        levels.append((scaled_YX * 255).astype(np.uint8))
    right = {("largest", 0.5): np.zeros(255), **{("best", delta): np.zeros(255) for delta in (0.3, 0.5, 0.7)}}
    for level_YX, mask_YX in zip(levels, mask_NYX.numpy(), strict=True):
        y, x = np.nonzero(mask_YX)
        object_box = {(i, j) for i in range(y.min(), y.max() + 1) for j in range(x.min(), x.max() + 1)}
        for threshold in range(255):
            label_YX, count = ndimage.label(level_YX > threshold, structure=np.ones((3, 3)))
            ious = []
            for i in range(1, count + 1):
                y, x = np.nonzero(label_YX == i)
                box = {(i, j) for i in range(y.min(), y.max() + 1) for j in range(x.min(), x.max() + 1)}
                ious.append((len(y), len(box & object_box) / len(box | object_box)))
            right["largest", 0.5][threshold] += max(ious)[1] >= 0.5
            for delta in (0.3, 0.5, 0.7):
                right["best", delta][threshold] += max(iou for _, iou in ious) >= delta
    count = len(levels)
    return {
        "pointing": float(np.mean(points)),
        "max_box_acc": right["largest", 0.5].max() / count,
        "max_box_acc_v2": float(np.mean([right["best", delta].max() / count for delta in (0.3, 0.5, 0.7)])),
        "pxap": average_precision_score(mask_NYX.numpy().ravel(), np.stack(levels).ravel()),
    }


@settings(derandomize=True, deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), side=st.integers(1, 6), batch=st.integers(1, 4))
def test_metrics_equal_brute_force(seed: int, side: int, batch: int) -> None:
    """Pointing, both box accuracies and pixel AP agree with loops over thresholds and with scikit-learn, whatever the batches."""
    map_NHW, mask_NYX = random_maps(seed, count=4, map_size=(side, side + 1), size=(8, 7))
    assert measured(map_NHW, mask_NYX, batch) == pytest.approx(brute_force(map_NHW, mask_NYX), abs=1e-12)


def test_small_chunks_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images are held at a time changes nothing."""
    maps = random_maps(3, count=7)
    whole = measured(*maps)
    monkeypatch.setattr(localisation, "CHUNK_PIXELS", 1)
    assert measured(*maps) == whole


def test_a_perfect_map_gets_everything_and_its_opposite_nothing() -> None:
    """The mask itself as a map scores 1 throughout, at any scale and offset; its negative points beside the object."""
    mask_NYX = torch.zeros(2, 11, 9, dtype=torch.bool)
    mask_NYX[0, 2:5, 1:4] = mask_NYX[1, 4:, 6:] = True
    for scale, offset in ((1.0, 0.0), (30.0, -7.0)):
        assert measured(scale * mask_NYX + offset, mask_NYX) == dict.fromkeys(("pointing", "max_box_acc", "max_box_acc_v2", "pxap"), 1.0)
    assert measured(-mask_NYX.float(), mask_NYX)["pointing"] == 0


def test_the_largest_component_counts_for_the_first_box_accuracy_and_the_best_for_the_second() -> None:
    """A small right box beside a large wrong one of the same height: only the accuracy that looks at all boxes finds it."""
    map_NYX = torch.zeros(1, 9, 12)
    map_NYX[0, 1:4, 1:4] = 1.0
    map_NYX[0, 2:9, 6:12] = 1.0
    mask_NYX = torch.zeros(1, 9, 12, dtype=torch.bool)
    mask_NYX[0, 1:4, 1:4] = True
    metrics = measured(map_NYX, mask_NYX)
    assert metrics["max_box_acc"] == 0
    assert metrics["max_box_acc_v2"] == 1


def test_one_threshold_serves_the_whole_split() -> None:
    """Two images that each need another threshold cannot both be right: half of them are."""
    map_NYX = torch.zeros(2, 8, 8)
    mask_NYX = torch.zeros(2, 8, 8, dtype=torch.bool)
    map_NYX[0, 1:] = 0.5
    map_NYX[0, 6:, 6:] = 1.0
    mask_NYX[0, 6:, 6:] = True  # right above 0.5 only
    map_NYX[1, :4, :4] = 0.3
    map_NYX[1, 0, 0] = 1.0
    mask_NYX[1, :4, :4] = True  # right below 0.3 only
    assert measured(map_NYX[:1], mask_NYX[:1])["max_box_acc"] == measured(map_NYX[1:], mask_NYX[1:])["max_box_acc"] == 1
    assert measured(map_NYX, mask_NYX)["max_box_acc"] == 0.5


def test_constant_maps_count_as_flat_ones() -> None:
    """A constant map has no box, hits like a random point, and has the precision of the object's area."""
    mask_NYX = torch.zeros(2, 6, 5, dtype=torch.bool)
    mask_NYX[0, 0, :3] = mask_NYX[1, 2:4, 2:4] = True
    for value in (0.0, -2.5):
        metrics = measured(torch.full((2, 3, 3), value), mask_NYX)
        assert metrics == pytest.approx({"pointing": 7 / 60, "max_box_acc": 0, "max_box_acc_v2": 0, "pxap": 7 / 60})


@pytest.mark.parametrize("map_size", [(1, 1), (3, 3), (5, 7)])
def test_constant_maps_of_any_value_are_not_made_of_rounding(map_size: tuple[int, int]) -> None:
    """Resizing a constant rounds in each pixel by itself; the scores are those of zeros all the same, beside maps that are not flat."""
    mask_NYX = torch.zeros(64, 32, 32, dtype=torch.bool)
    mask_NYX[:, 5:14, 3:9] = True
    value_N11 = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(0)) * 10
    map_NHW = value_N11.expand(64, *map_size)
    stretched = F.interpolate(map_NHW[:, None], size=(32, 32), mode="bilinear")[:, 0]
    assert (stretched.amax((1, 2)) > stretched.amin((1, 2))).any()  # else this test could not fail
    assert measured(map_NHW, mask_NYX) == measured(torch.zeros_like(map_NHW), mask_NYX)
    assert resize(map_NHW, (32, 32)).abs().max() == 0
    other_NHW = torch.linspace(-1, 2, map_size[0] * map_size[1]).view(1, *map_size)
    assert torch.equal(resize(torch.cat([map_NHW[:1], other_NHW]), (32, 32))[1:], resize(other_NHW, (32, 32)))


def test_of_equal_pixels_the_first_points() -> None:
    """Two highest pixels: the first in reading order decides."""
    map_BYX = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]])
    for first in (True, False):
        mask_BYX = torch.tensor([[[False, first, False], [not first, False, False]]])
        assert points_at(map_BYX, mask_BYX).item() == float(first)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_map_is_not_averaged_away(bad: float) -> None:
    """One value that is not finite makes all metrics of these maps NaN."""
    map_NHW, mask_NYX = random_maps(0)
    map_NHW[2, 1, 1] = bad
    assert all(math.isnan(value) for value in measured(map_NHW, mask_NYX).values())


def test_no_images_no_metrics() -> None:
    """Nothing is measured where no mask holds an object."""
    assert MapMeter().metrics() == BaselineMeter().metrics() == {}


def test_object_box_and_iou_by_hand() -> None:
    """Sides are inclusive; disjoint boxes have no overlap, a box of a quarter has a quarter."""
    mask_BYX = torch.zeros(1, 6, 7, dtype=torch.bool)
    mask_BYX[0, 2, 5] = mask_BYX[0, 4, 3] = True
    assert object_sides(mask_BYX)[:, 0].tolist() == [-2, -3, 4, 5]
    box = np.array([0, 0, 3, 3], dtype=np.int16)
    others = {(0, 0, 3, 3): 1.0, (0, 0, 1, 1): 0.25, (-2, -2, 5, 5): 4 / 28, (-4, 0, 5, 3): 0.0, (-(2**14),) * 4: 0.0}
    for other, iou in others.items():
        assert box_iou(box, np.array(other, dtype=np.int16)) == pytest.approx(iou)


def test_baselines_equal_the_meters_on_their_own_maps() -> None:
    """The centre's numbers are those of its map measured like any other, energy included; the flat ones are the object's area."""
    _, mask_NYX = random_maps(5, count=9, size=(24, 30))
    meter = BaselineMeter()
    for rows in (slice(0, 4), slice(4, 9)):
        meter.add(mask_NYX[rows], object_sides(mask_NYX[rows]))
    centre_NYX = centre_map(24, 30).expand(9, -1, -1)
    expected = {f"centre_{name}": value for name, value in measured(centre_NYX, mask_NYX).items()}
    area = mask_NYX.double().mean().item()
    expected |= {"centre_energy": energy_on_mask(centre_NYX, mask_NYX).mean().item(), "flat_pointing": area, "flat_pxap": area}
    expected["centre_pointing"] = mask_NYX[:, 12, 15].double().mean().item()
    assert meter.metrics() == pytest.approx(expected, rel=1e-6)


def test_the_centre_map_is_symmetric_and_falls_to_the_corners() -> None:
    """1 at the centre, 0 at the corners, the same when mirrored."""
    map_YX = centre_map(7, 9)
    assert map_YX[3, 4] == 1 == map_YX.max()
    assert map_YX[0, 0] == 0
    torch.testing.assert_close(map_YX, map_YX.flip(0, 1))
    torch.testing.assert_close(resize(map_YX[None], (7, 9))[0], map_YX.float())
    assert int(to_levels(map_YX).max()) == 255
