"""Arms over many rows (datasets, backbones): which is ahead, and whether the order is more than chance. Letters: N rows, K arms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.analysis.statistics.batches import NOISE, Floats, checked_share, noise
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Rankings:
    """Ranks of K arms over N rows (blocks).

    Attributes:
        names: the arms, in the order they were given.
        blocks: number of rows N.
        average_ranks: mean rank of each arm over the rows, aligned with `names`; 1 is best, ties share the average of their ranks.
        friedman_statistic: Friedman's chi-square, corrected for ties; None for two arms.
        friedman_p: its p value from the chi-square distribution; None for two arms.
        iman_davenport_p: p value of the less conservative F form; None for two arms.
        critical_difference: two arms whose average ranks differ by more are told apart by Nemenyi's test.
        cliques: maximal groups of two or more arms within one critical difference, best first in and between the groups.
    """

    names: tuple[str, ...]
    blocks: int
    average_ranks: tuple[float, ...]
    friedman_statistic: float | None
    friedman_p: float | None
    iman_davenport_p: float | None
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WinTieLoss:
    """How often one arm is ahead of another over rows.

    Attributes:
        wins, losses: rows with a significant difference for, and against, the arm.
        ties: rows without a significant difference.
        wins_by_mean, ties_by_mean, losses_by_mean: the same by the sign of the mean difference alone; a tie is then a difference of 0.
    """

    wins: int
    ties: int
    losses: int
    wins_by_mean: int
    ties_by_mean: int
    losses_by_mean: int


def rank_arms(values_NK: npt.ArrayLike, names: Sequence[str], *, higher_is_better: bool, alpha: float = 0.05) -> Rankings:
    """Average ranks with Friedman's test and Nemenyi's critical difference (Demsar, JMLR 7, 2006).

    With average ranks R_j over N rows, before the correction for ties:
        chi2 = 12 N / (K (K + 1)) (sum_j R_j^2 - K (K + 1)^2 / 4), K - 1 degrees of freedom (Friedman 1937)
        F = (N - 1) chi2 / (N (K - 1) - chi2), K - 1 and (K - 1)(N - 1) degrees of freedom (Iman & Davenport 1980)
        critical difference = q_{alpha, K} sqrt(K (K + 1) / (6 N)), q from the Studentized range over sqrt(2) (Nemenyi 1963)
    Where all rows rank the arms alike F is infinite; its p value is then the exact one, (1 / number of orders)^(N - 1).
    With two arms Friedman's test is a rough form of the sign test and its numbers are None: use `compare` on the row means instead.

    Args:
        values_NK: one number a row and arm, e.g. means over seeds; rows that lack an arm must be left out before.
        names: of the K arms.
        alpha: level of the critical difference.

    Raises:
        ConfigError: fewer than two rows or arms, a value that is not finite, names that do not fit, or `alpha` is no share.
    """
    from scipy.stats import rankdata  # scipy.stats takes a second to import, and most tables need no ranks

    checked_share("alpha", alpha)
    value_NK = _checked_table(values_NK, names)
    blocks, arms = value_NK.shape
    rounded_NK = np.round(value_NK / noise(value_NK))  # means that differ by rounding noise are ties
    rank_NK = rankdata(-rounded_NK if higher_is_better else rounded_NK, axis=1)
    average_K = rank_NK.mean(axis=0)
    difference = _nemenyi_q(arms, alpha) * math.sqrt(arms * (arms + 1) / (6 * blocks))
    statistic, chi_square_p, f_p = _friedman(rank_NK) if arms > 2 else (None, None, None)
    averages = tuple(average_K.tolist())
    return Rankings(tuple(names), blocks, averages, statistic, chi_square_p, f_p, difference, _cliques(names, averages, difference))


def win_tie_loss(differences: Sequence[float], significant: Sequence[bool], *, higher_is_better: bool = True) -> WinTieLoss:
    """Rows won, tied and lost by an arm, from its mean difference to another arm in each row and whether that difference is significant.

    Raises:
        ConfigError: the two sequences differ in length.
    """
    if len(differences) != len(significant):
        raise ConfigError(f"There are {len(differences)} differences but {len(significant)} verdicts; give one verdict a difference.")
    ahead = [(difference > 0) == higher_is_better if difference else None for difference in differences]
    by_mean = Counter(ahead)
    certain = Counter(way if sure else None for way, sure in zip(ahead, significant, strict=True))
    return WinTieLoss(certain[True], certain[None], certain[False], by_mean[True], by_mean[None], by_mean[False])


def probability_of_improvement(treatment: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool) -> float:
    """Chance that a random run of the treatment beats a random run of the baseline: P(X > Y) + P(X = Y) / 2 over all pairs of runs.

    The Mann-Whitney U statistic over its maximum; Agarwal et al. (NeurIPS 2021, section 4.3). Not paired by seed.

    Raises:
        ConfigError: one of the two has no values.
    """
    if not treatment or not baseline:
        raise ConfigError(f"A probability of improvement needs runs of both arms, but there are {len(treatment)} and {len(baseline)}.")
    gap = np.subtract.outer(np.asarray(treatment, dtype=np.float64), np.asarray(baseline, dtype=np.float64))
    above = float(np.mean((np.sign(gap) + 1) / 2))
    return above if higher_is_better else 1 - above


def mean_probability_of_improvement(
    treatments: Sequence[Sequence[float]], baselines: Sequence[Sequence[float]], *, higher_is_better: bool
) -> float:
    """`probability_of_improvement` averaged over rows, each row with the same weight.

    Raises:
        ConfigError: there is no row, the two differ in rows, or a row has no values.
    """
    if not treatments or len(treatments) != len(baselines):
        raise ConfigError(f"Both arms need the same rows, at least one, but they have {len(treatments)} and {len(baselines)}.")
    pairs = zip(treatments, baselines, strict=True)
    return math.fsum(probability_of_improvement(*pair, higher_is_better=higher_is_better) for pair in pairs) / len(treatments)


def _checked_table(values_NK: npt.ArrayLike, names: Sequence[str]) -> Floats:
    value_NK = np.asarray(values_NK, dtype=np.float64)
    if value_NK.ndim != 2 or min(value_NK.shape) < 2:
        raise ConfigError(f"Ranks need at least two rows and two arms, but the values have shape {value_NK.shape}.")
    if len(set(names)) != value_NK.shape[1] or len(names) != value_NK.shape[1]:
        raise ConfigError(f"Ranks need one name for each of {value_NK.shape[1]} arms, all different, but got {list(names)}.")
    if not np.isfinite(value_NK).all():
        row, arm = np.argwhere(~np.isfinite(value_NK))[0].tolist()
        raise ConfigError(f"Row {row} has {value_NK[row, arm]} for arm {names[arm]!r}; leave rows out in which an arm has no number.")
    return value_NK


def _friedman(rank_NK: Floats) -> tuple[float, float, float]:
    """Statistic and p of Friedman's test, and p of Iman and Davenport's form."""
    from scipy.stats import f, friedmanchisquare

    blocks, arms = rank_NK.shape
    if (rank_NK == rank_NK[0, 0]).all():
        return 0.0, 1.0, 1.0  # every row is one tie
    result = friedmanchisquare(*rank_NK.T)
    statistic, most = float(result.statistic), blocks * (arms - 1)
    if statistic > most * (1 - NOISE):
        ties = Counter(rank_NK[0].tolist()).values()
        orders = math.factorial(arms) // math.prod(map(math.factorial, ties))
        return statistic, float(result.pvalue), float(orders) ** (1 - blocks)
    ratio = (blocks - 1) * statistic / (most - statistic)
    return statistic, float(result.pvalue), float(f.sf(ratio, arms - 1, (arms - 1) * (blocks - 1)))


@lru_cache(maxsize=64)
def _nemenyi_q(arms: int, alpha: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - alpha, arms, np.inf)) / math.sqrt(2)


def _cliques(names: Sequence[str], averages: Sequence[float], difference: float) -> tuple[tuple[str, ...], ...]:
    order = sorted(range(len(names)), key=lambda arm: averages[arm])
    cliques, reached = [], 0
    for first in range(len(order)):
        limit = averages[order[first]] + difference + NOISE
        end = first + sum(averages[arm] <= limit for arm in order[first:])
        if end > reached and end - first > 1:
            cliques.append(tuple(names[arm] for arm in order[first:end]))
        reached = max(reached, end)
    return tuple(cliques)
