"""AutoAugment: torchvision's pixels for the same draws, and torchvision's distribution of draws."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms

from pipeline import regularizers
from pipeline.errors import UnknownNameError
from pipeline.regularizers import auto_augment
from tests.regularizers.replay import (
    acting,
    assert_generator_decides,
    assert_same_distribution,
    by_torchvision,
    images,
    record,
    torchvisions_draws,
)

POLICIES = ("cifar10", "imagenet", "svhn")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_pixels_are_torchvisions(monkeypatch: pytest.MonkeyPatch, policy: str, channels: int) -> None:
    """Each image equals torchvision's pair of operations, at the magnitudes that were drawn for it."""
    rounds, image_BHWC = record(monkeypatch, auto_augment), images(96, channels)
    after_BHWC = regularizers.create("auto_augment", policy=policy).on_pixels(image_BHWC, torch.Generator().manual_seed(1))
    assert len(rounds) == 2
    for b, drawn in enumerate(zip(*rounds, strict=True)):
        assert torch.equal(after_BHWC[b].permute(2, 0, 1), by_torchvision(image_BHWC[b].permute(2, 0, 1), drawn))


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_distributed_as_torchvisions(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """What happens to an image (none, one or two operations, their signs and magnitudes, in order) comes as often as in torchvision."""
    rounds, count, size = record(monkeypatch, auto_augment, work=False), 4_000, (32, 24)
    method = regularizers.create("auto_augment", policy=policy)
    method.on_pixels(torch.zeros((count, *size, 1), dtype=torch.uint8), torch.Generator().manual_seed(0))
    ours = [acting(drawn) for drawn in zip(*rounds, strict=True)]
    transform = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy))
    theirs = [acting(drawn) for drawn in torchvisions_draws(monkeypatch, transform, size, count)]
    assert_same_distribution(ours, theirs)
    assert {one for pair in ours for one in pair} == {one for pair in theirs for one in pair}


def test_the_generator_decides() -> None:
    """The same generator state gives equal bytes, another seed others; nothing else is touched."""
    assert_generator_decides(regularizers.create("auto_augment").on_pixels)


def test_unknown_words_are_named() -> None:
    """A policy or interpolation that does not exist is refused with those that do."""
    with pytest.raises(UnknownNameError, match=r"Unknown policy 'cifar100' in regularizer 'auto_augment'.*cifar10, imagenet, svhn"):
        regularizers.create("auto_augment", policy="cifar100")
    with pytest.raises(UnknownNameError, match="Unknown interpolation 'linear' in regularizer 'auto_augment'"):
        regularizers.create("auto_augment", interpolation="linear")
