"""How many seeds a difference needs, and which difference the seeds at hand can show: power of the paired test."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, stdtrit
from scipy.stats import nct

from pipeline.analysis.statistics.batches import Floats, checked_share, noise
from pipeline.analysis.statistics.intervals import Interval
from pipeline.analysis.statistics.paired import EXACT_UP_TO, checked_test, smallest_p
from pipeline.errors import ConfigError

PlannedTest = Literal["sign_flip", "t"]

SIMULATIONS = 4_000
MOST_SEEDS = 1_000  # beyond these no number of seeds is named
_ROOMY = 16  # attainable p values below alpha from which the sign-flip test is as good as the t test (docs/statistics.md)
_SEED = 20_210_903


def smallest_difference(
    sd: float, n: int, *, alpha: float = 0.05, power: float = 0.8, comparisons: int = 1, test: PlannedTest = "sign_flip"
) -> float | None:
    """The smallest true mean difference that n pairs show with the given power, in the unit of `sd`; None where none is large enough.

    Power of the two-sided paired t test at level a = alpha / comparisons (Holm's first step), for normal differences:
        P(T > t) + P(T < -t), T noncentral t with n - 1 degrees of freedom and noncentrality sqrt(n) difference / sd, t = t_{1 - a/2, n-1}
    The sign-flip test has the same power but where it has few attainable p values below a: it is then simulated (4,000 seeded draws, so
    that a result is right to about 2 %), and None where 2^(1-n) > a.

    Args:
        sd: sample SD of the paired differences; above 0, as equal differences do not tell how far apart others will be.

    Raises:
        ConfigError: an argument out of its range, or an unknown test.
    """
    _check(sd, alpha, power, comparisons, test)
    effect = _smallest_effect(n, alpha / comparisons, power, test)
    return None if effect is None else effect * sd


def seeds_needed(
    sd: float,
    difference: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    test: PlannedTest = "sign_flip",
    limit: int = MOST_SEEDS,
) -> int | None:
    """The number of pairs from which `smallest_difference` is at most `difference`; None where more than `limit` are needed.

    Raises:
        ConfigError: an argument out of its range, or an unknown test.
    """
    _check(sd, alpha, power, comparisons, test)
    check_goal(power, difference, alpha=alpha)
    level, effect = alpha / comparisons, difference / sd

    def enough(n: int) -> bool:
        return smallest_p(test, n) <= level and _has_power(n, effect, level, power, test)

    for n in range(2, min(limit, EXACT_UP_TO) + 1):
        if enough(n):
            return n
    # From here on nothing is simulated, so power rises with n.
    n = bisect_left(range(limit + 1), True, lo=min(limit, EXACT_UP_TO) + 1, key=enough)
    return n if n <= limit else None


def check_goal(power: float, difference: float | None, *, alpha: float = 0.05) -> None:
    """Refuse a power or a difference that nobody can plan for.

    Raises:
        ConfigError: the power is no share, or not above alpha; the difference is not finite and above 0.
    """
    checked_share("power", power)
    if power <= alpha:
        raise ConfigError(f"power must be above alpha, but is {power} with alpha = {alpha}: no effect at all has that much.")
    if difference is not None and not (math.isfinite(difference) and difference > 0):
        raise ConfigError(
            f"The difference to be shown must be finite and above 0, but is {difference}. "
            "Name the size of the smallest one that matters; the test looks in both directions."
        )


def pooled_sd(sds: Sequence[float | None], ns: Sequence[int]) -> float | None:
    """One SD of several samples: sqrt(sum (n_i - 1) sd_i^2 / sum (n_i - 1)); samples of one value do not count. None where all are such.

    Raises:
        ConfigError: the two sequences differ in length.
    """
    if len(sds) != len(ns):
        raise ConfigError(f"There are {len(sds)} SDs but {len(ns)} numbers of values; give one of each a sample.")
    known = [(sd, n - 1) for sd, n in zip(sds, ns, strict=True) if sd is not None and n > 1]
    if not known:
        return None
    return math.sqrt(math.fsum(degrees * sd**2 for sd, degrees in known) / sum(degrees for _, degrees in known))


def sd_interval(sd: float, degrees: int, confidence: float = 0.95) -> Interval:
    """Interval of the true SD behind a sample SD of normal values: sd sqrt(degrees / chi2), chi2 at both tails.

    Args:
        degrees: degrees of freedom: n - 1, or the sum of n_i - 1 of a pooled SD.

    Raises:
        ConfigError: an argument out of its range.
    """
    checked_share("confidence", confidence)
    if not (math.isfinite(sd) and sd > 0 and degrees >= 1):
        raise ConfigError(f"An SD must be above 0 and have at least one degree of freedom, but got {sd} with {degrees}. Run more seeds.")
    tail = (1 - confidence) / 2
    return tuple(sd * math.sqrt(degrees / float(chdtri(degrees, above))) for above in (tail, 1 - tail))  # type: ignore[return-value]


def _check(sd: float, alpha: float, power: float, comparisons: int, test: PlannedTest) -> None:
    checked_test(test, get_args(PlannedTest))
    checked_share("alpha", alpha)
    check_goal(power, None, alpha=alpha)
    if comparisons < 1:
        raise ConfigError(f"comparisons must be at least 1, but is {comparisons}. It is the number of differences in the table.")
    if not (math.isfinite(sd) and sd > 0):
        raise ConfigError(
            f"The SD of the differences must be finite and above 0, but is {sd}. "
            "One seed has none, and equal differences do not tell it: run more seeds."
        )


@lru_cache(maxsize=1024)
def _smallest_effect(n: int, level: float, power: float, test: PlannedTest) -> float | None:
    """Smallest mean / SD of the differences with the given power."""
    if n < 2 or smallest_p(test, n) > level:
        return None
    effect = _root(lambda effect: _t_power(n, effect, level) - power, 0.0, 1e-9)
    if not _coarse(n, level, test) or _simulated_power(n, effect, level) >= power:
        return effect
    return _root(lambda effect: _simulated_power(n, effect, level) - power, effect, 1e-3)


def _root(excess: Callable[[float], float], start: float, tolerance: float) -> float:
    end = start + 1.0
    while excess(end) < 0:
        end *= 2
    return float(brentq(excess, start, end, xtol=tolerance))


def _has_power(n: int, effect: float, level: float, power: float, test: PlannedTest) -> bool:
    return _t_power(n, effect, level) >= power and (not _coarse(n, level, test) or _simulated_power(n, effect, level) >= power)


def _coarse(n: int, level: float, test: PlannedTest) -> bool:
    """Whether the test has too few attainable p values up to the level for the power of the t test to be its own."""
    return test == "sign_flip" and n <= EXACT_UP_TO and level < _ROOMY * smallest_p("sign_flip", n)


def _t_power(n: int, effect: float, level: float) -> float:
    shift = effect * math.sqrt(n)
    # The lower tail as the upper one of the mirror image: scipy's own lower tail is NaN where it is very small.
    return float(nct.sf(stdtrit(n - 1, 1 - level / 2), n - 1, (shift, -shift)).sum())


def _simulated_power(n: int, effect: float, level: float) -> float:
    return float(np.mean(_rejects(_standard_normal(n) + effect, level)))


def _rejects(difference_CN: Floats, level: float) -> NDArray[np.bool_]:
    """Whether the exact sign-flip p of each row is at most the level; only the patterns that can matter are counted, for speed."""
    n = difference_CN.shape[1]
    size_CN = np.sort(np.abs(difference_CN), axis=1)
    at_least_C1 = np.abs(difference_CN.sum(axis=1, keepdims=True)) - n * noise(difference_CN)
    count_C = (np.abs(size_CN @ _extreme_signs(n, math.floor(level * 2 ** (n - 1)))) >= at_least_C1).sum(axis=1)
    return np.asarray(count_C / 2 ** (n - 1) <= level)


@lru_cache(maxsize=64)
def _extreme_signs(n: int, most: int) -> Floats:
    """Patterns of signs of n sizes in ascending order, shape (n, patterns), mirror images left out: all that can be among the first `most`.

    First is the largest |sum|. Flipping a set of sizes takes twice their sum off it. Of a set whose ranks (from 1) add up to r, lowering
    one rank by one, r times, makes r other sets that take off no more; so where r > `most`, more than `most` patterns come before.
    """
    sizes = range(math.isqrt(2 * most) + 1)  # ranks of more add up to more than `most`
    flipped = [ranks for size in sizes for ranks in combinations(range(1, min(n, most) + 1), size) if sum(ranks) <= most]
    sign_FN = np.array([[-1.0 if rank in ranks else 1.0 for rank in range(1, n + 1)] for ranks in flipped])
    return np.unique(sign_FN * sign_FN[:, -1:], axis=0).T


@lru_cache(maxsize=EXACT_UP_TO)
def _standard_normal(n: int) -> Floats:
    return np.random.default_rng((_SEED, n)).standard_normal((SIMULATIONS, n))
