"""Power of the paired test against statsmodels, closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from pipeline.analysis.statistics.paired import sign_flip_p
from pipeline.analysis.statistics.planner import _rejects, check_goal, pooled_sd, sd_interval, seeds_needed, smallest_difference
from pipeline.errors import ConfigError


def power_by_statsmodels(effect: float, n: int, alpha: float) -> float:
    both = TTestPower().power(effect, n, alpha)
    # Its power for the wrong direction is NaN where it is too small for scipy.
    return TTestPower().power(effect, n, alpha / 2, alternative="larger") if math.isnan(both) else both


@pytest.mark.parametrize("n", [3, 5, 10, 40])
@pytest.mark.parametrize(("alpha", "power", "comparisons"), [(0.05, 0.8, 1), (0.05, 0.9, 6), (0.1, 0.5, 1), (0.01, 0.2, 1)])
def test_the_t_test_needs_what_statsmodels_says(n, alpha, power, comparisons):
    """The smallest difference of n pairs, in units of the SD, at Holm's first step."""
    found = smallest_difference(0.02, n, alpha=alpha, power=power, comparisons=comparisons, test="t")
    assert power_by_statsmodels(found / 0.02, n, alpha / comparisons) == pytest.approx(power, abs=1e-7)


@pytest.mark.parametrize("ratio", [0.15, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("comparisons", [1, 12])
def test_the_number_of_seeds_is_the_first_with_enough_power(ratio, comparisons):
    """One seed less has too little power, by statsmodels."""
    n = seeds_needed(0.01, ratio * 0.01, comparisons=comparisons, test="t", limit=2000)
    power = [power_by_statsmodels(ratio, nobs, 0.05 / comparisons) for nobs in (n - 1, n) if nobs > 1]
    assert power[-1] >= 0.8
    assert len(power) == 1 or power[0] < 0.8


@pytest.mark.parametrize(("n", "comparisons"), [(6, 1), (10, 20)])
def test_with_one_attainable_p_the_sign_flip_test_has_a_closed_form(n, comparisons):
    """Only differences of one sign reject, so power is Phi(d)^n + Phi(-d)^n; far below the t test's at that n."""
    found = smallest_difference(1.0, n, comparisons=comparisons)
    assert stats.norm.cdf(found) ** n + stats.norm.cdf(-found) ** n == pytest.approx(0.8, abs=0.02)
    assert found > 1.2 * smallest_difference(1.0, n, comparisons=comparisons, test="t")


@pytest.mark.parametrize(("n", "comparisons"), [(7, 1), (9, 1), (12, 1), (11, 10)])
def test_the_promised_power_is_there(n, comparisons):
    """20,000 other simulated comparisons with the smallest difference: 80 % of them are found, within 2.5 percentage points."""
    difference = smallest_difference(2.0, n, comparisons=comparisons)
    sample = np.random.default_rng(n).normal(difference, 2.0, (20_000, n))
    assert float(np.mean(sign_flip_p(sample) <= 0.05 / comparisons)) == pytest.approx(0.8, abs=0.025)


def test_few_seeds_show_nothing_by_sign_flips():
    """No difference is enough where 2^(1-n) is above alpha / comparisons, and the number of seeds starts where it is not."""
    assert [smallest_difference(0.01, n) for n in (1, 2, 3, 5)] == [None] * 4
    assert smallest_difference(0.01, 6) is not None
    assert smallest_difference(0.01, 6, comparisons=2) is None
    assert smallest_difference(0.01, 1, test="t") is None
    assert seeds_needed(0.01, 100.0) == 6
    assert seeds_needed(0.01, 100.0, comparisons=20) == 10
    assert seeds_needed(0.01, 100.0, test="t") == 2
    assert seeds_needed(0.01, 0.0001, limit=50) is None


def all_sign_flips(sample: np.ndarray) -> np.ndarray:
    """Two-sided p values by the definition: every pattern of signs, none left out."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=sample.shape[1])))
    sums = np.abs(np.abs(sample) @ signs.T)
    return (sums >= np.abs(sample.sum(axis=1))[:, None] - 1e-9).mean(axis=1)


def drawn_sign_flips(sample: np.ndarray, draws: int = 1_999) -> np.ndarray:
    """Two-sided p values from signs of this test's own."""
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (draws, sample.shape[1]))
    return ((np.abs(sample @ signs.T) >= np.abs(sample.sum(axis=1))[:, None]).sum(axis=1) + 1) / (draws + 1)


def paired_t(sample: np.ndarray) -> np.ndarray:
    return stats.ttest_1samp(sample, 0.0, axis=1).pvalue


@pytest.mark.parametrize(
    ("test", "ratio", "comparisons", "p_of"),
    [
        ("sign_flip", 1.8, 1, all_sign_flips),
        ("sign_flip", 1.25, 1, all_sign_flips),
        ("sign_flip", 1.5, 4, all_sign_flips),
        ("sign_flip", 1.55, 12, all_sign_flips),
        ("sign_flip", 0.5, 1, drawn_sign_flips),
        ("sign_flip", 0.75, 5, drawn_sign_flips),
        ("t", 4.0, 1, paired_t),
        ("t", 1.5, 12, paired_t),
        ("t", 0.3, 1, paired_t),
    ],
)
def test_the_number_of_seeds_reaches_the_promised_power(test, ratio, comparisons, p_of):
    """Of 4,000 simulated comparisons at least 80 % are found with the number named, and fewer with one seed less (2.5 points of noise)."""
    n = seeds_needed(2.0, ratio * 2.0, comparisons=comparisons, test=test)

    def power(size: int) -> float:
        sample = np.random.default_rng((n, comparisons)).normal(ratio * 2.0, 2.0, (4_000, size))
        return float(np.mean(p_of(sample) <= 0.05 / comparisons))

    assert power(n) >= 0.775
    assert power(n - 1) < 0.825


@settings(derandomize=True, deadline=None, max_examples=60)
@example(4, 6, False, 3)  # two of the few patterns are mirror images
@given(st.integers(2, 16), st.integers(0, 15) | st.floats(0, 15.9), st.booleans(), st.integers(0, 2**32 - 1))
def test_counting_the_patterns_that_matter_is_the_whole_test(n, patterns, tied, seed):
    """Rejected are the samples whose exact p value over all patterns is at most the level; at usual levels also with ties and zeros."""
    level = min(0.1 if tied else 0.9, patterns * 2.0 ** (1 - n))
    rng = np.random.default_rng(seed)
    sample = rng.normal(rng.uniform(0, 4), 1.0, (40, n))
    sample = sample.round() if tied else sample
    np.testing.assert_array_equal(_rejects(sample, level), sign_flip_p(sample) <= level)


def test_the_search_for_the_number_of_seeds_skips_none():
    """Its answer is the first number that suffices, also where it halves its steps; a limit below it gives none."""
    for ratio in (0.12, 0.3, 0.62, 0.66, 0.7, 1.1):
        n = seeds_needed(1.0, ratio)
        assert smallest_difference(1.0, n) <= ratio < smallest_difference(1.0, n - 1)
        assert (seeds_needed(1.0, ratio, limit=n), seeds_needed(1.0, ratio, limit=n - 1)) == (n, None)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0.3, 4), st.sampled_from([1, 5]), st.sampled_from(["sign_flip", "t"]))
def test_seeds_and_difference_are_two_views_of_one_curve(ratio, comparisons, test):
    """The number of seeds that a difference needs is the first whose smallest difference is below it."""
    n = seeds_needed(1.0, ratio, comparisons=comparisons, test=test)
    assert smallest_difference(1.0, n, comparisons=comparisons, test=test) <= ratio * 1.003
    before = smallest_difference(1.0, n - 1, comparisons=comparisons, test=test)
    assert before is None or before >= ratio * 0.997


def test_pooled_sd_is_that_of_the_residuals():
    """The SD around each sample's own mean; samples of one value tell nothing."""
    samples = [[1.0, 2.0, 4.0], [10.0, 10.5], [7.0]]
    residuals = [value - np.mean(sample) for sample in samples for value in sample]
    sds = [np.std(sample, ddof=1) if len(sample) > 1 else None for sample in samples]
    assert pooled_sd(sds, [3, 2, 1]) == pytest.approx(math.sqrt(sum(r**2 for r in residuals) / 3))
    assert pooled_sd([None], [1]) is None
    assert pooled_sd([], []) is None
    with pytest.raises(ConfigError, match="2 SDs but 1 numbers"):
        pooled_sd([1.0, 2.0], [3])


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_of_an_sd_covers_it(n):
    """90 % of the intervals of 20,000 samples hold the true SD; the ends are chi-square quantiles."""
    low, high = sd_interval(1.5, n - 1, 0.9)
    assert (low, high) == pytest.approx([1.5 * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.95, 0.05)])
    sd = np.random.default_rng(n).normal(0, 3.0, (20_000, n)).std(axis=1, ddof=1)
    assert float(np.mean((sd * low / 1.5 <= 3.0) & (sd * high / 1.5 >= 3.0))) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smallest_difference(-1.0, 5), "SD of the differences must be finite and above 0, but is -1.0"),
        (lambda: smallest_difference(0.0, 8), "equal differences do not tell it: run more seeds"),
        (lambda: seeds_needed(0.0, 1.0), "above 0, but is 0.0"),
        (lambda: smallest_difference(math.nan, 5), "finite"),
        (lambda: smallest_difference(1.0, 5, alpha=5), "alpha must lie strictly between 0 and 1, but is 5"),
        (lambda: smallest_difference(1.0, 5, power=80), "power must lie"),
        (lambda: smallest_difference(1.0, 5, power=0.04), "power must be above alpha"),
        (lambda: smallest_difference(1.0, 5, comparisons=0), "comparisons must be at least 1"),
        (lambda: smallest_difference(1.0, 5, test="wilcoxon"), "Unknown test 'wilcoxon'"),
        (lambda: seeds_needed(1.0, 0.0), "difference to be shown must be finite and above 0, but is 0.0"),
        (lambda: seeds_needed(1.0, -1.0), "above 0, but is -1.0"),
        (lambda: check_goal(0.8, math.inf), "finite"),
        (lambda: check_goal(0.8, math.nan), "finite"),
        (lambda: check_goal(0.04, None), "power must be above alpha"),
        (lambda: sd_interval(0.0, 3), "An SD must be above 0"),
        (lambda: sd_interval(1.0, 0), "at least one degree of freedom"),
        (lambda: sd_interval(1.0, 2, 95), "confidence must lie"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    """Percent for shares, no spread, no difference, no degrees of freedom."""
    with pytest.raises(ConfigError, match=message):
        call()
