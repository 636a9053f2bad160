"""Batched crop and flip against the same done one image at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from pipeline.training.augment import crop_flip

HEIGHT, WIDTH = 5, 7


def images(batch: int) -> Tensor:
    """image_BHWC with no two equal pixels in an image and none of them 0."""
    pixel_BHWC = torch.arange(1, 1 + HEIGHT * WIDTH * 3).reshape(1, HEIGHT, WIDTH, 3) + 7 * torch.arange(batch)[:, None, None, None]
    return (pixel_BHWC % 254 + 1).to(torch.uint8)


def draws(batch: int, seed: int, *, padding: int, flip: bool) -> tuple[Tensor, Tensor]:
    """flip_B and offset_B2 as `crop_flip` draws them from this seed."""
    rng = torch.Generator().manual_seed(seed)
    flip_B = torch.rand((batch, 1), generator=rng).flatten() < 0.5 if flip else torch.zeros(batch, dtype=torch.bool)
    offset_B2 = torch.randint(2 * padding + 1, (batch, 2), generator=rng) if padding else torch.zeros(batch, 2, dtype=torch.int64)
    return flip_B, offset_B2


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 2, 6])
def test_equals_padding_slicing_and_flipping_each_image(padding: int, flip: bool) -> None:
    """For the offsets and coins of the same seed, every image is the slice of its zero-padded self, mirrored where the coin says so."""
    image_BHWC = images(50)
    out_BHWC = crop_flip(image_BHWC, padding=padding, flip=flip, generator=torch.Generator().manual_seed(1))
    flip_B, offset_B2 = draws(50, 1, padding=padding, flip=flip)
    for image_HWC, out_HWC, mirrored, (top, left) in zip(image_BHWC, out_BHWC, flip_B, offset_B2.tolist(), strict=True):
        padded = F.pad(image_HWC, (0, 0, padding, padding, padding, padding))
        expected = padded[top : top + HEIGHT, left : left + WIDTH]
        assert torch.equal(out_HWC, expected.flip(1) if mirrored else expected)
    assert out_BHWC.dtype == torch.uint8


def test_all_offsets_and_both_coins_occur_evenly() -> None:
    """Every one of the 25 offsets comes about equally often and independently of the flip, which happens in half of the images."""
    batch, padding = 20_000, 2
    image_BHWC = images(1).expand(batch, -1, -1, -1)
    out_BHWC = crop_flip(image_BHWC, padding=padding, flip=True, generator=torch.Generator().manual_seed(0))
    padded = F.pad(image_BHWC[0], (0, 0, padding, padding, padding, padding))
    counts = {}
    for top in range(5):
        for left in range(5):
            crop = padded[top : top + HEIGHT, left : left + WIDTH]
            for mirrored, expected in ((False, crop), (True, crop.flip(1))):
                counts[top, left, mirrored] = int((out_BHWC == expected).flatten(1).all(1).sum())
    assert sum(counts.values()) == batch
    expected_count = batch / 50
    assert max(abs(count - expected_count) for count in counts.values()) < 5 * expected_count**0.5


def test_makes_what_torchvision_makes() -> None:
    """The set of results is exactly that of torchvision's RandomCrop with padding followed by RandomHorizontalFlip."""
    image_HWC = images(1)[0]
    ours = crop_flip(image_HWC.expand(1500, -1, -1, -1), padding=1, flip=True, generator=torch.Generator().manual_seed(0))
    transform = v2.Compose([v2.RandomCrop((HEIGHT, WIDTH), padding=1), v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = {transform(image_HWC.permute(2, 0, 1)).permute(1, 2, 0).numpy().tobytes() for _ in range(400)}
    assert len(theirs) == 18
    assert {image.numpy().tobytes() for image in ours} == theirs


def test_off_means_untouched() -> None:
    """Without padding and flip the same tensor comes back and nothing is drawn."""
    image_BHWC, rng = images(3), torch.Generator().manual_seed(0)
    state = rng.get_state()
    assert crop_flip(image_BHWC, padding=0, flip=False, generator=rng) is image_BHWC
    assert torch.equal(rng.get_state(), state)


def test_the_generator_decides() -> None:
    """Equal seeds give equal bytes, another seed other bytes, torch's global generator is left alone."""
    image_BHWC, state = images(8), torch.get_rng_state()
    first, again, other = (crop_flip(image_BHWC, padding=2, flip=True, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
