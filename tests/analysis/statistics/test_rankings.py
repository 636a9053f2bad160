"""Ranks, Friedman, Nemenyi and who beats whom, against scipy, Demsar's paper and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.analysis.statistics.rankings import (
    WinTieLoss,
    mean_probability_of_improvement,
    probability_of_improvement,
    rank_arms,
    win_tie_loss,
)
from pipeline.errors import ConfigError

# Demsar (2006), table 5a: critical values of the two-tailed Nemenyi test for 2 to 10 arms.
DEMSAR_005 = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
DEMSAR_010 = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)
# Demsar (2006), table 6: AUC of C4.5 and its variants with parameters m, cf and both, over 14 datasets.
# It ranks 'voting' by more digits than it prints: 0.975 and 0.975 are its second and third.
DEMSAR_TABLE = [
    (0.763, 0.768, 0.771, 0.798),
    (0.599, 0.591, 0.590, 0.569),
    (0.954, 0.971, 0.968, 0.967),
    (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898),
    (0.936, 0.931, 0.916, 0.931),
    (0.661, 0.668, 0.609, 0.685),
    (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875),
    (1.000, 1.000, 1.000, 1.000),
    (0.940, 0.962, 0.965, 0.962),
    (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.9751, 0.975),
    (0.957, 0.978, 0.946, 0.970),
]


def names(arms: int) -> list[str]:
    return [f"arm{place}" for place in range(arms)]


@pytest.mark.parametrize(("alpha", "table"), [(0.05, DEMSAR_005), (0.1, DEMSAR_010)])
def test_the_critical_difference_follows_the_published_table(alpha, table):
    """q sqrt(K (K + 1) / 6 N), for 2 to 10 arms, to the table's three digits."""
    for arms, q in enumerate(table, start=2):
        values = np.random.default_rng(arms).normal(size=(7, arms))
        found = rank_arms(values, names(arms), higher_is_better=True, alpha=alpha).critical_difference
        assert found / math.sqrt(arms * (arms + 1) / (6 * 7)) == pytest.approx(q, abs=0.0011)


def test_the_worked_example_of_the_paper():
    """Average ranks 3.143, 2.000, 2.893 and 1.964, F = 3.69 with 3 and 39 degrees of freedom, critical difference 1.25."""
    ranked = rank_arms(DEMSAR_TABLE, ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"], higher_is_better=True)
    assert ranked.blocks == 14
    assert ranked.average_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert ranked.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert ranked.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    # The paper leaves the correction for ties out: 9.28 and 3.69 of the ranks as they are.
    plain = 12 * 14 / (4 * 5) * (sum(rank**2 for rank in ranked.average_ranks) - 4 * 5**2 / 4)
    assert plain == pytest.approx(9.28, abs=5e-3)
    expected = stats.friedmanchisquare(*np.transpose(DEMSAR_TABLE))
    assert ranked.friedman_statistic == pytest.approx(expected.statistic, rel=1e-9)
    assert ranked.friedman_p == pytest.approx(expected.pvalue, rel=1e-9)
    assert ranked.friedman_statistic > plain
    assert ranked.iman_davenport_p < stats.f.sf(3.69, 3, 39)


def test_the_f_form_is_a_two_way_analysis_of_variance_of_the_ranks():
    """Iman and Davenport's statistic is the F of arms in ranks = row + arm + noise, computed from sums of squares."""
    values = np.random.default_rng(3).normal((0, 0.3, 0.6, 0.9), 1, size=(9, 4))
    rank = stats.rankdata(-values, axis=1)
    between = 9 * ((rank.mean(axis=0) - 2.5) ** 2).sum()
    within = ((rank - 2.5) ** 2).sum() - between
    expected = stats.f.sf(between / 3 / (within / 24), 3, 24)
    assert rank_arms(values, names(4), higher_is_better=True).iman_davenport_p == pytest.approx(expected, rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 10_000), st.booleans())
def test_ranks_by_counting(blocks, arms, seed, higher):
    """A rank is 1 + the number of better arms + half the number of others that are equal; cliques are maximal and within one difference."""
    values = np.random.default_rng(seed).integers(0, 4, (blocks, arms)) / 10
    ranked = rank_arms(values, names(arms), higher_is_better=higher, alpha=0.5)
    better = (lambda a, b: a > b) if higher else (lambda a, b: a < b)
    for arm in range(arms):
        ranks = [1 + sum(better(v, row[arm]) for v in row) + (sum(v == row[arm] for v in row) - 1) / 2 for row in values]
        assert ranked.average_ranks[arm] == pytest.approx(sum(ranks) / blocks)
    average = dict(zip(ranked.names, ranked.average_ranks, strict=True))
    near = ranked.critical_difference + 1e-9
    for clique in ranked.cliques:
        ends = [average[name] for name in clique]
        assert len(clique) >= 2
        assert ends == sorted(ends)
        assert ends[-1] - ends[0] <= near
        others = set(average) - set(clique)
        assert all(max(*ends, average[name]) - min(*ends, average[name]) > near for name in others)
    for one, two in itertools.combinations(average, 2):
        assert (abs(average[one] - average[two]) <= near) == any({one, two} <= set(clique) for clique in ranked.cliques)


def test_cliques_overlap_and_leave_lone_arms_out():
    """Average ranks 1, 2, 3 and 4 over 30 rows: the difference of 0.86 joins none; over 15 rows 1.21 joins neighbours."""
    rows = [[0.9, 0.8, 0.7, 0.6]]
    assert rank_arms(rows * 30, names(4), higher_is_better=True).cliques == ()
    neighbours = (("arm0", "arm1"), ("arm1", "arm2"), ("arm2", "arm3"))
    assert rank_arms(rows * 15, names(4), higher_is_better=True).cliques == neighbours
    assert rank_arms(rows * 15, names(4), higher_is_better=False).cliques == tuple(pair[::-1] for pair in reversed(neighbours))


@pytest.mark.parametrize("row", [(0.1, 0.2, 0.3), (0.1, 0.3, 0.3, 0.5)])
def test_rows_that_all_agree_have_an_exact_p(row):
    """F is infinite; p is the share of all ways to order the later rows that agree with the first."""
    orders = len(set(itertools.permutations(row)))
    ranked = rank_arms([row] * 4, names(len(row)), higher_is_better=True)
    assert ranked.iman_davenport_p == pytest.approx((1 / orders) ** 3)


def test_a_table_of_ties_has_no_order():
    """All arms alike in every row, be it up to rounding: average rank (K + 1) / 2, p = 1, one clique."""
    ranked = rank_arms([[0.3, 0.1 + 0.2, 0.3], [0.5, 0.5, 0.5]], names(3), higher_is_better=True)
    assert ranked.average_ranks == (2.0, 2.0, 2.0)
    assert (ranked.friedman_statistic, ranked.friedman_p, ranked.iman_davenport_p) == (0.0, 1.0, 1.0)
    assert ranked.cliques == (("arm0", "arm1", "arm2"),)


def test_two_arms_have_ranks_but_no_friedman_test():
    """Which would be a rough sign test."""
    ranked = rank_arms([[0.1, 0.2], [0.3, 0.4], [0.6, 0.5]], ["ce", "cam"], higher_is_better=True)
    assert ranked.average_ranks == pytest.approx((5 / 3, 4 / 3))
    assert (ranked.friedman_statistic, ranked.friedman_p, ranked.iman_davenport_p) == (None, None, None)
    assert ranked.cliques == (("cam", "ce"),)


def test_wins_ties_and_losses():
    """With and without significance, and where lower is better."""
    differences, significant = [0.3, 0.2, -0.1, 0.0, -0.4], [True, False, False, True, True]
    assert win_tie_loss(differences, significant) == WinTieLoss(1, 3, 1, wins_by_mean=2, ties_by_mean=1, losses_by_mean=2)
    lower = win_tie_loss([0.3, 0.2, 0.1, -0.1], [True] * 4, higher_is_better=False)
    assert lower == WinTieLoss(1, 0, 3, wins_by_mean=1, ties_by_mean=0, losses_by_mean=3)
    with pytest.raises(ConfigError, match="2 differences but 1 verdicts"):
        win_tie_loss([0.1, 0.2], [True])


@pytest.mark.parametrize("higher", [True, False])
def test_the_probability_of_improvement_is_the_mann_whitney_statistic(higher):
    """U / (n m), with ties counted half; and 1 minus it for the arms swapped."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = (rng.integers(0, 6, size).tolist() for size in rng.integers(1, 8, 2))
        share = stats.mannwhitneyu(one, two).statistic / (len(one) * len(two))
        found = probability_of_improvement(one, two, higher_is_better=higher)
        assert found == pytest.approx(share if higher else 1 - share)
        assert found + probability_of_improvement(two, one, higher_is_better=higher) == pytest.approx(1)


def test_rows_weigh_alike_in_the_mean_probability():
    """A row of many runs counts as much as a row of few."""
    assert mean_probability_of_improvement([[2.0], [1.0] * 9], [[1.0], [2.0] * 9], higher_is_better=True) == 0.5
    with pytest.raises(ConfigError, match="same rows"):
        mean_probability_of_improvement([[1.0]], [], higher_is_better=True)
    with pytest.raises(ConfigError, match="there are 1 and 0"):
        probability_of_improvement([1.0], [], higher_is_better=True)


@pytest.mark.parametrize(
    ("values", "arms", "message"),
    [
        ([[0.1, 0.2]], ["a", "b"], r"at least two rows and two arms, but the values have shape \(1, 2\)"),
        ([[0.1], [0.2]], ["a"], "shape"),
        ([[0.1, 0.2], [0.3, 0.4]], ["a"], "one name for each of 2 arms"),
        ([[0.1, 0.2], [0.3, 0.4]], ["a", "a"], "all different"),
        ([[0.1, 0.2], [0.3, math.nan]], ["a", "b"], "Row 1 has nan for arm 'b'"),
    ],
)
def test_bad_tables_are_refused(values, arms, message):
    """Too few rows or arms, names that do not fit, a missing number."""
    with pytest.raises(ConfigError, match=message):
        rank_arms(values, arms, higher_is_better=True)
