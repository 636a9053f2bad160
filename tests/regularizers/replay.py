"""What the tests of AutoAugment and its kin share: images, recorded draws, and torchvision as the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, autoaugment

Drawn = tuple[str, float]  # operation and signed magnitude
theirs_of_one = autoaugment._apply_op  # kept here, since tests replace the name


def images(batch: int, channels: int, height: int = 13, width: int = 18) -> Tensor:
    """image_BHWC, uint8: noise, but each fourth image is a dark ramp, a narrow range of noise, or constant."""
    rng = torch.Generator().manual_seed(batch)
    image_BHWC = torch.randint(256, (batch, height, width, channels), generator=rng, dtype=torch.uint8)
    image_BHWC[1::4] = torch.arange(height, dtype=torch.uint8)[:, None, None] * 5
    image_BHWC[2::4] = image_BHWC[2::4] // 8 + 90
    image_BHWC[3::4] = 77
    return image_BHWC


def by_torchvision(image_CHW: Tensor, drawn: Sequence[Drawn], interpolation: str = "nearest") -> Tensor:
    """One image after torchvision's operations in a row."""
    for op, magnitude in drawn:
        image_CHW = theirs_of_one(image_CHW, op, magnitude, InterpolationMode(interpolation), None)
    return image_CHW


def record(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *, work: bool = True) -> list[list[Drawn]]:
    """A list that fills with what the module's regularizer draws: one entry for each round of operations, with a draw for each image.

    Args:
        work: carry the operations out; otherwise the images stay.
    """
    rounds: list[list[Drawn]] = []
    carry_out: Callable[..., Tensor] = module.apply

    def listen(image_BCHW: Tensor, ops: Sequence[str], magnitudes: Sequence[float], interpolation: str) -> Tensor:
        rounds.append(list(zip(ops, magnitudes, strict=True)))
        return carry_out(image_BCHW, ops, magnitudes, interpolation) if work else image_BCHW

    monkeypatch.setattr(module, "apply", listen)
    return rounds


def torchvisions_draws(monkeypatch: pytest.MonkeyPatch, transform: Any, size: tuple[int, int], count: int) -> list[list[Drawn]]:
    """What torchvision's transform draws for each of `count` images."""
    drawn: list[list[Drawn]] = []

    def listen(image: Tensor, op: str, magnitude: float, interpolation: object, fill: object) -> Tensor:
        drawn[-1].append((op, magnitude))
        return image

    monkeypatch.setattr(autoaugment, "_apply_op", listen)
    image_CHW = torch.zeros((1, *size), dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(count):
            drawn.append([])
            transform(image_CHW)
    return drawn


def acting(drawn: Sequence[Drawn]) -> tuple[Drawn, ...]:
    """Without operations that do nothing, -0.0 as 0.0."""
    return tuple((op, magnitude + 0.0) for op, magnitude in drawn if op != "Identity")


def assert_same_distribution(ours: Sequence[Hashable], theirs: Sequence[Hashable], *, rare: int = 20) -> None:
    """A chi-squared test of homogeneity does not reject that both were drawn alike; neither has a frequent outcome of its own."""
    left, right = Counter(ours), Counter(theirs)
    frequent = [key for key in left | right if left[key] + right[key] >= rare]
    assert len(frequent) >= 2
    table = [[counts[key] for key in frequent] for counts in (left, right)]
    table[0].append(len(ours) - sum(table[0]))
    table[1].append(len(theirs) - sum(table[1]))
    columns = [column for column in zip(*table, strict=True) if sum(column)]
    assert stats.chi2_contingency(list(zip(*columns, strict=True))).pvalue > 0.001  # many comparisons


def assert_generator_decides(on_pixels: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    """The same generator state gives equal bytes, another seed others; neither the images nor torch's global generator are touched."""
    image_BHWC, state = images(24, 3), torch.get_rng_state()
    copy_BHWC = image_BHWC.clone()
    first, again, other = (on_pixels(image_BHWC, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert first.shape == image_BHWC.shape
    assert torch.equal(image_BHWC, copy_BHWC)
    assert torch.equal(torch.get_rng_state(), state)
