"""Which test images pictures are made of: the same for every trial of a dataset, by a rule and never by hand."""

from __future__ import annotations

import numpy as np

MAP_CLASSES = 6  # activation maps: the first test image of each of so many classes
POINT_CLASSES, POINTS_EACH = 10, 30  # features: so many test images of each of so many classes


def first_of_each(label_N: np.ndarray, *, classes: int, each: int) -> np.ndarray:
    """Positions of the first `each` images of each of the first `classes` classes that occur, class by class, as int64."""
    found = [np.flatnonzero(label_N == label)[:each] for label in np.unique(label_N)[:classes]]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def shown_in_maps(label_N: np.ndarray) -> np.ndarray:
    """Positions in the test split of the images whose activation maps are kept: the first one of each of the first 6 classes."""
    return first_of_each(label_N, classes=MAP_CLASSES, each=1)


def shown_as_points(label_N: np.ndarray) -> np.ndarray:
    """Positions in the test split of the images whose features are kept: the first 30 of each of the first 10 classes."""
    return first_of_each(label_N, classes=POINT_CLASSES, each=POINTS_EACH)
