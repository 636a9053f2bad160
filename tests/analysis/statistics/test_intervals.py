"""Summaries of cells against the standard library, scipy and brute force."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.analysis.statistics.intervals import EXACT_UP_TO, RESAMPLES, _drawn_resamples, summarize
from pipeline.errors import ConfigError

SAMPLES = [
    [0.9],
    [0.91, 0.93],
    [0.9027, 0.8998, 0.9055],
    [3.0, 3.0, 3.0],
    [0.1, 0.7, 0.2, 0.2, 0.9],
    np.random.default_rng(0).normal(0.9, 0.02, 10).tolist(),
    np.random.default_rng(1).exponential(1.0, 23).tolist(),
]
VALUES = st.floats(-100, 100).map(lambda value: round(value, 3))


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_moments_equal_the_standard_library(sample):
    """n, mean, sample SD, standard error and median, and None for what one value does not tell."""
    [summary] = summarize([sample])
    assert (summary.n, summary.median) == (len(sample), pytest.approx(statistics.median(sample)))
    assert summary.mean == statistics.fmean(sample)
    if len(sample) == 1:
        assert (summary.sd, summary.se, summary.ci, summary.bootstrap_ci) == (None, None, None, None)
    else:
        assert summary.sd == pytest.approx(statistics.stdev(sample), rel=1e-14)
        assert summary.se == pytest.approx(float(stats.sem(sample)), rel=1e-14)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if len(sample) > 1], ids=len)
def test_the_t_interval_is_that_of_scipy(sample, confidence):
    """Student's interval of the mean."""
    [summary] = summarize([sample], confidence=confidence)
    if summary.sd:
        expected = stats.ttest_1samp(sample, 0).confidence_interval(confidence)
        assert summary.ci == pytest.approx(tuple(expected), rel=1e-12)
    else:
        assert summary.ci == (summary.mean, summary.mean)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_the_bootstrap_of_few_values_is_exact(size, confidence):
    """All n^n resamples, listed one by one: no resample is drawn, so nothing is random."""
    sample = np.random.default_rng(size).normal(0, 1, size)
    means = np.sort([np.mean(draw) for draw in itertools.product(sample, repeat=size)])
    rank = math.ceil(round((1 - confidence) / 2 * len(means), 6))
    [summary] = summarize([sample.tolist()], confidence=confidence)
    assert summary.bootstrap_ci == pytest.approx((means[rank - 1], means[-rank]), rel=1e-12)


def test_with_three_values_the_bootstrap_interval_is_their_range():
    """One resample in 27 repeats the smallest value three times, which is more than 2.5 %."""
    assert summarize([[0.2, 0.5, 0.3]])[0].bootstrap_ci == pytest.approx((0.2, 0.5))


@pytest.mark.parametrize("size", [EXACT_UP_TO, EXACT_UP_TO + 1, 12, 30])
def test_the_bootstrap_agrees_with_that_of_scipy(size):
    """Percentiles of 100,000 other resamples are the same within their own noise."""
    sample = np.random.default_rng(size).exponential(1.0, size)
    other = stats.bootstrap((sample,), np.mean, n_resamples=100_000, method="percentile", rng=np.random.default_rng(5), batch=10_000)
    [summary] = summarize([sample.tolist()])
    assert summary.bootstrap_ci == pytest.approx(tuple(other.confidence_interval), abs=0.06 * summary.se)


@pytest.mark.parametrize("confidence", [0.2, 0.95, 0.9995, 0.99999])
def test_the_ends_are_order_statistics_of_all_draws(confidence):
    """Sorted in full: the shortcut to the ends finds the same draws, also far out where few are below its guess."""
    samples = np.random.default_rng(2).exponential(1.0, (60, 9))
    means = np.sort(np.sort(samples, axis=1) @ _drawn_resamples(9), axis=1) / 9
    rank = max(1, math.ceil(round((1 - confidence) / 2 * RESAMPLES, 6)))
    for row, summary in zip(means, summarize(samples.tolist(), confidence=confidence), strict=True):
        assert summary.bootstrap_ci == pytest.approx((row[rank - 1], row[-rank]), rel=1e-12)


@pytest.mark.parametrize("size", [3, 7, 8, 15])
def test_a_cell_does_not_depend_on_its_neighbours(size):
    """Alone, among many others of its size, and with its seeds in another order, a cell has the same summary to the last bit."""
    rng = np.random.default_rng(size)
    samples = rng.normal(0.9, 0.03, (70, size)).tolist()
    together = summarize(samples)
    for place in (0, 31, 69):
        assert summarize([samples[place]]) == [together[place]]
        assert summarize([[0.5], rng.permutation(samples[place]).tolist(), [0.1] * size])[1] == together[place]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=2, max_size=9), st.floats(-50, 50), st.floats(0.01, 100))
def test_shift_and_scale_move_the_summary_along(sample, shift, scale):
    """a + b x has mean a + b mean, SD b SD, and both intervals moved and stretched."""
    [before], [after] = summarize([sample]), summarize([[shift + scale * value for value in sample]])
    size = 1e-9 * (abs(shift) + 100 * scale)
    assert after.mean == pytest.approx(shift + scale * before.mean, abs=size)
    assert after.median == pytest.approx(shift + scale * before.median, abs=size)
    assert after.sd == pytest.approx(scale * before.sd, abs=size)
    for ends in ("ci", "bootstrap_ci"):
        assert getattr(after, ends) == pytest.approx([shift + scale * end for end in getattr(before, ends)], abs=size)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=2, max_size=EXACT_UP_TO))
def test_the_mirror_image_has_the_mirrored_interval(sample):
    """No side is favoured: -x has the interval (-high, -low); and it lies within the values."""
    [before], [after] = summarize([sample]), summarize([[-value for value in sample]])
    low, high = before.bootstrap_ci
    assert after.bootstrap_ci == pytest.approx((-high, -low), abs=1e-12)
    assert min(sample) - 1e-12 <= low <= high <= max(sample) + 1e-12


def test_samples_keep_their_places():
    """Samples of different sizes come back in the order they were given; no samples, no summaries."""
    samples = [[1.0, 2.0], [5.0], [3.0, 4.0, 8.0], [7.0], [6.0, 7.0]]
    assert [summary.mean for summary in summarize(samples)] == [1.5, 5.0, 5.0, 7.0, 6.5]
    assert summarize([]) == []


@pytest.mark.parametrize(
    ("samples", "confidence", "message"),
    [
        ([[1.0], []], 0.95, "Sample 1 has no values"),
        ([[1.0, 2.0], [1.0, math.nan], [3.0]], 0.95, r"Sample 1 holds \[1.0, nan\]; only finite"),
        ([[math.inf]], 0.95, "Sample 0 holds"),
        ([[1.0, 2.0]], 95, "confidence must lie strictly between 0 and 1, but is 95"),
    ],
)
def test_bad_input_is_named(samples, confidence, message):
    """An empty or infinite sample, or a confidence in percent, is refused with its place."""
    with pytest.raises(ConfigError, match=message):
        summarize(samples, confidence=confidence)
