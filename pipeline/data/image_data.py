"""A prepared dataset as the pipeline sees it: arrays, splits and a digest, wherever the bytes lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One split: views into the arrays of an `ImageData`, read-only.

    Attributes:
        image_NHWC: uint8.
        label_N: int64.
        mask_NHW: uint8, 1 on the object; None where no masks are known.
    """

    image_NHWC: np.ndarray
    label_N: np.ndarray
    mask_NHW: np.ndarray | None

    def __len__(self) -> int:
        return len(self.label_N)


@dataclass(frozen=True)
class ImageData:
    """A prepared dataset. Rows lie in split order, so a split is a range and its arrays are views, not copies.

    Attributes:
        name: as the study file calls it.
        image_NHWC: uint8, all splits one after the other.
        label_N: int64 class indices.
        mask_NHW: uint8 object masks or None.
        classes: names of the classes, by index.
        ranges: split name -> (first row, row after the last).
        mean: channel means over the training split, of pixels scaled to [0, 1].
        std: channel standard deviations likewise.
        digest: sha256 over images, labels, masks, class names and splits: the part of a trial's identity that is data.
    """

    name: str
    image_NHWC: np.ndarray
    label_N: np.ndarray
    mask_NHW: np.ndarray | None
    classes: tuple[str, ...]
    ranges: dict[str, tuple[int, int]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """C of the images: 1 grey, 3 RGB."""
        return int(self.image_NHWC.shape[3])

    def split(self, name: str) -> Split:
        """The rows of one split, as views."""
        start, stop = self.ranges[name]
        masks = None if self.mask_NHW is None else self.mask_NHW[start:stop]
        return Split(self.image_NHWC[start:stop], self.label_N[start:stop], masks)
