"""RandAugment: torchvision's pixels for the same draws, and torchvision's distribution of draws."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms

from pipeline import regularizers
from pipeline.errors import UnknownNameError
from pipeline.regularizers import rand_augment
from tests.regularizers.replay import (
    acting,
    assert_generator_decides,
    assert_same_distribution,
    by_torchvision,
    images,
    record,
    torchvisions_draws,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("num_ops", "interpolation"), [(1, "nearest"), (3, "bilinear")])
def test_pixels_are_torchvisions(monkeypatch: pytest.MonkeyPatch, channels: int, num_ops: int, interpolation: str) -> None:
    """Each image equals torchvision's operations in a row, at the magnitudes that were drawn for it."""
    rounds, image_BHWC = record(monkeypatch, rand_augment), images(64, channels)
    method = regularizers.create("rand_augment", num_ops=num_ops, magnitude=20, interpolation=interpolation)
    after_BHWC = method.on_pixels(image_BHWC, torch.Generator().manual_seed(1))
    assert len(rounds) == num_ops
    for b, drawn in enumerate(zip(*rounds, strict=True)):
        expected_CHW = by_torchvision(image_BHWC[b].permute(2, 0, 1), drawn, interpolation)
        assert torch.equal(after_BHWC[b].permute(2, 0, 1), expected_CHW)


def test_draws_are_distributed_as_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of operations with their signs and magnitudes come as often as torchvision's RandAugment draws them."""
    rounds, count, size = record(monkeypatch, rand_augment, work=False), 4_000, (6, 9)
    method = regularizers.create("rand_augment", magnitude=5, num_magnitude_bins=11)
    method.on_pixels(torch.zeros((count, *size, 1), dtype=torch.uint8), torch.Generator().manual_seed(0))
    ours = [acting(drawn) for drawn in zip(*rounds, strict=True)]
    transform = transforms.RandAugment(magnitude=5, num_magnitude_bins=11)
    theirs = [acting(drawn) for drawn in torchvisions_draws(monkeypatch, transform, size, count)]
    assert {one for pair in ours for one in pair} == {one for pair in theirs for one in pair}
    assert_same_distribution(ours, theirs)
    assert_same_distribution([one for pair in ours for one in pair], [one for pair in theirs for one in pair])


def test_the_generator_decides() -> None:
    """The same generator state gives equal bytes, another seed others; nothing else is touched."""
    assert_generator_decides(regularizers.create("rand_augment").on_pixels)


def test_options_out_of_range() -> None:
    """Values that make no sense are refused with what was given and what is allowed."""
    for options, message in (
        ({"num_ops": 0}, "num_ops must be >= 1, got 0"),
        ({"num_magnitude_bins": 1, "magnitude": 0}, "num_magnitude_bins must be >= 2, got 1"),
        ({"magnitude": 31}, r"magnitude must be in \[0, num_magnitude_bins\) = \[0, 31\), got 31"),
        ({"magnitude": -1}, "got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            regularizers.create("rand_augment", **options)
    with pytest.raises(UnknownNameError, match="Unknown interpolation 'linear' in regularizer 'rand_augment'"):
        regularizers.create("rand_augment", interpolation="linear")
