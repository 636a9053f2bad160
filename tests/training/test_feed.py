"""From arrays to batches: normalisation, order, the last batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.image_data import ImageData
from pipeline.study.trial_config import Augment
from pipeline.training.feed import SplitFeed, TrainFeed

CPU = torch.device("cpu")


def train_feed(data: ImageData, *, batch_size: int = 10, augment: Augment | None = None, order: int = 0, augment_rng: int = 0) -> TrainFeed:
    return TrainFeed(
        data,
        CPU,
        batch_size=batch_size,
        augment=augment or Augment(),
        order=torch.Generator().manual_seed(order),
        augment_rng=torch.Generator().manual_seed(augment_rng),
    )


def test_normalisation_is_pixel_minus_mean_over_std(tiny_data: ImageData) -> None:
    """(pixel / 255 - mean) / std in numpy's float64, channels first, channels-last in memory, and the source stays uint8."""
    feed = SplitFeed(tiny_data.split("train"), tiny_data.mean, tiny_data.std, CPU)
    image_BCHW = feed.normalise(feed.images(slice(0, 9)))
    expected = (tiny_data.image_NHWC[:9] / 255 - np.array(tiny_data.mean)) / np.array(tiny_data.std)
    np.testing.assert_allclose(image_BCHW.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert feed.image_NHWC.dtype == torch.uint8
    assert feed.image_NHWC.data_ptr() == tiny_data.image_NHWC.ctypes.data, "the images are not copied"


def test_channels_have_their_own_statistics() -> None:
    """Each channel is shifted and scaled by its own mean and standard deviation."""
    image_NHWC = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
    mean, std = (tuple(f(image_NHWC / 255, axis=(0, 1, 2)).tolist()) for f in (np.mean, np.std))
    data = ImageData("rgb", image_NHWC, np.zeros(20, np.int64), None, ("a",), {"train": (0, 20)}, mean, std, "digest")
    image_BCHW = SplitFeed(data.split("train"), mean, std, CPU).normalise(torch.from_numpy(image_NHWC))
    torch.testing.assert_close(image_BCHW.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(image_BCHW.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("batch_size", "steps", "size"), [(10, 6, 10), (64, 1, 64), (16, 4, 16), (500, 1, 64)])
def test_the_last_smaller_batch_is_dropped(tiny_data: ImageData, batch_size: int, steps: int, size: int) -> None:
    """64 images give whole batches only, and one batch of 64 when a batch would be larger than the split."""
    feed = train_feed(tiny_data, batch_size=batch_size)
    batches = list(feed.epoch())
    assert feed.steps_per_epoch == steps == len(batches)
    assert [len(batch.image_BCHW) for batch in batches] == [size] * steps
    assert all(batch.target.other_B is None and batch.target.smoothing == 0 for batch in batches)


@pytest.mark.parametrize("taken", [1, 3, 6])
def test_a_feed_goes_on_where_another_one_stood(tiny_data: ImageData, taken: int) -> None:
    """From the state in the midst or at the end of the second epoch come the batches that were left, and then the third epoch."""
    crop = Augment(crop_padding=2, flip=True)
    feed, other = train_feed(tiny_data, augment=crop), train_feed(tiny_data, augment=crop, order=8, augment_rng=9)
    list(feed.epoch())
    epoch = feed.epoch()
    for _ in range(taken):
        next(epoch)
    other.load_state_dict(feed.state_dict())
    for left, expected in ((other.epoch(), epoch), (other.epoch(), feed.epoch())):
        pairs = list(zip(left, expected, strict=True))
        assert all(torch.equal(ours.image_BCHW, theirs.image_BCHW) for ours, theirs in pairs)
        assert all(torch.equal(ours.target.label_B, theirs.target.label_B) for ours, theirs in pairs)


def test_an_epoch_that_is_left_early_shifts_nothing(tiny_data: ImageData) -> None:
    """After a few batches of an epoch the next one has all of its batches again."""
    feed = train_feed(tiny_data)
    next(feed.epoch())
    assert len(list(feed.epoch())) == feed.steps_per_epoch


def test_an_epoch_shows_each_image_once_with_its_label(tiny_data: ImageData) -> None:
    """One epoch is a permutation of the training images, each beside its own label; the next epoch is another permutation."""
    feed = train_feed(tiny_data, batch_size=16)
    epoch, second = list(feed.epoch()), list(feed.epoch())
    by_bytes = {
        image.numpy().tobytes(): int(label) for image, label in zip(feed.normalise(feed.images(slice(None))), feed.label_N, strict=True)
    }
    assert len(by_bytes) == 64
    seen = [(image.contiguous().numpy().tobytes(), int(k)) for b in epoch for image, k in zip(b.image_BCHW, b.target.label_B, strict=True)]
    assert len({key for key, _ in seen}) == 64
    assert all(by_bytes[key] == label for key, label in seen)
    assert not torch.equal(epoch[0].image_BCHW, second[0].image_BCHW)


def test_order_and_augmentation_have_their_own_streams(tiny_data: ImageData) -> None:
    """Another augmentation seed changes pixels but not the order; another order seed changes the order."""
    crop = Augment(crop_padding=2, flip=True)

    def labels_and_pixels(**seeds: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batches = list(train_feed(tiny_data, augment=crop, **seeds).epoch())
        return torch.cat([b.target.label_B for b in batches]), torch.cat([b.image_BCHW for b in batches])

    label_N, pixel_NCHW = labels_and_pixels()
    again = labels_and_pixels()
    assert torch.equal(again[0], label_N)
    assert torch.equal(again[1], pixel_NCHW)
    augmented = labels_and_pixels(augment_rng=1)
    assert torch.equal(augmented[0], label_N)
    assert not torch.equal(augmented[1], pixel_NCHW)
    assert not torch.equal(labels_and_pixels(order=1)[0], label_N)


def test_read_only_arrays_give_no_warning(tiny_data: ImageData) -> None:
    """Memory-mapped arrays cannot be written to: taking them without a copy is quiet, and training never writes to them."""
    frozen = {name: getattr(tiny_data, name).copy() for name in ("image_NHWC", "label_N", "mask_NHW")}
    for array in frozen.values():
        array.flags.writeable = False
    data = ImageData(**(vars(tiny_data) | frozen))
    assert sum(len(batch.target.label_B) for batch in train_feed(data, augment=Augment(crop_padding=1, flip=True)).epoch()) == 60
    np.testing.assert_array_equal(data.image_NHWC, tiny_data.image_NHWC)
