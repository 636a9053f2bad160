"""What the seeds of one cell say: mean, sample SD, standard error, median and two confidence intervals of the mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pipeline.analysis.statistics.batches import Floats, by_size, checked_share, with_exact_sums

EXACT_UP_TO = 6  # values; 462 different resamples. With 7 the exact way takes longer than the drawn one
RESAMPLES = 9_999
_SEED = 20_210_901
_PILOT = 999  # draws that tell where the ends of an interval are to be looked for
_AT_ONCE = 2**18  # numbers of a batch; more do not stay in the processor's cache

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """The values of one cell, one a seed, in their own unit.

    Attributes:
        n: number of values.
        mean, median: of the values.
        sd: sample SD (ddof=1); None for one value.
        se: standard error of the mean, sd / sqrt(n); None for one value.
        ci: Student's t interval of the mean; None for one value.
        bootstrap_ci: percentile bootstrap interval of the mean; None for one value.
    """

    n: int
    mean: float
    sd: float | None
    se: float | None
    median: float
    ci: Interval | None
    bootstrap_ci: Interval | None


def summarize(samples: Sequence[Sequence[float]], *, confidence: float = 0.95) -> list[Summary]:
    """One summary a sample, in the same order.

    t interval: mean +- t_{(1 + confidence) / 2, n - 1} sd / sqrt(n) (Student 1908).
    Bootstrap interval: percentiles of the resampled mean (Efron 1979); exact over all n^n resamples up to n = 6, above that 9,999 draws
    that depend on n alone. Each summary depends on its own values only, not on their order nor on the other samples.

    Raises:
        ConfigError: a sample is empty or not finite, or `confidence` is no share.
    """
    checked_share("confidence", confidence)
    summaries: dict[int, Summary] = {}
    for places, values_CN in by_size(samples):
        summaries |= zip(places, _of_one_size(values_CN, confidence), strict=True)
    return [summaries[place] for place in range(len(samples))]


def _of_one_size(values_CN: Floats, confidence: float) -> list[Summary]:
    n = values_CN.shape[1]
    # math.fsum is exact, so the order of the seeds cannot move the last digit.
    mean_C = np.array([math.fsum(row) / n for row in values_CN.tolist()])
    medians = np.median(values_CN, axis=1).tolist()
    if n == 1:
        return [Summary(1, mean, None, None, median, None, None) for mean, median in zip(mean_C.tolist(), medians, strict=True)]
    squares_CN = (values_CN - mean_C[:, None]) ** 2
    sd_C = np.sqrt([math.fsum(row) / (n - 1) for row in squares_CN.tolist()])
    se_C = sd_C / math.sqrt(n)
    half_C = float(stdtrit(n - 1, (1 + confidence) / 2)) * se_C
    low_C, high_C = _bootstrap(values_CN, confidence)
    columns = (mean_C, sd_C, se_C, medians, mean_C - half_C, mean_C + half_C, low_C, high_C)
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return [Summary(n, mean, sd, se, median, (low, high), (least, most)) for mean, sd, se, median, low, high, least, most in rows]


def _bootstrap(values_CN: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Ends of the percentile interval: the smallest v with P(mean <= v) >= tail, and the largest with P(mean >= v) >= tail."""
    n, tail = values_CN.shape[1], (1 - confidence) / 2
    sorted_CN = np.sort(with_exact_sums(values_CN), axis=1)
    counts_NB, weight_B = _all_resamples(n) if n <= EXACT_UP_TO else (_drawn_resamples(n), None)
    step = max(1, _AT_ONCE // counts_NB.shape[1])
    parts = []
    for start in range(0, len(sorted_CN), step):
        sum_CB = sorted_CN[start : start + step] @ counts_NB
        parts.append(_drawn_ends(sum_CB, tail) if weight_B is None else _weighted_ends(sum_CB, weight_B, tail))
    low_C, high_C = (np.concatenate(ends) / n for ends in zip(*parts, strict=True))
    return low_C, high_C


def _weighted_ends(sum_CB: Floats, weight_B: NDArray[np.int64], tail: float) -> tuple[Floats, Floats]:
    order_CB = np.argsort(sum_CB, axis=1)
    ordered_CB = np.take_along_axis(sum_CB, order_CB, axis=1)
    up_to_CB = np.cumsum(weight_B[order_CB], axis=1)
    enough = tail * float(weight_B.sum()) * (1 - 1e-12)  # a tail that is reached exactly is reached
    low_C1 = np.argmax(up_to_CB >= enough, axis=1)[:, None]
    high_C1 = np.count_nonzero(up_to_CB <= weight_B.sum() - enough, axis=1)[:, None]
    return np.take_along_axis(ordered_CB, low_C1, axis=1)[:, 0], np.take_along_axis(ordered_CB, high_C1, axis=1)[:, 0]


def _drawn_ends(sum_CB: Floats, tail: float) -> tuple[Floats, Floats]:
    rank = max(1, math.ceil(tail * RESAMPLES * (1 - 1e-12)))
    return _smallest(sum_CB, rank), -_smallest(-sum_CB, rank)


def _smallest(value_CB: Floats, rank: int) -> Floats:
    """The rank-th smallest of each row, looked for below a quantile of the first draws: three times as fast as among all of them."""
    likely_C = np.sort(value_CB[:, :_PILOT], axis=1)[:, min(_PILOT - 1, 2 * rank * _PILOT // RESAMPLES)]
    found = []
    for row, likely in zip(value_CB, likely_C.tolist(), strict=True):
        below = row[row <= likely]
        found.append(np.partition(below if len(below) >= rank else row, rank - 1)[rank - 1])
    return np.array(found)


@lru_cache(maxsize=EXACT_UP_TO)
def _all_resamples(n: int) -> tuple[Floats, NDArray[np.int64]]:
    """(how often each of n values is drawn, in how many of the n^n ordered resamples that is so) for every multiset of n out of n."""
    multisets = list(itertools.combinations_with_replacement(range(n), n))
    counts_BN = np.array([[multiset.count(value) for value in range(n)] for multiset in multisets])
    weights = [math.factorial(n) // math.prod(map(math.factorial, row)) for row in counts_BN.tolist()]
    return np.ascontiguousarray(counts_BN.T, dtype=np.float64), np.array(weights)


@lru_cache(maxsize=16)
def _drawn_resamples(n: int) -> Floats:
    counts_BN = np.random.default_rng((_SEED, n)).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return np.ascontiguousarray(counts_BN.T, dtype=np.float64)
