"""Cluttered digits: balanced, exact masks, no source digit in two splits, the same bytes everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline.data.cluttered_digits import cluttered_digits
from pipeline.data.raw import RawData
from pipeline.errors import ConfigError


@pytest.fixture(name="raw", scope="module")
def _raw() -> RawData:
    return cluttered_digits(num_train=200, num_val=50, num_test=100)


def test_shapes_types_and_balance(raw: RawData) -> None:
    """Every split has uint8 grey canvases, binary masks and the same number of canvases of every class."""
    for split, number in (("train", 200), ("val", 50), ("test", 100)):
        part = raw.splits[split]
        assert isinstance(part.image_NHWC, np.ndarray)
        assert part.image_NHWC.shape == (number, 24, 24, 1)
        assert part.image_NHWC.dtype == np.uint8
        assert part.mask_NHW is not None
        assert part.mask_NHW.shape == (number, 24, 24)
        assert set(np.unique(part.mask_NHW)) == {0, 1}
        assert np.bincount(part.label_N).tolist() == [number // 10] * 10
    raw.check("cluttered_digits")


def test_source_index_names_the_whole_digit(raw: RawData) -> None:
    """The source row has the label of the canvas."""
    target = load_digits().target
    for part in raw.splits.values():
        assert (target[part.source_index_N] == part.label_N).all()


def test_source_digits_of_the_splits_are_disjoint() -> None:
    """No source digit serves two splits, even when all of them are drawn."""
    raw = cluttered_digits(num_train=3000, num_val=1000, num_test=2000, canvas=20)
    used = [set(part.source_index_N.tolist()) for part in raw.splits.values()]
    assert sum(map(len, used)) == len(set.union(*used)) == 1797


def test_without_clutter_and_noise_only_the_digit_is_bright() -> None:
    """The mask is where the digit's own ink is: brighter than 64 inside, not outside."""
    part = cluttered_digits(num_train=50, num_val=10, num_test=10, clutter=0, noise=0).splits["train"]
    assert isinstance(part.image_NHWC, np.ndarray)
    assert ((part.image_NHWC[..., 0] > 64) == (part.mask_NHW == 1)).all()


def test_clutter_adds_ink_and_never_hides_the_digit() -> None:
    """With clutter there is much ink off the digit, and no pixel of the digit gets darker than it is alone."""
    plain, full = (cluttered_digits(num_train=200, num_val=10, num_test=10, noise=0, clutter=clutter).splits["train"] for clutter in (0, 4))
    assert isinstance(full.image_NHWC, np.ndarray)
    off = full.image_NHWC[..., 0][full.mask_NHW == 0].astype(int)
    assert (off > 64).mean() > 0.1
    assert full.image_NHWC[..., 0][full.mask_NHW == 1].min() > 64
    assert isinstance(plain.image_NHWC, np.ndarray)
    assert (plain.image_NHWC[..., 0][plain.mask_NHW == 0] <= 64).all()


def test_seed_decides_everything() -> None:
    """The same seed gives equal bytes, another seed gives other canvases and another split of the digits."""
    first, again, other = (cluttered_digits(num_train=50, num_val=10, num_test=500, seed_split=seed) for seed in (0, 0, 1))
    for split in ("train", "val", "test"):
        assert np.array_equal(first.splits[split].image_NHWC, again.splits[split].image_NHWC)  # type: ignore[arg-type]
        assert not np.array_equal(first.splits[split].image_NHWC, other.splits[split].image_NHWC)  # type: ignore[arg-type]
    assert set(first.splits["test"].source_index_N) != set(other.splits["test"].source_index_N)


def test_golden_pixels(raw: RawData) -> None:
    """The bytes are pinned: a change here changes the identity of every trial on this dataset, on every machine."""
    assert isinstance(raw.splits["test"].image_NHWC, np.ndarray)
    assert hashlib.sha256(raw.splits["test"].image_NHWC.tobytes()).hexdigest()[:16] == "aca64c82ee87063b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"canvas": 12}, r"8 \* max_scale must not exceed canvas"),
        ({"num_train": 5}, "num_train must be at least 10"),
        ({"num_val": 3}, "num_val must be at least 10"),
        ({"num_test": 0}, "num_test must be at least 10"),
        ({"clutter": -1}, "clutter must be at least 0"),
        ({"fragment": 9}, r"fragment must be in 1\.\.8"),
        ({"min_scale": 0.5}, "min_scale 0.5"),
        ({"noise": 300}, "noise must be in"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    """An option out of range is refused by its name."""
    with pytest.raises(ConfigError, match=message):
        cluttered_digits(**options)  # type: ignore[arg-type]


def test_no_val_split() -> None:
    """num_val: 0 leaves the split empty."""
    assert len(cluttered_digits(num_train=20, num_val=0, num_test=10).splits["val"]) == 0
