"""Image folders: one folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import data
from pipeline.errors import DataError


def _fill(folder: Path, number: int, *, level: int = 0, grey: bool = False, side: int = 6) -> None:
    """`number` images of one grey level a file: level, level + 1, ..."""
    folder.mkdir(parents=True)
    for index in range(number):
        shape = (side, side) if grey else (side, side, 3)
        Image.fromarray(np.full(shape, level + index, np.uint8)).save(folder / f"{index:03}.png")


def _component(root: Path, **options: Any) -> dict[str, Any]:
    return {"name": "folder", "source": "image_folder", "root": str(root), **options}


def _levels(prepared: data.ImageData, split: str) -> list[int]:
    return sorted(prepared.split(split).image_NHWC[:, 0, 0, 0].tolist())


def test_classes_at_the_top(tmp_path: Path) -> None:
    """Without split folders the images are split, each used once, labelled by folder; other files are passed over."""
    _fill(tmp_path / "images" / "cat", 10, level=0)
    _fill(tmp_path / "images" / "dog" / "big", 10, level=100)
    (tmp_path / "images" / "dog" / "notes.txt").write_text("no image", encoding="utf-8")
    prepared = data.prepare(_component(tmp_path / "images", test_fraction=0.2, val_fraction=0.25), tmp_path / "prepared")
    assert prepared.classes == ("cat", "dog")
    assert prepared.ranges == {"train": (0, 12), "val": (12, 16), "test": (16, 20)}
    assert sorted(prepared.image_NHWC[:, 0, 0, 0].tolist()) == [*range(10), *range(100, 110)]
    assert ((prepared.image_NHWC[:, 0, 0, 0] >= 100) == (prepared.label_N == 1)).all()


@pytest.mark.parametrize("held", ["test", "val"])
def test_train_and_one_other_folder(tmp_path: Path, held: str) -> None:
    """train plus one of test and val: that one is the test split, val is taken from train."""
    for label, name in enumerate(("cat", "dog")):
        _fill(tmp_path / "images" / "train" / name, 10, level=100 * label)
        _fill(tmp_path / "images" / held / name, 4, level=100 * label + 50)
    prepared = data.prepare(_component(tmp_path / "images"), tmp_path / "prepared")
    assert prepared.ranges == {"train": (0, 18), "val": (18, 20), "test": (20, 28)}
    assert _levels(prepared, "test") == [*range(50, 54), *range(150, 154)]


def test_all_three_folders(tmp_path: Path) -> None:
    """train, val and test folders are taken as they are."""
    for start, part, number in ((0, "train", 10), (50, "val", 3), (80, "test", 4)):
        for label, name in enumerate(("cat", "dog")):
            _fill(tmp_path / "images" / part / name, number, level=start + 100 * label)
    prepared = data.prepare(_component(tmp_path / "images"), tmp_path / "prepared")
    assert _levels(prepared, "train") == [*range(10), *range(100, 110)]
    assert _levels(prepared, "val") == [*range(50, 53), *range(150, 153)]
    assert _levels(prepared, "test") == [*range(80, 84), *range(180, 184)]


def test_grey_stays_grey_and_mixed_becomes_rgb(tmp_path: Path) -> None:
    """All grey: one channel; one image with colour: three."""
    _fill(tmp_path / "grey" / "a", 10, grey=True)
    _fill(tmp_path / "grey" / "b", 10, grey=True)
    assert data.prepare(_component(tmp_path / "grey"), tmp_path / "prepared").channels == 1
    _fill(tmp_path / "grey" / "c", 5)
    assert data.prepare(_component(tmp_path / "grey", size=6), tmp_path / "prepared").channels == 3


def test_size(tmp_path: Path) -> None:
    """Images of different sizes need the option size; with it they have one size."""
    _fill(tmp_path / "images" / "a", 10)
    _fill(tmp_path / "images" / "b", 10, side=9)
    with pytest.raises(DataError, match=r"b/\d+\.png: the image has 9x9 pixels.*Set the option size"):
        data.prepare(_component(tmp_path / "images"), tmp_path / "prepared")
    assert data.prepare(_component(tmp_path / "images", size=8), tmp_path / "prepared").image_NHWC.shape == (20, 8, 8, 3)


def test_broken_image_is_named(tmp_path: Path) -> None:
    """A file that does not decode is named."""
    _fill(tmp_path / "images" / "a", 10)
    (tmp_path / "images" / "a" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"a/004\.png: the image does not decode"):
        data.prepare(_component(tmp_path / "images"), tmp_path / "prepared")


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    """16-bit images are refused by name: converting them to 8 bits would clip."""
    _fill(tmp_path / "images" / "a", 10)
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(tmp_path / "images" / "a" / "003.png")
    with pytest.raises(DataError, match=r"a/003\.png: images with pixels of mode 'I;16'"):
        data.prepare(_component(tmp_path / "images", grey=True), tmp_path / "prepared")


def test_wrong_roots(tmp_path: Path) -> None:
    """A missing folder, one without classes, classes without images and an unknown class each say what is wrong."""
    _fill(tmp_path / "images" / "train" / "cat", 4)
    _fill(tmp_path / "images" / "test" / "cats", 4)
    (tmp_path / "bare").mkdir()
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    for root, message in (
        ("image", "is no folder. Did you mean 'images'"),
        ("bare", "has no folders. Put the images into one folder a class"),
        ("hollow", "has no image files"),
        ("images", "has a class 'cats' that the training folder lacks. Did you mean 'cat'"),
    ):
        with pytest.raises(DataError, match=message):
            data.prepare(_component(tmp_path / root), tmp_path / "prepared")
