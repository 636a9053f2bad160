"""How well maps find the object, by metrics of weakly supervised localisation, over a whole split.

Letters: B batch, H W feature map, Y X image, R regions, T thresholds.

A map is resized bilinearly to the image, scaled to [0, 1] and, but for the pointing game, cut to 8 bits, as the reference code of
Choe et al. (CVPR 2020, arXiv 2001.07437) does. Images whose mask is empty do not count in any of these metrics.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.maps import min_max
from pipeline.training.components import THRESHOLDS, components

DELTAS = (0.3, 0.5, 0.7)  # MaxBoxAccV2; MaxBoxAcc takes the middle one
LEVELS = 256
CENTRE_SIGMA = 0.25  # of the image's height and width
CHUNK_PIXELS = 2**18  # pixels whose components are held at a time: 30 MiB for smooth maps, 250 MiB for pure noise


def resize(map_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at the size of the image, scaled to [0, 1] an image; a constant map becomes zeros.

    A resized constant varies by rounding, which scaling would stretch over [0, 1]: such a map is made zero before.
    """
    map_BHW = map_BHW.float()
    flat_B11 = (map_BHW.amax(dim=(1, 2)) <= map_BHW.amin(dim=(1, 2)))[:, None, None]
    map_BHW = map_BHW.masked_fill(flat_B11, 0.0)
    return min_max(F.interpolate(map_BHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0])


def to_levels(map_BYX: Tensor) -> Tensor:
    """A map in [0, 1] as uint8 levels, rounded down."""
    return (map_BYX * (LEVELS - 1)).to(torch.uint8)


def points_at(map_BYX: Tensor, mask_BYX: Tensor) -> Tensor:
    """Pointing game (Zhang et al., ECCV 2016, arXiv 1608.00507): 1 where the highest pixel lies on the object, else 0, an image.

    The mask is exact, so there is no tolerance around it. Of equal pixels the first in reading order points. A constant map points
    nowhere: it counts as a random point, with the share of the image that the mask covers.
    """
    flat_BP, on_BP = map_BYX.flatten(1), mask_BYX.flatten(1).float()
    hit_B = on_BP.gather(1, flat_BP.argmax(1, keepdim=True))[:, 0]
    return torch.where(flat_BP.amax(1) > flat_BP.amin(1), hit_B, on_BP.mean(1))


def object_sides(mask_BYX: Tensor) -> np.ndarray:
    """Box around the mask as sides_4B = -top, -left, bottom, right, inclusive; the mask must not be empty."""
    sides = []
    for on_BL in (mask_BYX.any(2), mask_BYX.any(1)):
        on = on_BL.cpu().numpy()
        sides.append((-on.argmax(1), on.shape[1] - 1 - on[:, ::-1].argmax(1)))
    (top_B, bottom_B), (left_B, right_B) = sides
    return np.stack([top_B, left_B, bottom_B, right_B]).astype(np.int16)


def box_iou(a_4: np.ndarray, b_4: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes given by their sides along the first axis; the other axes are broadcast."""

    def area(sides_4: np.ndarray) -> np.ndarray:
        top, left, bottom, right = sides_4.astype(np.int32)
        return np.maximum(bottom + top + 1, 0) * np.maximum(right + left + 1, 0)

    common = area(np.minimum(a_4, b_4))
    return common / (area(a_4) + area(b_4) - common)


def count_boxes(level_BYX: Tensor, object_4B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many images have a box right, at each threshold.

    Args:
        level_BYX: uint8.
        object_4B: boxes of the objects, see `object_sides`.

    Returns:
        largest_T: images in which the box of the largest component has an IoU of 0.5 or more.
        best_DT: images in which the box of any component has an IoU of `DELTAS` or more.
    """
    found = components(level_BYX)
    if not len(found.image_R):
        return np.zeros(THRESHOLDS, dtype=np.int64), np.zeros((len(DELTAS), THRESHOLDS), dtype=np.int64)
    iou_RT = box_iou(found.sides_4RT, object_4B[:, found.image_R, None])
    first = np.flatnonzero(np.diff(found.image_R, prepend=-1))  # first region of each image
    size = np.diff(np.append(first, len(found.image_R)))
    largest_RT = found.pixels_RT == np.repeat(np.maximum.reduceat(found.pixels_RT, first), size, axis=0)
    # Of components of one size, the better one counts.
    largest_BT = np.maximum.reduceat(np.where(largest_RT, iou_RT, 0.0), first)
    best_BT = np.maximum.reduceat(iou_RT, first)
    return (largest_BT >= DELTAS[1]).sum(0), np.stack([(best_BT >= delta).sum(0) for delta in DELTAS])


def average_precision(on_L: np.ndarray, off_L: np.ndarray) -> float:
    """Area under the precision-recall curve of pixels, `sum over levels of precision x gain in recall` from the highest level down.

    Args:
        on_L, off_L: number of pixels on and off the object at each level; at least one is on it.
    """
    true_L, all_L = on_L[::-1].cumsum(), (on_L + off_L)[::-1].cumsum()
    precision_L = true_L / np.maximum(all_L, 1)
    return float((precision_L * on_L[::-1]).sum() / on_L.sum())


class MapMeter:
    """Metrics of one kind of map over a split, batch by batch.

    `pointing`: mean of `points_at` over images. With balanced classes that is the reference's mean over classes.
    `max_box_acc`: share of images whose box of the largest component has an IoU of 0.5 or more with the object's, at the threshold
    that is best for the whole split (Choe et al., CVPR 2020). Components have 8 neighbours and are measured by their pixels; the
    reference measures the area inside their outline. A constant map has no box.
    `max_box_acc_v2`: mean over IoUs of 0.3, 0.5 and 0.7, each at its own best threshold, where the best box of all components counts.
    `pxap`: average precision over all pixels of the split.

    A map that is not finite makes all of them NaN: a broken network is not averaged away.
    """

    def __init__(self) -> None:
        self.images = 0
        self.hits: Tensor | float = 0.0
        self.broken: Tensor | int = 0
        self.largest_T = np.zeros(THRESHOLDS, dtype=np.int64)
        self.best_DT = np.zeros((len(DELTAS), THRESHOLDS), dtype=np.int64)
        self.pixels_L2 = np.zeros((LEVELS, 2), dtype=np.int64)

    def add(self, map_BHW: Tensor, mask_BYX: Tensor, object_4B: np.ndarray) -> None:
        """Count a batch; no mask of it is empty."""
        self.images += len(map_BHW)
        self.broken = self.broken + (~map_BHW.isfinite()).sum()
        map_BHW = map_BHW.nan_to_num(0.0, 0.0, 0.0)
        step = max(1, CHUNK_PIXELS // mask_BYX[0].numel())
        for start in range(0, len(map_BHW), step):
            rows = slice(start, start + step)
            self._add(map_BHW[rows], mask_BYX[rows], object_4B[:, rows])

    def _add(self, map_BHW: Tensor, mask_BYX: Tensor, object_4B: np.ndarray) -> None:
        full_BYX = resize(map_BHW, (mask_BYX.shape[1], mask_BYX.shape[2]))
        self.hits = self.hits + points_at(full_BYX, mask_BYX).double().sum()
        level_BYX = to_levels(full_BYX)
        cell_P = level_BYX.flatten().long() * 2 + mask_BYX.flatten()
        self.pixels_L2 += torch.bincount(cell_P, minlength=2 * LEVELS).view(LEVELS, 2).cpu().numpy()
        largest_T, best_DT = count_boxes(level_BYX, object_4B)
        self.largest_T += largest_T
        self.best_DT += best_DT

    def metrics(self) -> dict[str, float]:
        """Fractions in [0, 1] by name; nothing without images."""
        if self.images == 0:
            return {}
        broken = float("nan") if int(self.broken) else 0.0
        return {
            "pointing": float(self.hits) / self.images + broken,
            "max_box_acc": float(self.largest_T.max()) / self.images + broken,
            "max_box_acc_v2": float(self.best_DT.max(axis=1).mean()) / self.images + broken,
            "pxap": average_precision(self.pixels_L2[:, 1], self.pixels_L2[:, 0]) + broken,
        }


class BaselineMeter:
    """What maps that do not look at the image get: a flat one, and a Gaussian at the centre.

    A flat map gets the object's share of the image: of its energy, as the chance that a random point hits, and as precision at any
    recall. The centre map is `exp(-((y / height)^2 + (x / width)^2) / (2 sigma^2))` around the centre with sigma = 0.25, after the
    centre-Gaussian baseline of Choe et al. (CVPR 2020); sigma is our choice, and only the centre's energy depends on it but for the
    rounding to levels.
    """

    def __init__(self) -> None:
        self.images = 0
        self.on_YX: Tensor | None = None
        self.largest_T = np.zeros(THRESHOLDS, dtype=np.int64)
        self.best_DT = np.zeros((len(DELTAS), THRESHOLDS), dtype=np.int64)

    def add(self, mask_BYX: Tensor, object_4B: np.ndarray) -> None:
        """Count a batch; no mask of it is empty."""
        if self.on_YX is None:
            _, height, width = mask_BYX.shape
            self.on_YX = torch.zeros(height, width, dtype=torch.int64)
            self.map_YX = centre_map(height, width)
            # One hill, hence one component at each threshold; whichever region holds it has the largest sides.
            self.sides_4T = components(to_levels(self.map_YX[None])).sides_4RT.max(axis=1)
        self.images += len(mask_BYX)
        self.on_YX += mask_BYX.sum(0).cpu()
        iou_BT = box_iou(self.sides_4T[:, None], object_4B[:, :, None])
        self.largest_T += (iou_BT >= DELTAS[1]).sum(0)
        self.best_DT += np.stack([(iou_BT >= delta).sum(0) for delta in DELTAS])

    def metrics(self) -> dict[str, float]:
        """`flat_*` and `centre_*`, fractions in [0, 1]; nothing without images."""
        if self.on_YX is None:
            return {}
        height, width = self.on_YX.shape
        area = float(self.on_YX.sum()) / (self.images * height * width)
        level_P = to_levels(self.map_YX).flatten().long()
        on_L = torch.bincount(level_P, weights=self.on_YX.flatten().double(), minlength=LEVELS).numpy()
        all_L = torch.bincount(level_P, minlength=LEVELS).numpy() * self.images
        return {
            "flat_pointing": area,
            "flat_pxap": area,
            "centre_energy": float((self.map_YX * self.on_YX).sum() / (self.map_YX.sum() * self.images)),
            "centre_pointing": float(self.on_YX[height // 2, width // 2]) / self.images,
            "centre_max_box_acc": float(self.largest_T.max()) / self.images,
            "centre_max_box_acc_v2": float(self.best_DT.max(axis=1).mean()) / self.images,
            "centre_pxap": average_precision(on_L, all_L - on_L),
        }


def centre_map(height: int, width: int) -> Tensor:
    """The centre baseline's map_YX in [0, 1], float64."""
    y_Y, x_X = ((torch.arange(length, dtype=torch.float64) + 0.5) / length - 0.5 for length in (height, width))
    return min_max(torch.exp(-(y_Y[:, None].square() + x_X.square()) / (2 * CENTRE_SIGMA**2))[None])[0]
