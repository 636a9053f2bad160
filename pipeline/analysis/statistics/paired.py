"""A cell against its baseline, paired by seed: every number here is made of the differences cell - baseline, one a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, stdtr

from pipeline.analysis.statistics.batches import Floats, by_size, noise
from pipeline.analysis.statistics.intervals import Interval, summarize
from pipeline.errors import UnknownNameError

Test = Literal["sign_flip", "t", "wilcoxon"]

EXACT_UP_TO = 16  # differences; 32,768 patterns of signs
FLIPS = 9_999
WILCOXON_FROM = 6  # differences that are not 0: with 5 the smallest two-sided p is 0.0625
_SEED = 20_210_902
_AT_ONCE = 2**18  # numbers of a batch; more do not stay in the processor's cache


@dataclass(frozen=True)
class Paired:
    """Differences cell - baseline of one comparison, in the unit of the metric.

    Attributes:
        n: number of pairs.
        mean: of the differences.
        sd: sample SD of the differences (ddof=1); None for one pair.
        se: sd / sqrt(n); None for one pair.
        ci: Student's t interval of the mean difference; None for one pair.
        bootstrap_ci: percentile bootstrap interval of the mean difference; None for one pair.
        p_sign_flip: two-sided sign-flip permutation test of the mean; None for one pair.
        p_t: two-sided paired t test; None for one pair, and where all differences are equal but not 0.
        p_wilcoxon: two-sided Wilcoxon signed-rank test; None with fewer than 6 differences that are not 0.
        effect: Cohen's d_z = mean / sd; None for one pair, and where all differences are equal.
        effect_corrected: d_z times Hedges' J, without bias under normal noise; None where d_z is, and for two pairs.
    """

    n: int
    mean: float
    sd: float | None
    se: float | None
    ci: Interval | None
    bootstrap_ci: Interval | None
    p_sign_flip: float | None
    p_t: float | None
    p_wilcoxon: float | None
    effect: float | None
    effect_corrected: float | None


def compare(differences: Sequence[Sequence[float]], *, confidence: float = 0.95) -> list[Paired]:
    """One comparison a row of differences, in the same order. With all differences 0 the sign-flip and the t test say p = 1.

    - Sign-flip: share of the 2^n patterns of signs whose |mean| is at least the observed one (Fisher 1935); exact up to
      n = 16, above that (b + 1) / (m + 1) over m = 9,999 drawn patterns (Phipson & Smyth 2010). Assumes that noise is symmetric about 0.
    - t = mean / (sd / sqrt(n)) with n - 1 degrees of freedom (Student 1908). Assumes normal differences.
    - Wilcoxon (1945): the sign-flip test on the ranks of |difference|, zeros dropped, ties at average ranks; exact up to n = 16, above
      that by scipy, exact up to n = 50 without ties and else by the normal approximation.
    - Hedges' J = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2)), m = n - 1 (Hedges 1981; paired: Gibbons, Hedeker & Davis 1993).

    Differences below 1e-12 of the largest (of 1, where all are smaller) are rounding noise and count as 0.

    Raises:
        ConfigError: a row is empty or not finite, or `confidence` is no share.
    """
    summaries = summarize(differences, confidence=confidence)
    tests: dict[int, tuple[float | None, ...]] = {}
    for places, difference_CN in by_size(differences):
        n = difference_CN.shape[1]
        if n == 1:
            tests |= dict.fromkeys(places, (None,) * 5)
            continue
        mean_C, sd_C = np.array([(summaries[place].mean, summaries[place].sd) for place in places]).T
        noise_C = noise(difference_CN)[:, 0]
        varies_C, moved_C = sd_C > noise_C, np.abs(mean_C) > noise_C
        effect_C = mean_C / np.where(varies_C, sd_C, np.inf)
        p_t_C = 2 * stdtr(n - 1, -np.abs(effect_C) * math.sqrt(n))
        columns = (
            _some(sign_flip_p(difference_CN), np.full(len(places), True)),
            _some(p_t_C, varies_C | ~moved_C),
            _wilcoxon_p(difference_CN),
            _some(effect_C, varies_C),
            _some(effect_C * hedges_correction(n - 1), varies_C & (n > 2)),
        )
        tests |= zip(places, zip(*columns, strict=True), strict=True)
    return [Paired(each.n, each.mean, each.sd, each.se, each.ci, each.bootstrap_ci, *tests[place]) for place, each in enumerate(summaries)]


def smallest_p(test: Test, n: int) -> float:
    """The smallest two-sided p value that n differences can have here: 1 below two pairs, else 2^(1-n); for the t test anything above 0.

    Above 16 pairs, where signs are drawn, the sign-flip test stops at 1 / 10,000.

    Raises:
        ConfigError: no such test.
    """
    checked_test(test)
    if n < 2:
        return 1.0
    if test == "t":
        return 0.0
    return 2.0 ** (1 - n) if test == "wilcoxon" or n <= EXACT_UP_TO else 1 / (FLIPS + 1)


def checked_test(test: str, known: Sequence[str] = get_args(Test)) -> None:
    """Refuse the name of a test that is not known.

    Raises:
        ConfigError: it is not.
    """
    if test not in known:
        raise UnknownNameError("test", test, known)


def hedges_correction(degrees: int) -> float:
    """Hedges' J, by which a standardised mean difference is too large on average. 0 for one degree of freedom, where it has no mean."""
    if degrees < 2:
        return 0.0
    return float(np.exp(gammaln(degrees / 2) - gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2))


def sign_flip_p(difference_CN: Floats) -> Floats:
    """Two-sided p value of the mean under random signs, for each row."""
    size_CN = np.sort(np.abs(difference_CN), axis=1)  # so that neither order nor direction changes which signs are drawn
    # Sums that differ by rounding noise are ties: 0.1 + 0.2 must not beat 0.3, and the observed signs themselves always count.
    at_least_C1 = np.abs(difference_CN.sum(axis=1, keepdims=True)) - difference_CN.shape[1] * noise(difference_CN)
    n = difference_CN.shape[1]
    exact = n <= EXACT_UP_TO
    sign_NF = _all_signs(n) if exact else _drawn_signs(n)
    patterns = sign_NF.shape[1]
    step = max(1, _AT_ONCE // patterns)
    parts = [
        (np.abs(size_CN[start : start + step] @ sign_NF) >= at_least_C1[start : start + step]).sum(axis=1)
        for start in range(0, len(size_CN), step)
    ]
    count_C = np.concatenate(parts)
    return np.asarray(count_C / patterns if exact else (count_C + 1) / (FLIPS + 1))


def _wilcoxon_p(difference_CN: Floats) -> list[float | None]:
    # To the noise, so that 0.3 - 0.2 and 0.2 - 0.1 share a rank.
    rounded_CN = np.round(difference_CN / noise(difference_CN))
    enough_C = np.count_nonzero(rounded_CN, axis=1) >= WILCOXON_FROM
    p_C = np.ones(len(rounded_CN))
    if difference_CN.shape[1] <= EXACT_UP_TO:
        p_C = _signed_rank_p(rounded_CN)
    else:
        from scipy.stats import wilcoxon  # a second to import, and seldom needed

        # Row by row: for a batch with one tie scipy leaves the exact test in all its rows.
        p_C[enough_C] = [wilcoxon(row).pvalue for row in rounded_CN[enough_C]]
    return _some(p_C, enough_C)


def _signed_rank_p(difference_CN: Floats) -> Floats:
    """scipy's exact test takes a quarter of a second a row where there are ties, as there always are among accuracies."""
    size_CN = np.abs(difference_CN)
    smaller_CN = (size_CN[:, None, :] < size_CN[:, :, None]).sum(axis=2)
    equal_CN = (size_CN[:, None, :] == size_CN[:, :, None]).sum(axis=2)
    zeros_C1 = (size_CN == 0).sum(axis=1, keepdims=True)
    rank_CN = np.sign(difference_CN) * (smaller_CN + (equal_CN + 1) / 2 - zeros_C1)
    return sign_flip_p(rank_CN)


def _some(value_C: Floats, there_C: NDArray[np.bool_]) -> list[float | None]:
    return [value if there else None for value, there in zip(value_C.tolist(), there_C.tolist(), strict=True)]


@lru_cache(maxsize=EXACT_UP_TO)
def _all_signs(n: int) -> Floats:
    """The 2^(n-1) patterns whose last sign is +; the others are their mirror images with the same |sum|."""
    bit_NF = (np.arange(2 ** (n - 1)) >> np.arange(n)[:, None]) & 1
    return np.asarray(1.0 - 2.0 * bit_NF)


@lru_cache(maxsize=16)
def _drawn_signs(n: int) -> Floats:
    return np.random.default_rng((_SEED, n)).choice((-1.0, 1.0), size=(n, FLIPS))
