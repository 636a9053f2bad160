"""Seed planner: which differences a table's seeds show, and how many a smaller one needs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2
from statsmodels.stats.power import TTestPower

from pipeline.analysis.seed_plan import LADDER, seed_targets
from pipeline.analysis.statistics.planner import seeds_needed, smallest_difference
from pipeline.analysis.tables import build_table
from pipeline.errors import ConfigError


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
    assert single.spread.sd == pytest.approx(0.01 * np.sqrt(2.5))
    assert (single.spread.degrees, single.comparisons, single.n) == (14, 2, 8)
    assert (mean.spread.degrees, mean.comparisons, mean.words) == (7, 1, "cam − ce, mean over 2 rows")
    assert single.spread.interval == pytest.approx([single.spread.sd * np.sqrt(14 / chi2.ppf(tail, 14)) for tail in (0.975, 0.025)])


def test_t_test_agrees_with_statsmodels(table):
    """With the t test, each smallest difference has the wanted power at Holm's first step, by another library."""
    single, _ = seed_targets(table(5, statistics={"test": "t"}), power=0.9)
    assert list(single.smallest) == [5, *(n for n in LADDER if n > 5)]
    for n, smallest in single.smallest.items():
        power = TTestPower().power(smallest / single.spread.sd, n, alpha=0.05 / 2)
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


def test_both_ends_of_the_interval_are_planned_for(table):
    """Seeds and smallest difference are those of an SD at either end; few seeds leave that far apart."""
    single, _ = seed_targets(table(5, statistics={"test": "t"}), difference=2.0)
    for end, needed, size in zip(single.spread.interval, single.needed_interval, single.smallest_interval(10), strict=True):
        assert needed == seeds_needed(end, 0.02, comparisons=2, test="t")
        assert size == pytest.approx(smallest_difference(end, 10, comparisons=2, test="t"))
    assert single.needed_interval[0] < single.needed < single.needed_interval[1]


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("test", ["t", "sign_flip"])
def test_equal_differences_plan_nothing(make_spec, make_trials, seeds, test):
    """Differences that are equal from seed to seed, but for rounding (0.3 - 0.2 is not 0.2 - 0.1), are no spread of 0."""
    spec = make_spec(["a"], ["ce", "cam"], range(seeds), baseline="ce", statistics={"test": test})
    base = [0.1, 0.2, 0.3][:seeds]
    result = build_table(spec, make_trials(spec, {("a", "ce"): base, ("a", "cam"): [0.2, 0.3, 0.4][:seeds]}))
    targets = seed_targets(result, difference=0.5)
    assert targets
    for target in targets:
        assert (target.spread, target.smallest, target.needed, target.needed_interval) == (None, {}, None, (None, None))


def test_a_row_of_equal_differences_counts_in_the_pool(make_spec, make_trials):
    """Rows that vary tell the spread; the one that does not adds its degrees of freedom."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0, 1], baseline="ce", statistics={"test": "t"})
    values = {("a", "ce"): [0.5, 0.5], ("a", "cam"): [0.5, 0.5], ("b", "ce"): [0.5, 0.5], ("b", "cam"): [0.5, 0.52]}
    single = seed_targets(build_table(spec, make_trials(spec, values)))[0]
    assert (single.spread.sd, single.spread.degrees) == (pytest.approx(np.sqrt(0.0002 / 2)), 2)


def test_wilcoxon_is_planned_as_sign_flips(table):
    """At the correction of all differences, though with four seeds none has a p value yet; never with fewer than its six seeds."""
    planned, sign_flip = (seed_targets(table(4, statistics={"test": test, "alpha": 0.2}))[0] for test in ("wilcoxon", "sign_flip"))
    assert (planned.test, planned.comparisons) == ("wilcoxon", 2)
    assert planned.smallest[5] is None
    assert {n: size for n, size in planned.smallest.items() if n > 5} == {n: size for n, size in sign_flip.smallest.items() if n > 5}
    assert sign_flip.smallest[5] is not None
    huge = [
        seed_targets(table(4, statistics={"test": test, "alpha": 0.2}), difference=90.0)[0].needed for test in ("wilcoxon", "sign_flip")
    ]
    assert huge == [6, 5]


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"difference": -1.0}, "above 0, but is -1.0"),
        ({"difference": 0.0}, "above 0, but is 0.0"),
        ({"difference": float("nan")}, "finite"),
        ({"power": 80}, "power must lie strictly between 0 and 1"),
        ({"power": 0.05}, "power must be above alpha"),
    ],
)
def test_goals_without_sense_are_refused(table, make_spec, make_trials, goal, message):
    """Also where nothing could be planned: one seed has no spread."""
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="ce")
    one_seed = build_table(spec, make_trials(spec, {("a", "ce"): [0.1], ("a", "cam"): [0.2]}))
    for result in (one_seed, table(8)):
        with pytest.raises(ConfigError, match=message):
            seed_targets(result, **goal)


def test_nothing_to_plan_without_a_baseline_or_a_second_seed(table, make_spec, make_trials):
    """No baseline: no difference; one seed: no spread."""
    spec = make_spec(["a"], ["ce", "cam"], [0, 1])
    assert seed_targets(build_table(spec, make_trials(spec, {("a", "ce"): [0.1, 0.2], ("a", "cam"): [0.2, 0.3]}))) == []
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="ce")
    assert seed_targets(build_table(spec, make_trials(spec, {("a", "ce"): [0.1], ("a", "cam"): [0.2]}))) == []
