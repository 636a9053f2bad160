"""TrivialAugment: torchvision's pixels for the same draws, and torchvision's distribution of draws."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms

from pipeline import regularizers
from pipeline.errors import UnknownNameError
from pipeline.regularizers import trivial_augment
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
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_pixels_are_torchvisions(monkeypatch: pytest.MonkeyPatch, channels: int, interpolation: str) -> None:
    """Each image equals torchvision's one operation at the magnitude that was drawn for it."""
    rounds, image_BHWC = record(monkeypatch, trivial_augment), images(160, channels)
    method = regularizers.create("trivial_augment", interpolation=interpolation)
    after_BHWC = method.on_pixels(image_BHWC, torch.Generator().manual_seed(1))
    assert len(rounds) == 1
    for b, drawn in enumerate(rounds[0]):
        expected_CHW = by_torchvision(image_BHWC[b].permute(2, 0, 1), [drawn], interpolation)
        assert torch.equal(after_BHWC[b].permute(2, 0, 1), expected_CHW)


def test_draws_are_distributed_as_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations with their signs and magnitudes come as often as torchvision's TrivialAugmentWide draws them."""
    rounds, count, size = record(monkeypatch, trivial_augment, work=False), 6_000, (6, 9)
    method = regularizers.create("trivial_augment", num_magnitude_bins=5)
    method.on_pixels(torch.zeros((count, *size, 1), dtype=torch.uint8), torch.Generator().manual_seed(0))
    transform = transforms.TrivialAugmentWide(num_magnitude_bins=5)
    ours = [acting([drawn]) for drawn in rounds[0]]
    theirs = [acting(drawn) for drawn in torchvisions_draws(monkeypatch, transform, size, count)]
    assert set(ours) == set(theirs)
    assert_same_distribution(ours, theirs)


def test_the_generator_decides() -> None:
    """The same generator state gives equal bytes, another seed others; nothing else is touched."""
    assert_generator_decides(regularizers.create("trivial_augment").on_pixels)


def test_options_out_of_range() -> None:
    """One level is no choice, and an unknown interpolation is named."""
    with pytest.raises(ValueError, match="num_magnitude_bins must be >= 2, got 1"):
        regularizers.create("trivial_augment", num_magnitude_bins=1)
    with pytest.raises(UnknownNameError, match="Unknown interpolation 'linear' in regularizer 'trivial_augment'"):
        regularizers.create("trivial_augment", interpolation="linear")
