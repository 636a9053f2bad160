"""AugMix: torchvision's pixels for the same draws, and torchvision's distribution of draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode, autoaugment

from pipeline import regularizers
from pipeline.errors import UnknownNameError
from pipeline.regularizers import augmix
from tests.regularizers.replay import (
    acting,
    assert_generator_decides,
    assert_same_distribution,
    images,
    record,
    theirs_of_one,
    torchvisions_draws,
)


def record_weights(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A list that fills with the Dirichlet weights that are drawn."""
    drawn: list[Tensor] = []
    draw = torch._sample_dirichlet

    def listen(*args: Any, **options: Any) -> Tensor:
        drawn.append(draw(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "_sample_dirichlet", listen)
    return drawn


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "depth", "interpolation"), [(3, 2, "bilinear"), (2, 3, "nearest"), (1, 1, "bilinear")])
def test_pixels_are_torchvisions(monkeypatch: pytest.MonkeyPatch, channels: int, width: int, depth: int, interpolation: str) -> None:
    """torchvision's AugMix, given the weights and operations that were drawn for an image, makes the same pixels of it."""
    batch = 24
    rounds, weights, image_BHWC = record(monkeypatch, augmix), record_weights(monkeypatch), images(batch, channels)
    options: dict[str, Any] = {"width": width, "depth": depth, "severity": 7, "interpolation": interpolation}
    after_BHWC = regularizers.create("augmix", **options).on_pixels(image_BHWC, torch.Generator().manual_seed(1))
    own_B2, share_BV = weights
    theirs = transforms.AugMix(7, width, depth, interpolation=InterpolationMode(interpolation))
    for b in range(batch):
        todo = iter([rounds[turn][chain * batch + b] for chain in range(width) for turn in range(depth)])
        given = iter([own_B2[b : b + 1], share_BV[b : b + 1]])
        monkeypatch.setattr(theirs, "_sample_dirichlet", lambda _, given=given: next(given))
        monkeypatch.setattr(autoaugment, "_apply_op", lambda image, *_, todo=todo, **how: theirs_of_one(image, *next(todo), **how))
        assert torch.equal(after_BHWC[b].permute(2, 0, 1), theirs(image_BHWC[b].permute(2, 0, 1)))
        assert not list(todo)
        assert not list(given)


@pytest.mark.parametrize("all_ops", [True, False])
def test_chains_are_distributed_as_torchvisions(monkeypatch: pytest.MonkeyPatch, all_ops: bool) -> None:
    """Lengths of chains, and operations with their signs and magnitudes in them, come as often as in torchvision's AugMix."""
    rounds, count, size = record(monkeypatch, augmix, work=False), 2_000, (12, 9)
    image_BHWC = torch.zeros((count, *size, 1), dtype=torch.uint8)
    regularizers.create("augmix", width=1, all_ops=all_ops).on_pixels(image_BHWC, torch.Generator().manual_seed(0))
    ours = [acting(drawn) for drawn in zip(*rounds, strict=True)]
    transform = transforms.AugMix(mixture_width=1, all_ops=all_ops)
    theirs = [acting(drawn) for drawn in torchvisions_draws(monkeypatch, transform, size, count)]
    assert_same_distribution([len(chain) for chain in ours], [len(chain) for chain in theirs])
    assert_same_distribution([one for chain in ours for one in chain], [one for chain in theirs for one in chain])
    assert {one for chain in ours for one in chain} == {one for chain in theirs for one in chain}


def test_chains_of_an_image_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three chains, the lengths of an image's chains come as a product of three uniform draws from 1 to 3."""
    rounds, count = record(monkeypatch, augmix, work=False), 8_000
    image_BHWC = torch.zeros((count, 4, 4, 1), dtype=torch.uint8)
    regularizers.create("augmix").on_pixels(image_BHWC, torch.Generator().manual_seed(0))
    lengths = [len(acting(drawn)) for drawn in zip(*rounds, strict=True)]
    triples = [tuple(lengths[chain * count + b] for chain in range(3)) for b in range(count)]
    counts = [triples.count((i, j, k)) for i in (1, 2, 3) for j in (1, 2, 3) for k in (1, 2, 3)]
    assert sum(counts) == count
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_weights_are_dirichlet(monkeypatch: pytest.MonkeyPatch, alpha: float) -> None:
    """The share of the image itself follows Beta(alpha, alpha), that of each chain Beta(alpha, (width - 1) alpha)."""
    weights, image_BHWC = record_weights(monkeypatch), torch.zeros((3000, 2, 2, 1), dtype=torch.uint8)
    regularizers.create("augmix", alpha=alpha, width=4, depth=1).on_pixels(image_BHWC, torch.Generator().manual_seed(0))
    own_B2, share_BV = weights
    torch.testing.assert_close(share_BV.sum(1), torch.ones(3000))
    assert stats.kstest(own_B2[:, 0].tolist(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    for chain in range(4):
        assert stats.kstest(share_BV[:, chain].tolist(), stats.beta(alpha, 3 * alpha).cdf).pvalue > 0.01


def test_the_generator_decides() -> None:
    """The same generator state gives equal bytes, another seed others; nothing else is touched."""
    assert_generator_decides(regularizers.create("augmix").on_pixels)


def test_options_out_of_range() -> None:
    """Values that make no sense are refused with what was given and what is allowed."""
    for options, message in (
        ({"severity": 0}, r"severity must be in \[1, 10\], got 0"),
        ({"severity": 11}, "got 11"),
        ({"width": 0}, "width must be >= 1 chain, got 0"),
        ({"depth": 0}, "depth must be >= 1 operation, or null for 1 to 3 at random, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            regularizers.create("augmix", **options)
    with pytest.raises(UnknownNameError, match="Unknown interpolation 'linear' in regularizer 'augmix'"):
        regularizers.create("augmix", interpolation="linear")
