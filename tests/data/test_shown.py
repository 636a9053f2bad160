"""Images for pictures: the same ones for every trial, by a rule that can be said in a sentence."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.shown import first_of_each, shown_as_points, shown_in_maps


def test_the_first_of_each_class_in_the_order_of_the_split() -> None:
    """By hand: classes by index, of those that occur, and within a class by position."""
    label_N = np.array([4, 2, 2, 0, 4, 2, 0])
    assert first_of_each(label_N, classes=2, each=2).tolist() == [3, 6, 1, 2]
    assert first_of_each(label_N, classes=9, each=1).tolist() == [3, 1, 0]
    assert first_of_each(label_N[:0], classes=2, each=2).tolist() == []


@given(labels=st.lists(st.integers(0, 30), max_size=400))
def test_never_more_than_was_promised(labels: list[int]) -> None:
    """At most 6 images for maps and 300 for points, none twice, the ones for maps among those of their class for points."""
    label_N = np.array(labels, dtype=np.int64)
    maps, points = shown_in_maps(label_N).tolist(), shown_as_points(label_N).tolist()
    assert len(maps) == min(6, len(set(labels)))
    assert len(points) == sum(min(30, labels.count(label)) for label in sorted(set(labels))[:10])
    assert len(set(points)) == len(points)
    assert set(maps) <= set(points)
    assert all(labels.index(labels[i]) == i for i in maps)
