"""What a dataset source hands over: images, labels and where they came from, a split each; in memory or block by block.

Letters: N rows, H W rows and columns of an image, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.data.image_data import SPLITS
from pipeline.errors import DataError


@dataclass(frozen=True)
class Blocks:
    """Images that are read on demand, so that a large source never lies in memory as a whole.

    Attributes:
        shape: (N, H, W, C) of all blocks together.
        read: starts a fresh pass over the rows, in order, as uint8 arrays of shape (n, H, W, C).
    """

    shape: tuple[int, int, int, int]
    read: Callable[[], Iterator[np.ndarray]]


def gather(image_NHWC: np.ndarray, rows_N: np.ndarray, rows_per_block: int = 4096) -> Blocks:
    """The chosen rows of an array as blocks: no second copy of the whole array."""

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(rows_N), rows_per_block):
            yield image_NHWC[rows_N[start : start + rows_per_block]]

    height, width, channels = image_NHWC.shape[1:]
    return Blocks((len(rows_N), height, width, channels), read)


@dataclass(frozen=True)
class RawSplit:
    """One split as its source knows it.

    Attributes:
        image_NHWC: uint8, an array or `Blocks`; C is 1 (grey) or 3 (RGB).
        label_N: int64 class indices.
        source_index_N: int64, the row of each image in its origin (file, table or collection).
        mask_NHW: uint8, 1 on the object; None where no masks are known.
    """

    image_NHWC: np.ndarray | Blocks
    label_N: np.ndarray
    source_index_N: np.ndarray
    mask_NHW: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label_N)

    def blocks(self) -> Iterator[np.ndarray]:
        """A pass over the images, in order."""
        return self.image_NHWC.read() if isinstance(self.image_NHWC, Blocks) else iter([self.image_NHWC])


@dataclass(frozen=True)
class RawData:
    """A dataset as its source knows it.

    Attributes:
        splits: train, val and test; val may be empty.
        classes: names of the K classes, by index.
    """

    splits: dict[str, RawSplit]
    classes: tuple[str, ...]

    def check(self, where: str) -> None:
        """Refuse what no trial could use.

        Raises:
            DataError: a split is missing, train or test is empty, shapes or types do not fit, or a label names no class.
        """
        if sorted(self.splits) != sorted(SPLITS):
            raise DataError(f"{where}: the source must give the splits {', '.join(SPLITS)}, it gave {', '.join(self.splits) or 'none'}.")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise DataError(f"{where}: class names must be given and differ from each other, got {list(self.classes)}.")
        shape = tuple(self.splits["train"].image_NHWC.shape[1:])
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise DataError(f"{where}: images must have the shape (N, H, W, 1 or 3), got (N, {', '.join(map(str, shape))}).")
        masked = {split.mask_NHW is not None for split in self.splits.values()}
        if len(masked) != 1:
            raise DataError(f"{where}: either every split has masks or none has.")
        for name, split in self.splits.items():
            if name != "val" and len(split) == 0:
                raise DataError(f"{where}: the {name} split is empty. Ask for more images or a smaller val_fraction.")
            if tuple(split.image_NHWC.shape) != (len(split), *shape) or split.source_index_N.shape != split.label_N.shape:
                raise DataError(
                    f"{where}: {name} has {len(split)} labels, {len(split.source_index_N)} source indices and images of shape "
                    f"{tuple(split.image_NHWC.shape)}; expected {(len(split), *shape)}."
                )
            if split.mask_NHW is not None and split.mask_NHW.shape != (len(split), *shape[:2]):
                raise DataError(f"{where}: masks of {name} have shape {split.mask_NHW.shape}, expected {(len(split), *shape[:2])}.")
            wrong = np.flatnonzero((split.label_N < 0) | (split.label_N >= len(self.classes)))
            if len(wrong):
                raise DataError(
                    f"{where}: label {split.label_N[wrong[0]]} in row {wrong[0]} of {name} names no class; "
                    f"labels must lie in 0..{len(self.classes) - 1}."
                )
