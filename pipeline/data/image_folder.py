"""Image files in one folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data import register
from pipeline.data.decode import decoded
from pipeline.data.raw import RawData, RawSplit
from pipeline.data.splits import assign
from pipeline.errors import DataError, did_you_mean

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@register("image_folder", label="image folder")
def image_folder(
    root: str,
    size: int | None = None,
    grey: bool | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed_split: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
) -> RawData:
    """Images in `root/<class>/`, or in `root/train/<class>/` and `root/test/<class>/` (or `root/val/<class>/`).

    When train, val and test folders are all there they are taken as they are, and `val_fraction` is not used. With train and only
    one of test and val, that one is the test split. Folders inside a class folder are searched too; other files are passed over.
    `source_index` counts the image files by sorted path, those of the training folder first, then test, then val.

    Args:
        root: the folder.
        size: scale the shorter side to `size` pixels and cut out the centre square; null: images must be of one size.
        grey: one channel, or three; null: one when all images are grey.
        val_fraction: share of the training images held out as val, the same of every class; 0 leaves val empty.
        test_fraction: share held out as test when there is no folder for it.
        seed_split: seed of the subsets and splits.
        max_train: keep this many training images, every class in proportion, val among them unless val has its own folder.
        max_test: likewise for test images.

    Raises:
        ConfigError: an option is out of range.
        DataError: the folder is missing or has no images, or an image cannot be read.
    """
    top = Path(root)
    if not top.is_dir():
        raise DataError(f"root {root!r} is no folder.{_near(top)} Give a folder with one folder of images a class.")
    parted = (top / "train").is_dir()
    train_root = top / "train" if parted else top
    held = [top / split for split in ("test", "val") if parted and (top / split).is_dir()]
    classes = _subfolders(train_root)
    if not classes:
        raise DataError(f"{train_root} has no folders. Put the images into one folder a class, e.g. {train_root / 'cat' / '1.png'}.")
    files, label_N = _list(train_root, classes)
    origin_N = np.zeros(len(files), dtype=np.int64)
    for number, part in enumerate(held, start=1):
        more, labels = _list(part, classes)
        files, label_N = files + more, np.concatenate([label_N, labels])
        origin_N = np.concatenate([origin_N, np.full(len(more), number)])
    train_rows, test_rows, val_rows = (np.flatnonzero(origin_N == number) for number in range(3))
    chosen = assign(
        label_N[train_rows], label_N[test_rows] if held else None, val_fraction=0.0 if len(held) == 2 else val_fraction,
        test_fraction=test_fraction, seed_split=seed_split, max_train=max_train, max_test=max_test,
    )  # fmt: skip
    rows = {
        "train": train_rows[chosen["train"]],
        "val": val_rows if len(held) == 2 else train_rows[chosen["val"]],
        "test": (test_rows if held else train_rows)[chosen["test"]],
    }

    def read(numbers: np.ndarray) -> Iterator[tuple[str, bytes]]:
        for number in numbers:
            try:
                yield str(files[number]), files[number].read_bytes()
            except OSError as error:
                raise DataError(f"{files[number]} cannot be read: {error.strerror}.") from error

    blocks = decoded({split: (read, rows[split]) for split in rows}, size=size, grey=grey)
    return RawData({split: RawSplit(blocks[split], label_N[rows[split]], rows[split]) for split in rows}, tuple(classes))


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list(folder: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """(image files, label_N), class by class in sorted order."""
    unknown = [name for name in _subfolders(folder) if name not in classes]
    if unknown:
        raise DataError(f"{folder} has a class {unknown[0]!r} that the training folder lacks.{did_you_mean(unknown[0], classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        files += own
        labels += [label] * len(own)
    if not files:
        raise DataError(f"{folder} has no image files in its class folders. Known endings: {', '.join(sorted(EXTENSIONS))}.")
    return files, np.array(labels, dtype=np.int64)


def _near(top: Path) -> str:
    return did_you_mean(top.name, [path.name for path in top.parent.iterdir()]) if top.parent.is_dir() else ""
