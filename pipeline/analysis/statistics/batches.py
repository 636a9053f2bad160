"""Samples of one size together, and the rounding noise that all tests allow for. Letters: C cells, N values of a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Floats = NDArray[np.float64]

NOISE = 1e-12  # of the largest value, or of 1 where all are smaller; metrics are fractions, read off floats that are right to 1e-16


def by_size(samples: Sequence[Sequence[float]]) -> Iterator[tuple[list[int], Floats]]:
    """(places in `samples`, their values_CN) for each number of values N.

    Raises:
        ConfigError: a sample has no value, or one that is not finite.
    """
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(len(sample), []).append(place)
    for size, group in sorted(places.items()):
        if size == 0:
            raise ConfigError(f"Sample {group[0]} has no values; a statistic needs at least one. Leave cells without seeds out.")
        values_CN = np.array([samples[place] for place in group], dtype=np.float64)
        finite_C = np.isfinite(values_CN).all(axis=1)
        if not finite_C.all():
            place = group[int(np.argmin(finite_C))]
            raise ConfigError(f"Sample {place} holds {list(samples[place])}; only finite numbers are allowed. Leave diverged trials out.")
        yield group, values_CN


def checked_share(name: str, value: float) -> float:
    """`value`, which must lie strictly between 0 and 1.

    Raises:
        ConfigError: it does not.
    """
    if not 0 < value < 1:
        raise ConfigError(f"{name} must lie strictly between 0 and 1, but is {value}. 0.95 is 95 %.")
    return value


def noise(values_CN: Floats) -> Floats:
    """Size of what counts as rounding noise in each row, shape (C, 1)."""
    return np.asarray(NOISE * np.maximum(1.0, np.abs(values_CN).max(axis=1, keepdims=True)))


def with_exact_sums(values_CN: Floats) -> Floats:
    """The values, moved by less than 2^-51 N of a row's largest, such that sums of up to N of a row have no rounding error.

    Without this the last bit of a matrix product depends on the number of rows (BLAS picks another kernel), and so a cell's interval
    would depend on which other cells are there.
    """
    largest_C1 = np.abs(values_CN).max(axis=1, keepdims=True)
    _, exponent_C1 = np.frexp(values_CN.shape[1] * largest_C1)
    step_C1 = np.maximum(np.ldexp(1.0, exponent_C1 - 52), np.finfo(np.float64).tiny)  # else 0 where all values are subnormal
    return np.asarray(np.round(values_CN / step_C1) * step_C1)
