"""Batched image operations: every one equals torchvision's on one image, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandAugment, TrivialAugmentWide

from pipeline.errors import UnknownNameError
from pipeline.regularizers.image_ops import OPS, Interpolation, apply, check_interpolation, to_pixels, to_planes
from tests.regularizers.replay import by_torchvision, images

MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
BINS = 31


def magnitudes(op: str, size: tuple[int, int]) -> list[float]:
    """All magnitudes that any of torchvision's policies has for the operation, with both signs where it is signed."""
    spaces = [RandAugment()._augmentation_space(n, size) for n in (10, BINS)] + [TrivialAugmentWide()._augmentation_space(BINS)]
    if op not in spaces[0] or not spaces[0][op][0].ndim:
        return [0.0]
    values = {float(m) for space in spaces for m in space[op][0]}
    if op == "Posterize":
        values |= {float(bits) for bits in range(9)}  # AugMix goes down to 0 bits
    if spaces[0][op][1]:
        values |= {-m for m in values}
    return sorted(values)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_torchvisions(op: str, channels: int) -> None:
    """At every magnitude of every policy, RGB and grey, each image of a batch gets the pixels of torchvision's operation on it alone."""
    for size in ((17, 24), (24, 24)):
        levels = magnitudes(op, size)
        image_BCHW = to_planes(images(4, channels, *size)).repeat_interleave(len(levels), 0)
        ours_BCHW = apply(image_BCHW, [op] * len(image_BCHW), levels * 4)
        expected_BCHW = torch.stack([by_torchvision(image_BCHW[b], [(op, m)]) for b, m in enumerate(levels * 4)])
        assert torch.equal(ours_BCHW, expected_BCHW)
        if op != "Identity" and not (op == "Color" and channels == 1):
            assert not torch.equal(ours_BCHW, image_BCHW)


@pytest.mark.parametrize("op", MOVES)
def test_bilinear_movements_are_torchvisions(op: str) -> None:
    """The same with bilinear interpolation, for what moves pixels."""
    levels = magnitudes(op, (13, 18))
    image_BCHW = to_planes(images(1, 3)).repeat(len(levels), 1, 1, 1)
    ours_BCHW = apply(image_BCHW, [op] * len(levels), levels, "bilinear")
    expected_BCHW = torch.stack([by_torchvision(image_BCHW[b], [(op, m)], "bilinear") for b, m in enumerate(levels)])
    assert torch.equal(ours_BCHW, expected_BCHW)


def test_colour_of_grey_images_stays() -> None:
    """A grey image has no colour to change: the very same pixels, as torchvision has it."""
    image_BCHW = to_planes(images(4, 1))
    assert torch.equal(apply(image_BCHW, ["Color"] * 4, [0.9, -0.9, 0.5, 0.0]), image_BCHW)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(list(OPS)), st.integers(0, BINS - 1)), min_size=1, max_size=12), st.randoms(use_true_random=False)
)
def test_the_order_of_a_batch_does_not_matter(drawn: list[tuple[str, int]], random: object) -> None:
    """Whatever the operations, a shuffled batch gives the shuffled results, each equals the result for that image alone, and the
    given images stay."""
    image_BCHW = to_planes(images(len(drawn), 3))
    copy_BCHW = image_BCHW.clone()
    ops = [op for op, _ in drawn]
    chosen = [values[level % len(values)] for op, level in drawn for values in [magnitudes(op, (13, 18))]]
    done_BCHW = apply(image_BCHW, ops, chosen)
    order = list(range(len(drawn)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(apply(image_BCHW[order], [ops[b] for b in order], [chosen[b] for b in order]), done_BCHW[order])
    for b, (op, magnitude) in enumerate(zip(ops, chosen, strict=True)):
        assert torch.equal(apply(image_BCHW[b : b + 1], [op], [magnitude])[0], done_BCHW[b])
    assert torch.equal(image_BCHW, copy_BCHW)


def test_tiny_images_are_not_sharpened() -> None:
    """An image of two rows has no inner pixels: sharpness leaves it, as torchvision does."""
    image_BCHW = to_planes(images(2, 3, 2, 5))
    assert torch.equal(apply(image_BCHW, ["Sharpness"] * 2, [0.9, -0.9]), image_BCHW)


def test_layouts_are_inverse() -> None:
    """Planes and pixels hold the same images, contiguous in their own layout."""
    image_BHWC = images(3, 3)
    planes_BCHW = to_planes(image_BHWC)
    assert planes_BCHW.is_contiguous()
    assert torch.equal(planes_BCHW[1, 2], image_BHWC[1, :, :, 2])
    assert to_pixels(planes_BCHW).is_contiguous()
    assert torch.equal(to_pixels(planes_BCHW), image_BHWC)


def test_what_cannot_be_done_is_refused() -> None:
    """Two channels, an unknown operation and an unknown interpolation are named."""
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        apply(torch.zeros((1, 2, 4, 4), dtype=torch.uint8), ["Invert"], [0.0])
    with pytest.raises(UnknownNameError, match=r"Unknown image operation 'Rotat'.*Did you mean 'Rotate'"):
        apply(torch.zeros((1, 1, 4, 4), dtype=torch.uint8), ["Rotat"], [0.0])
    unknown: Interpolation = "cubic"  # type: ignore[assignment]
    with pytest.raises(UnknownNameError, match=r"Unknown interpolation 'cubic' in regularizer 'augmix'.*bilinear, nearest"):
        check_interpolation(unknown, "augmix")
