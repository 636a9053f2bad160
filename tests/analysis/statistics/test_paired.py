"""Comparisons with a baseline against scipy, statsmodels and brute force."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.analysis.statistics.intervals import summarize
from pipeline.analysis.statistics.paired import EXACT_UP_TO, FLIPS, compare, hedges_correction, smallest_p
from pipeline.errors import ConfigError

DIFFERENCES = st.lists(st.integers(-30, 30).map(lambda thousandths: thousandths / 1000), min_size=2, max_size=10)


def drawn(size: int, seed: int = 0, digits: int = 15) -> list[float]:
    return np.random.default_rng((seed, size)).normal(0.3, 1.0, size).round(digits).tolist()


def sign_flip_by_hand(differences: list[Fraction]) -> float:
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns) / len(patterns)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.lists(st.integers(-12, 12), min_size=2, max_size=8), st.sampled_from([10, 1000, 3000, 7]))
def test_the_sign_flip_test_counts_patterns_in_exact_arithmetic(steps, images):
    """p from floats, such as thirds and sevenths that add up to ties, is p from fractions; and a multiple of 2^(1-n)."""
    [paired] = compare([[step / images for step in steps]])
    assert paired.p_sign_flip == sign_flip_by_hand([Fraction(step, images) for step in steps])
    assert paired.p_sign_flip * 2 ** (len(steps) - 1) == int(paired.p_sign_flip * 2 ** (len(steps) - 1))


@pytest.mark.parametrize("size", [2, 3, 5, 9, 12])
def test_the_sign_flip_test_is_that_of_scipy(size):
    """scipy's permutation test over all flips of signs."""
    for seed in range(4):
        sample = drawn(size, seed)
        expected = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided")
        assert compare([sample])[0].p_sign_flip == expected.pvalue


@pytest.mark.parametrize("size", [EXACT_UP_TO + 1, 24])
def test_many_pairs_draw_their_flips(size):
    """Above 16 pairs p is (b + 1) / (m + 1), within the noise of m draws of the exact value, which is counted from two halves."""
    rows = [drawn(size, seed) for seed in range(6)]
    for sample, paired in zip(rows, compare(rows), strict=True):
        hits = paired.p_sign_flip * (FLIPS + 1) - 1
        assert hits == pytest.approx(round(hits), abs=1e-6)
        first, second = (np.array(list(itertools.product((1, -1), repeat=len(half)))) @ half for half in (sample[:12], sample[12:]))
        above = 1 - np.searchsorted(np.sort(second), abs(sum(sample)) - 1e-9 - first) / len(second)
        exact = 2 * float(np.mean(above))
        assert paired.p_sign_flip == pytest.approx(exact, abs=5 * math.sqrt(exact / FLIPS) + 1 / FLIPS)


def test_no_difference_at_all_is_never_rare():
    """(b + 1) / (m + 1) never reaches 0, whatever the number of pairs."""
    [paired] = compare([[1.0 + 0.01 * place for place in range(40)]])
    assert paired.p_sign_flip == smallest_p("sign_flip", 40) == 1 / (FLIPS + 1)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 30])
def test_the_t_test_is_that_of_scipy(size):
    """Paired t test and Cohen's d_z."""
    first, second = drawn(size, 1), drawn(size, 2)
    [paired] = compare([[a - b for a, b in zip(first, second, strict=True)]])
    expected = stats.ttest_rel(first, second)
    assert paired.p_t == pytest.approx(expected.pvalue, rel=1e-10)
    assert paired.ci == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-10)
    assert paired.effect == pytest.approx(expected.statistic / math.sqrt(size), rel=1e-10)


@pytest.mark.parametrize("size", [6, 7, 10, 16, 20, 40])
def test_wilcoxon_is_that_of_scipy(size):
    """Without ties the exact signed-rank test, on both sides of the limit up to which ranks are flipped here."""
    sample = drawn(size)
    assert compare([sample])[0].p_wilcoxon == pytest.approx(stats.wilcoxon(sample, method="exact").pvalue, rel=1e-12)


@pytest.mark.parametrize(
    "sample", [[1, 1, 2, -3, 2, 5, 2], [0, 0, 4, 4, -4, 1, 2, 3], [1, 1, 1, 1, 1, 1], [0.3 - 0.2, 0.2 - 0.1, 0.7, 0.9, 1.1, -2]]
)
def test_wilcoxon_with_ties_is_exact(sample):
    """Zeros are dropped, ties share their average rank, and all patterns of signs are counted (scipy's, over all permutations)."""
    kept = [round(value, 9) for value in sample if value]
    expected = stats.wilcoxon(kept, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue
    assert compare([sample])[0].p_wilcoxon == pytest.approx(expected, rel=1e-12)


def test_wilcoxon_with_ties_among_many_pairs_is_that_of_scipy():
    """Above 16 pairs with ties scipy's normal approximation, whether or not other comparisons have ties."""
    tied, free = drawn(20, digits=1), drawn(20)
    results = compare([tied, free])
    assert results[0].p_wilcoxon == pytest.approx(stats.wilcoxon(tied).pvalue, rel=1e-9)
    assert results[1].p_wilcoxon == pytest.approx(stats.wilcoxon(free, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("sample", [[1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4, 5], [0.0] * 8, [0.0] * 20])
def test_wilcoxon_is_left_out_where_it_cannot_reach_five_percent(sample):
    """Five differences that are not 0 give at best 0.0625."""
    assert compare([sample])[0].p_wilcoxon is None


@pytest.mark.parametrize("size", [2, 3, 6, 10, 16])
def test_no_p_value_is_smaller_than_the_smallest(size):
    """Differences of one sign reach the smallest p value of the rank and permutation tests; 3 seeds stop at 0.25."""
    [paired] = compare([[1.0 + 0.1 * place for place in range(size)]])
    assert paired.p_sign_flip == smallest_p("sign_flip", size) == 2.0 ** (1 - size)
    if size >= 6:
        assert paired.p_wilcoxon == pytest.approx(smallest_p("wilcoxon", size))
    assert smallest_p("sign_flip", 3) == 0.25
    assert smallest_p("t", size) == 0.0
    assert [smallest_p(test, 1) for test in ("sign_flip", "t", "wilcoxon")] == [1.0] * 3


def test_an_unknown_test_is_named_with_the_nearest():
    """'sign-flip' is not a name."""
    with pytest.raises(ConfigError, match=r"Unknown test 'sign-flip'\. Did you mean 'sign_flip'"):
        smallest_p("sign-flip", 3)


def test_one_pair_tells_nothing():
    """One seed has a difference and nothing else."""
    [paired] = compare([[0.5]])
    assert (paired.n, paired.mean) == (1, 0.5)
    assert {getattr(paired, name) for name in vars(paired) if name not in ("n", "mean")} == {None}


@pytest.mark.parametrize("size", [2, 5, 8, 20])
@pytest.mark.parametrize("value", [0.0, 0.01, 1e-16])
def test_equal_differences(size, value):
    """All 0 (or rounding noise): p = 1. All equal but not 0: the sign-flip test still counts, t and the effect size are undefined."""
    [paired] = compare([[value] * size])
    assert paired.effect is None
    assert paired.effect_corrected is None
    if value < 1e-12:
        assert (paired.p_sign_flip, paired.p_t) == (1.0, 1.0)
    else:
        assert paired.p_t is None
        assert paired.p_sign_flip == (2.0 ** (1 - size) if size <= EXACT_UP_TO else pytest.approx(1 / (FLIPS + 1)))


def test_rounding_noise_is_no_spread():
    """0.3 - 0.2 and 0.2 - 0.1 differ in the last bit only: no t test on that."""
    assert compare([[0.3 - 0.2, 0.2 - 0.1, 0.8 - 0.7]])[0].p_t is None


def test_intervals_are_those_of_the_summary():
    """Mean, SD, standard error and both intervals are the summary's of the differences, at the same confidence."""
    rows = [drawn(3), drawn(8)]
    for paired, summary in zip(compare(rows, confidence=0.9), summarize(rows, confidence=0.9), strict=True):
        for name in ("n", "mean", "sd", "se", "ci", "bootstrap_ci"):
            assert getattr(paired, name) == getattr(summary, name)


@pytest.mark.parametrize("size", [3, 5, 10])
def test_the_corrected_effect_size_is_unbiased(size):
    """Over 200,000 samples with a true effect of 0.8 its mean is 0.8, while that of d_z is too large."""
    sample = np.random.default_rng(size).normal(0.8, 1.0, (200_000, size))
    effect = sample.mean(axis=1) / sample.std(axis=1, ddof=1)
    noise = float(effect.std()) / math.sqrt(len(effect))
    assert float(effect.mean()) * hedges_correction(size - 1) == pytest.approx(0.8, abs=5 * noise)
    assert hedges_correction(size - 1) == pytest.approx(1 - 3 / (4 * (size - 1) - 1), abs=0.04)
    [paired] = compare([sample[0].tolist()])
    assert paired.effect_corrected == pytest.approx(effect[0] * hedges_correction(size - 1))
    assert compare([[1.0, 2.0]])[0].effect_corrected is None


@settings(derandomize=True, deadline=None, max_examples=80)
@given(DIFFERENCES, st.integers(1, 6))
def test_scale_and_order_change_no_p_value_and_no_effect_size(differences, power):
    """Percent or fractions, the same seeds in another order, or the arms swapped: same evidence."""
    [before] = compare([differences])
    [scaled] = compare([[10**power * value for value in differences]])
    [mirrored] = compare([[-value for value in reversed(differences)]])
    for name in ("p_sign_flip", "p_t", "p_wilcoxon"):
        expected = getattr(before, name)
        for other in (getattr(scaled, name), getattr(mirrored, name)):
            assert other == (None if expected is None else pytest.approx(expected, rel=1e-6))
    if before.effect is not None:
        assert mirrored.effect == pytest.approx(-before.effect)
        assert scaled.effect == pytest.approx(before.effect)


@pytest.mark.parametrize("size", [3, 8, 17])
def test_a_comparison_does_not_depend_on_its_neighbours(size):
    """Alone and among many, a comparison has the same numbers to the last bit."""
    rows = np.random.default_rng(size).normal(0.1, 1, (60, size)).round(3).tolist()
    together = compare([*rows, [0.25], [1.0, 2.0]])
    assert [compare([row])[0] for row in rows[::17]] == together[:60:17]
    assert (together[60].n, together[61].n) == (1, 2)


def test_drawn_flips_depend_on_neither_order_nor_direction():
    """Above 16 pairs too, the same seeds in another order, or the arms swapped, have the same p value."""
    sample = [value - 0.1 for value in drawn(20)]
    variants = compare([sample, sorted(sample), [-value for value in sample]])
    assert len({paired.p_sign_flip for paired in variants}) == 1
    assert 0.01 < variants[0].p_sign_flip < 0.9
