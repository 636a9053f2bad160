"""Seed planner: which differences a table's seeds show, and how many a smaller one needs."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from pipeline.analysis.seed_plan import LADDER, seed_targets
from pipeline.analysis.tables import build_table


@pytest.fixture
def table(make_spec, make_trials):
    """Builder of two rows of two arms over n seeds; the differences of the rows have SDs 1 and 2 points."""

    def build(n: int, **changes):
        spec = make_spec(["a", "b"], ["ce", "cam"], range(n), baseline="ce", **changes)
        rng = np.random.default_rng(0)
        values = {}
        for row, size in (("a", 0.01), ("b", 0.02)):
            base, noise = rng.normal(0.9, 0.01, n), rng.normal(size=n)
            noise = size * (noise - noise.mean()) / noise.std(ddof=1)
            values |= {(row, "ce"): list(base), (row, "cam"): list(base + noise)}
        return build_table(spec, make_trials(spec, values))

    return build


def test_sd_is_pooled_over_the_rows(table):
    """Rows of SD 1 and 2 points pool to sqrt((1 + 4) / 2) points with all their degrees of freedom."""
    single, mean = seed_targets(table(8))
    assert single.sd == pytest.approx(0.01 * np.sqrt(2.5))
    assert (single.degrees, single.comparisons, single.n) == (14, 2, 8)
    assert (mean.degrees, mean.comparisons, mean.words) == (7, 1, "cam − ce, mean over 2 rows")
    assert single.sd_interval[0] < single.sd < single.sd_interval[1]


def test_t_test_agrees_with_statsmodels(table):
    """With the t test, each smallest difference has the wanted power at Holm's first step, by another library."""
    single, _ = seed_targets(table(5, statistics={"test": "t"}), power=0.9)
    assert list(single.smallest) == [5, *(n for n in LADDER if n > 5)]
    for n, smallest in single.smallest.items():
        power = TTestPower().power(smallest / single.sd, n, alpha=0.05 / 2)
        assert power == pytest.approx(0.9, abs=1e-3)


def test_three_seeds_show_nothing_under_the_sign_flip_test(table):
    """No difference, however large, can be significant where the smallest p value is above the level."""
    single, mean = seed_targets(table(3))
    assert single.smallest[3] is mean.smallest[3] is None
    assert single.smallest[6] is None  # 2 / 2^6 is below 0.05, but not below 0.05 / 2
    assert mean.smallest[6] is not None


def test_wanted_difference_is_in_printed_units(table):
    """1 is one percentage point of accuracy; a larger one needs fewer seeds, and the number found just suffices."""
    result = table(8)
    (one, _), (two, _) = (seed_targets(result, difference=each) for each in (1.0, 2.0))
    assert two.needed < one.needed
    assert seed_targets(result, difference=1.0)[0].smallest.get(one.needed, 0.0) <= 0.0101


def test_nothing_to_plan_without_a_baseline_or_a_second_seed(table, make_spec, make_trials):
    """No baseline: no difference; one seed: no spread."""
    spec = make_spec(["a"], ["ce", "cam"], [0, 1])
    assert seed_targets(build_table(spec, make_trials(spec, {("a", "ce"): [0.1, 0.2], ("a", "cam"): [0.2, 0.3]}))) == []
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="ce")
    assert seed_targets(build_table(spec, make_trials(spec, {("a", "ce"): [0.1], ("a", "cam"): [0.2]}))) == []
