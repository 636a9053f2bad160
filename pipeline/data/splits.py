"""Stratified splits and subsets, made once and drawn from named seed streams."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConfigError
from pipeline.seeds import derive


def stratified_split(label_N: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `fraction` of every class.

    Of a class with n rows, `fraction * n` rows are held out, rounded up or down so that the total comes nearest to
    `fraction * N`; at least one row of every class is kept.

    Returns:
        (keep_indices, held_out_indices), both rising.

    Raises:
        ConfigError: `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"the fraction of a split must be in [0, 1), got {fraction}")
    count_K = _class_counts(label_N)
    held_K = _apportion(fraction * count_K, round(fraction * len(label_N)), ceiling_K=np.maximum(count_K - 1, 0))
    return _draw(label_N, held_K, "stratified_split", seed)


def stratified_subset(label_N: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """Indices of `size` rows, rising, every class in proportion (rounded up or down); all rows when `size` is None or not below N.

    Raises:
        ConfigError: `size` is below 1.
    """
    if size is not None and size < 1:
        raise ConfigError(f"the size of a subset must be at least 1 or null (all), got {size}")
    if size is None or size >= len(label_N):
        return np.arange(len(label_N))
    count_K = _class_counts(label_N)
    return _draw(label_N, _apportion(count_K * (size / len(label_N)), size, ceiling_K=count_K), "stratified_subset", seed)[1]


def assign(
    train_label_N: np.ndarray,
    test_label_N: np.ndarray | None,
    *,
    val_fraction: float,
    seed_split: int,
    test_fraction: float = 0.0,
    max_train: int | None = None,
    max_test: int | None = None,
) -> dict[str, np.ndarray]:
    """Which row of the origin goes into which split.

    In this order: take test from the training rows when there is no test origin; cut both down to `max_train` and
    `max_test`; take val from the remaining training rows, so that train and val together have at most `max_train` rows.

    Returns:
        rising row numbers of train, val (both in the training origin) and test (in the test origin, or in the training
        origin when there is none).

    Raises:
        ConfigError: an option is out of range.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if test_label_N is None and not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be in (0, 1) when no test set is given, got {test_fraction}")
    for option, value in (("max_train", max_train), ("max_test", max_test)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1 or null (all rows), got {value}")
    if test_label_N is None:
        rows, test_rows = stratified_split(train_label_N, test_fraction, derive("split", "test", seed_split))
        test_label_N = train_label_N[test_rows]
    else:
        rows, test_rows = np.arange(len(train_label_N)), np.arange(len(test_label_N))
    rows = rows[stratified_subset(train_label_N[rows], max_train, derive("split", "max_train", seed_split))]
    test_rows = test_rows[stratified_subset(test_label_N, max_test, derive("split", "max_test", seed_split))]
    keep, held_out = stratified_split(train_label_N[rows], val_fraction, derive("split", "val", seed_split))
    return {"train": rows[keep], "val": rows[held_out], "test": test_rows}


def _class_counts(label_N: np.ndarray) -> np.ndarray:
    count_K: np.ndarray = np.bincount(label_N)
    return count_K


def _apportion(quota_K: np.ndarray, total: int, *, ceiling_K: np.ndarray) -> np.ndarray:
    """Largest remainders: whole numbers within 1 of the quotas, at most `ceiling_K`, with the total asked for where the ceilings allow."""
    taken_K: np.ndarray = np.minimum(np.floor(quota_K + 1e-9).astype(np.int64), ceiling_K)
    missing = max(total - int(taken_K.sum()), 0)
    order = np.argsort(-(quota_K - taken_K), kind="stable")
    raisable = order[(taken_K[order] < ceiling_K[order]) & (quota_K[order] - taken_K[order] > 1e-9)]
    taken_K[raisable[:missing]] += 1
    return taken_K


def _draw(label_N: np.ndarray, take_K: np.ndarray, purpose: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(left, taken), a stream for each class: rows added to one class do not change the draw of another."""
    taken = np.zeros(len(label_N), dtype=bool)
    for label in np.flatnonzero(take_K):
        rows = np.flatnonzero(label_N == label)
        taken[np.random.default_rng(derive("split", purpose, seed, label)).permutation(rows)[: take_K[label]]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)
