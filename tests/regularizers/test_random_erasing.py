"""Random erasing: one rectangle an image, torchvision's distribution of rectangles, and what fills them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import transforms

from pipeline import regularizers
from pipeline.batch import Batch, Target
from pipeline.errors import UnknownNameError
from tests.regularizers.replay import assert_same_distribution

MakeBatch = Callable[..., Batch]
Box = tuple[int, int, int, int]  # top, left, height, width


def ones(batch: int, height: int, width: int, channels: int = 1) -> Batch:
    return Batch(torch.ones(batch, channels, height, width), Target(torch.zeros(batch, dtype=torch.long)))


def boxes(image_BCHW: Tensor) -> list[Box]:
    """The rectangle of zeros in each image of ones; no height and width where there is none."""
    found: list[Box] = []
    for erased_HW in image_BCHW[:, 0] == 0:
        rows, columns = (erased_HW.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        box = (rows[0], columns[0], len(rows), len(columns)) if rows else (0, 0, 0, 0)
        assert int(erased_HW.sum()) == box[2] * box[3], "the zeros fill their rectangle"
        found.append(box)
    return found


def torchvisions(count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> list[Box]:
    """Rectangles that torchvision's RandomErasing draws when it acts; no height and width where its ten tries have failed."""
    image_CHW, drawn = torch.ones(1, *size), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(count):
            top, left, height, width, value = transforms.RandomErasing.get_params(image_CHW, scale, ratio, [0.0])
            drawn.append((0, 0, 0, 0) if value is image_CHW else (top, left, height, width))
    return [box if box[2] * box[3] else (0, 0, 0, 0) for box in drawn]


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((12, 9), (0.02, 0.33), (0.3, 3.3)),
        ((5, 14), (0.3, 0.9), (0.2, 1.5)),  # many tries do not fit, and sometimes none of the ten does
        ((6, 6), (0.0, 0.1), (0.1, 10.0)),  # rectangles of no pixels
    ],
)
def test_rectangles_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    """Sizes and places of rectangles, jointly, and images left alone come as often as in torchvision."""
    count = 6000
    method = regularizers.create("random_erasing", p=1.0, min_area=scale[0], max_area=scale[1], min_ratio=ratio[0], max_ratio=ratio[1])
    ours = boxes(method.on_batch(ones(count, *size), torch.Generator().manual_seed(0)).image_BCHW)
    theirs = torchvisions(count, size, scale, ratio)
    assert_same_distribution(ours, theirs)
    assert_same_distribution([box[2:] for box in ours], [box[2:] for box in theirs])
    assert_same_distribution([box[:2] for box in ours], [box[:2] for box in theirs])


def test_sizes_of_large_images_follow_the_same_law() -> None:
    """On images of 96x64 pixels, where rounding hardly shows, areas and aspects agree with torchvision's: Kolmogorov-Smirnov tests."""
    method = regularizers.create("random_erasing", p=1.0)
    ours = boxes(method.on_batch(ones(3000, 96, 64), torch.Generator().manual_seed(0)).image_BCHW)
    theirs = torchvisions(3000, (96, 64), (0.02, 0.33), (0.3, 3.3))
    assert stats.ks_2samp([h * w for _, _, h, w in ours], [h * w for _, _, h, w in theirs]).pvalue > 0.01
    assert stats.ks_2samp([h / w for _, _, h, w in ours], [h / w for _, _, h, w in theirs]).pvalue > 0.01


def test_noise_fills_the_same_rectangles(make_batch: MakeBatch) -> None:
    """With `noise` each erased pixel and channel is a standard normal number of its own; the rest and the rectangles are as with `zero`."""
    batch = make_batch(300, 3, 10, 7)
    zero, noise = (
        regularizers.create("random_erasing", value=value).on_batch(batch, torch.Generator().manual_seed(2)).image_BCHW
        for value in ("zero", "noise")
    )
    erased_BCHW = zero == 0
    assert torch.equal(noise[~erased_BCHW], batch.image_BCHW[~erased_BCHW])
    drawn = noise[erased_BCHW].tolist()
    assert len(set(drawn)) > 0.99 * len(drawn)
    assert stats.kstest(drawn, stats.norm.cdf).pvalue > 0.01


@pytest.mark.parametrize("value", ["zero", "noise"])
def test_p_is_the_share_of_images(value: str) -> None:
    """About `p` of the images change, each decided by itself, with all its channels; the targets are the same object."""
    batch = ones(4000, 8, 8, channels=2)
    after = regularizers.create("random_erasing", p=0.3, value=value).on_batch(batch, torch.Generator().manual_seed(0))
    changed_BCHW = after.image_BCHW != batch.image_BCHW
    assert torch.equal(changed_BCHW[:, 0], changed_BCHW[:, 1])
    assert changed_BCHW.flatten(1).any(1).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert after.target is batch.target


def test_channels_last_stays() -> None:
    """The memory layout of the feed, channels-last, is that of the result too."""
    image_BCHW = torch.ones(4, 6, 5, 3).permute(0, 3, 1, 2)
    batch = Batch(image_BCHW, Target(torch.zeros(4, dtype=torch.long)))
    for value in ("zero", "noise"):
        after = regularizers.create("random_erasing", p=1.0, value=value).on_batch(batch, torch.Generator().manual_seed(0))
        assert after.image_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_the_generator_decides(make_batch: MakeBatch) -> None:
    """The same generator state gives equal bytes, another seed other bytes; the given batch and torch's global generator stay."""
    batch, state = make_batch(16), torch.get_rng_state()
    copy_BCHW = batch.image_BCHW.clone()
    for value in ("zero", "noise"):
        method = regularizers.create("random_erasing", value=value)
        first, again, other = (method.on_batch(batch, torch.Generator().manual_seed(seed)).image_BCHW for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(batch.image_BCHW, copy_BCHW)
    assert torch.equal(torch.get_rng_state(), state)


def test_options_out_of_range() -> None:
    """Values that make no distribution are refused with what was given and what is allowed."""
    for options, message in (
        ({"p": 0.0}, r"p must be in \(0, 1\], got 0.0"),
        ({"p": 1.1}, "got 1.1"),
        ({"min_area": 0.5}, "0 <= min_area <= max_area <= 1, got 0.5 and 0.33"),
        ({"max_area": 1.5}, "got 0.02 and 1.5"),
        ({"min_ratio": 0.0}, "0 < min_ratio <= max_ratio, got 0.0 and 3.3"),
        ({"max_ratio": 0.1}, "got 0.3 and 0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            regularizers.create("random_erasing", **options)
    with pytest.raises(UnknownNameError, match=r"Unknown value 'mean' in regularizer 'random_erasing'.*noise, zero"):
        regularizers.create("random_erasing", value="mean")
