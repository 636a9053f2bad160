"""Components of all thresholds at once against one labelling a threshold. Letters: N images, Y X image, R regions, T thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.training.components import NOTHING, THRESHOLDS, Components, components


def labelled(level_YX: np.ndarray, threshold: int) -> list[tuple[int, ...]]:
    """The oracle: scipy labels the image at one threshold; (top, left, bottom, right, pixels) of each component, sorted."""
    label_YX, _ = ndimage.label(level_YX > threshold, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(label_YX)
    return sorted((y.start, x.start, y.stop - 1, x.stop - 1, int((label_YX == i + 1).sum())) for i, (y, x) in enumerate(boxes))


def held(found: Components, image: int, threshold: int) -> list[tuple[int, ...]]:
    """What the regions of an image hold at a threshold, sorted."""
    regions = np.flatnonzero((found.image_R == image) & (found.pixels_RT[:, threshold] > 0))
    top, left, bottom, right = found.sides_4RT[:, regions, threshold].astype(int)
    return sorted(zip(-top, -left, bottom, right, found.pixels_RT[regions, threshold].astype(int), strict=True))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    level_NYX=st.sampled_from([1, 2, 5, 40, 255]).flatmap(
        lambda top: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7), elements=st.integers(0, top))
    )
)
def test_components_are_those_of_one_labelling_a_threshold(level_NYX: np.ndarray) -> None:
    """Boxes and sizes agree with scipy at every threshold, plateaus, ties and one-pixel-wide images included; none is held twice."""
    found = components(torch.from_numpy(level_NYX))
    for image, level_YX in enumerate(level_NYX):
        for threshold in {0, 254, *(int(v) - 1 for v in np.unique(level_YX) if v), *(int(v) for v in np.unique(level_YX) if v < 255)}:
            assert held(found, image, threshold) == labelled(level_YX, threshold)
    assert (found.sides_4RT[:, found.pixels_RT == 0] == NOTHING).all()
    assert (np.diff(found.image_R) >= 0).all()


@pytest.mark.parametrize("size", [(30, 41), (260, 270)])
def test_smooth_maps_of_real_size(size: tuple[int, int]) -> None:
    """Maps as networks give them, resized, at a size below and above that at which float32 still counts pixels exactly."""
    rng = torch.Generator().manual_seed(0)
    map_NYX = torch.nn.functional.interpolate(torch.rand(2, 1, 6, 5, generator=rng), size=size, mode="bilinear")[:, 0]
    level_NYX = (map_NYX / map_NYX.amax((1, 2), keepdim=True) * 255).to(torch.uint8)
    found = components(level_NYX)
    for image in range(2):
        for threshold in (0, 60, 120, 150, 200, 254):
            assert held(found, image, threshold) == labelled(level_NYX[image].numpy(), threshold)


def test_a_saddle_joins_below_its_level_only() -> None:
    """Two peaks of 9 and 7 over a bridge of 4: apart at threshold 4, one box at threshold 3; the smaller peak is gone from 7 on."""
    found = components(torch.tensor([[[9, 4, 7], [0, 0, 0]]], dtype=torch.uint8))
    assert held(found, 0, 3) == [(0, 0, 0, 2, 3)]
    assert held(found, 0, 4) == [(0, 0, 0, 0, 1), (0, 2, 0, 2, 1)]
    assert held(found, 0, 7) == [(0, 0, 0, 0, 1)]
    assert held(found, 0, 9) == []


def test_diagonal_neighbours_are_one_component() -> None:
    """Connectivity is that of 8 neighbours, along both diagonals."""
    eye = torch.eye(4, dtype=torch.uint8)[None]
    for level_NYX in (eye, eye.flip(2)):
        assert held(components(level_NYX), 0, 0) == [(0, 0, 3, 3, 4)]


def test_maps_of_level_zero_have_no_regions() -> None:
    """An image without a pixel above level 0 has no component, alone or among others."""
    level_NYX = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert components(level_NYX).pixels_RT.shape == (0, THRESHOLDS)
    level_NYX[1] = 255
    found = components(level_NYX)
    assert found.image_R.tolist() == [1]
    assert held(found, 1, 254) == held(found, 1, 0) == [(0, 0, 3, 4, 20)]
