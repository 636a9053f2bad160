"""Holm's correction against statsmodels."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from pipeline.analysis.statistics.families import holm
from pipeline.errors import ConfigError

PROBABILITIES = st.lists(st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.25, 0.0, 1.0])), max_size=30)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PROBABILITIES)
def test_holm_is_that_of_statsmodels(p_values):
    """Comparisons without a test stay None and do not count."""
    adjusted = holm(p_values)
    known = [p for p in p_values if p is not None]
    assert [value is None for value in adjusted] == [p is None for p in p_values]
    if known:
        with mock.patch("gc.collect"):  # which statsmodels calls each time
            expected = multipletests(known, method="holm")[1]
        assert [value for value in adjusted if value is not None] == pytest.approx(expected.tolist(), rel=1e-12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PROBABILITIES)
def test_adjusted_values_keep_the_order_and_are_never_smaller(p_values):
    """Between the raw value and 1; a smaller raw value never gets the larger adjusted one."""
    pairs = [(raw, value) for raw, value in zip(p_values, holm(p_values), strict=True) if raw is not None]
    assert all(raw <= value <= 1 for raw, value in pairs)
    values = [value for _, value in sorted(pairs)]
    assert values == sorted(values)


def test_by_hand():
    """3 x 0.01, then 2 x 0.03, then not less than that."""
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_no_probability_is_refused(wrong):
    """NaN included: it would sort anywhere."""
    with pytest.raises(ConfigError, match="must lie in"):
        holm([0.5, wrong])
