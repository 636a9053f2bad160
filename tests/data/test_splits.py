"""Stratified splits and subsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.splits import assign, stratified_split, stratified_subset
from pipeline.errors import ConfigError

labels = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(lambda values: np.array(values, dtype=np.int64))
fractions = st.floats(0, 0.99)
seeds = st.integers(0, 2**40)


@settings(deadline=None, derandomize=True)
@given(labels, fractions, seeds)
def test_split_properties(label_N: np.ndarray, fraction: float, seed: int) -> None:
    """The two parts are disjoint and rising, cover all rows, hold every class in proportion, and keep a row of every class."""
    keep, held_out = stratified_split(label_N, fraction, seed)
    assert sorted([*keep, *held_out]) == list(range(len(label_N)))
    assert (np.diff(keep) > 0).all()
    assert (np.diff(held_out) > 0).all()
    for label in np.unique(label_N):
        count, held = (label_N == label).sum(), (label_N[held_out] == label).sum()
        assert abs(held - fraction * count) <= 1
        assert held < count


@settings(deadline=None, derandomize=True)
@given(labels, st.integers(1, 150), seeds)
def test_subset_properties(label_N: np.ndarray, size: int, seed: int) -> None:
    """A subset has the size asked for (or all rows), rising rows, and every class in proportion."""
    rows = stratified_subset(label_N, size, seed)
    assert len(rows) == min(size, len(label_N))
    assert (np.diff(rows) > 0).all()
    for label in np.unique(label_N):
        assert abs((label_N[rows] == label).sum() - len(rows) * (label_N == label).mean()) <= 1


def test_split_total_is_the_nearest_to_the_fraction() -> None:
    """Rounding is spread over the classes: 10 % of 5 x 45 rows is 22, not 5 x 4 or 5 x 5."""
    keep, held_out = stratified_split(np.repeat(np.arange(5), 45), 0.1, 0)
    assert (len(keep), len(held_out)) == (203, 22)


def test_same_seed_same_split_other_seed_another() -> None:
    """The seed, and only the seed, decides which rows are held out."""
    label_N = np.arange(200) % 4
    first, again, other = (stratified_split(label_N, 0.25, seed)[1] for seed in (3, 3, 4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_rows_added_to_one_class_leave_the_others_alone() -> None:
    """Each class draws from a stream of its own."""
    label_N = np.repeat([0, 1], 40)
    more_N = np.concatenate([label_N, np.full(40, 1)])
    first, second = (stratified_split(values, 0.25, 0)[1] for values in (label_N, more_N))
    assert first[label_N[first] == 0].tolist() == second[more_N[second] == 0].tolist()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    """A fraction outside [0, 1) is refused with the value."""
    with pytest.raises(ConfigError, match=r"\[0, 1\), got"):
        stratified_split(np.zeros(3, dtype=np.int64), fraction, 0)


def test_assign_takes_test_then_subset_then_val() -> None:
    """Without a test origin the three splits are disjoint, and train and val share the rows of max_train."""
    label_N = np.arange(400) % 4
    rows = assign(label_N, None, val_fraction=0.25, test_fraction=0.5, seed_split=1, max_train=80, max_test=40)
    assert {split: len(part) for split, part in rows.items()} == {"train": 60, "val": 20, "test": 40}
    assert len(np.unique(np.concatenate(list(rows.values())))) == 120
    assert all((np.bincount(label_N[part]) == len(part) // 4).all() for part in rows.values())


def test_assign_keeps_test_whatever_the_training_size() -> None:
    """A smaller max_train does not change the test rows, so learning curves share one test set."""
    label_N = np.arange(400) % 4
    small, large = (assign(label_N, None, val_fraction=0.1, test_fraction=0.2, seed_split=0, max_train=size) for size in (40, None))
    assert small["test"].tolist() == large["test"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction must be in"),
        ({"test_fraction": 0.0}, "test_fraction must be in"),
        ({"max_train": 0}, "max_train must be at least 1"),
        ({"max_test": -1}, "max_test must be at least 1"),
    ],
)
def test_assign_refuses_bad_options(options: dict[str, float], message: str) -> None:
    """An option out of range is refused by its name."""
    with pytest.raises(ConfigError, match=message):
        assign(np.arange(20) % 2, None, **{"val_fraction": 0.1, "test_fraction": 0.2, "seed_split": 0} | options)  # type: ignore[arg-type]
