"""Cutout: where the square lies, how large it is, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline import regularizers
from pipeline.batch import Batch, Target

MakeBatch = Callable[..., Batch]
HEIGHT, WIDTH = 10, 7


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_the_square_around_each_centre_is_clipped(make_batch: MakeBatch, size: int) -> None:
    """Re-drawing the centres from the same seed, the zeroed pixels are the slices [centre - size // 2, + size) clipped at the border."""
    batch = make_batch(40, 2, HEIGHT, WIDTH)
    after = regularizers.create("cutout", size=size).on_batch(batch, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(1)
    row_B, column_B = (torch.randint(length, (40, 1), generator=rng).flatten().tolist() for length in (HEIGHT, WIDTH))
    expected_BCHW = batch.image_BCHW.numpy().copy()
    for b, (row, column) in enumerate(zip(row_B, column_B, strict=True)):
        top, left = row - size // 2, column - size // 2
        expected_BCHW[b, :, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    np.testing.assert_array_equal(after.image_BCHW.numpy(), expected_BCHW)
    zeroed_B = (after.image_BCHW[:, 0] == 0).sum((1, 2))
    assert (zeroed_B >= 1).all()
    assert (zeroed_B <= size**2).all()
    assert after.target is batch.target


def test_each_pixel_is_covered_as_often_as_it_should(make_batch: MakeBatch) -> None:
    """With uniform centres a pixel is covered with probability (centres that reach it) / (H W): seen within five standard errors."""
    size, draws = 4, 20_000
    batch = make_batch(draws, 1, HEIGHT, WIDTH)
    after = regularizers.create("cutout", size=size).on_batch(batch, torch.Generator().manual_seed(0))
    seen_HW = (after.image_BCHW[:, 0] == 0).float().mean(0).numpy()
    reach = [
        np.array([sum(c - size // 2 <= p < c - size // 2 + size for c in range(length)) / length for p in range(length)])
        for length in (HEIGHT, WIDTH)
    ]
    expected_HW = np.outer(*reach)
    assert (expected_HW > 0).all()
    assert (np.abs(seen_HW - expected_HW) < 5 * np.sqrt(expected_HW / draws)).all()


def test_channels_last_stays() -> None:
    """The memory layout of the feed, channels-last, is that of the result too."""
    batch = Batch(torch.ones(4, 6, 5, 3).permute(0, 3, 1, 2), Target(torch.zeros(4, dtype=torch.long)))
    after = regularizers.create("cutout", size=3).on_batch(batch, torch.Generator().manual_seed(0))
    assert after.image_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_the_generator_decides(make_batch: MakeBatch) -> None:
    """The same generator state gives equal bytes, another seed other bytes; the given batch and torch's global generator stay."""
    cutout, batch, state = regularizers.create("cutout", size=3), make_batch(), torch.get_rng_state()
    copy_BCHW = batch.image_BCHW.clone()
    first, again, other = (cutout.on_batch(batch, torch.Generator().manual_seed(seed)).image_BCHW for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(batch.image_BCHW, copy_BCHW)
    assert torch.equal(torch.get_rng_state(), state)


def test_size_must_be_a_pixel() -> None:
    """A square of no pixels is refused."""
    with pytest.raises(ValueError, match="size must be >= 1 pixel, got 0"):
        regularizers.create("cutout", size=0)
