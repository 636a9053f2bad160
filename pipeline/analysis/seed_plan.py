"""How many seeds a table needs: which differences its seeds can show, and what a smaller one would take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.analysis.metrics import Metric, describe
from pipeline.analysis.statistics.batches import NOISE
from pipeline.analysis.statistics.intervals import Interval
from pipeline.analysis.statistics.paired import WILCOXON_FROM, Test
from pipeline.analysis.statistics.planner import PlannedTest, check_goal, pooled_sd, sd_interval, seeds_needed, smallest_difference
from pipeline.analysis.tables import Delta, TableResult
from pipeline.analysis.wording import one_line

LADDER = (3, 5, 6, 8, 10, 12, 15, 20, 30, 50)  # numbers of seeds that are tried beside the present one


@dataclass(frozen=True)
class Spread:
    """SD of the paired differences over seeds, pooled over rows, in stored units.

    Attributes:
        sd: above 0.
        interval: 95 % interval of the true SD; few seeds leave it wide.
        degrees: degrees of freedom of `sd`.
    """

    sd: float
    interval: Interval
    degrees: int


@dataclass(frozen=True)
class Target:
    """Differences of one table and metric that are planned for together, all in stored units.

    Attributes:
        words: what the difference is of.
        test: of the table; `planned_test` is planned for.
        spread: None where all differences are equal, which does not tell how far apart those of more seeds will be: nothing is planned.
        comparisons: number of differences that share Holm's correction.
        n: seeds that each difference has now.
        smallest: number of seeds -> smallest true difference that they show with the wanted power; None where none is large enough.
        needed: seeds for the wanted difference; None where none was asked for, or more than 1,000 are needed.
        needed_interval: the same with the SD at either end of its interval.
    """

    table: str
    column: str
    metric: Metric
    words: str
    test: Test
    comparisons: int
    n: int
    spread: Spread | None = None
    smallest: dict[int, float | None] = field(default_factory=dict)
    needed: int | None = None
    needed_interval: tuple[int | None, int | None] = (None, None)

    def smallest_interval(self, seeds: int) -> Interval | None:
        """`smallest` with the SD at either end of its interval, to which it is proportional."""
        smallest = self.smallest[seeds]
        if self.spread is None or smallest is None:
            return None
        low, high = (smallest * end / self.spread.sd for end in self.spread.interval)
        return low, high


def planned_test(test: Test) -> PlannedTest:
    """The test that is planned for: for Wilcoxon's the sign-flip test, of which it is the one on ranks."""
    return "t" if test == "t" else "sign_flip"


def seed_targets(result: TableResult, *, power: float = 0.8, difference: float | None = None) -> list[Target]:
    """What the seeds of a table can show: for each compared column the differences of single rows, and that of the mean over rows.

    Args:
        difference: the smallest difference that matters, as printed (percentage points for accuracies); None: not said.

    Returns:
        Nothing for a table without a baseline, or without two seeds of any difference yet.

    Raises:
        ConfigError: the power or the difference is out of range.
    """
    check_goal(power, difference, alpha=result.alpha)
    # Not those with a p value: few seeds have none, while these differences will share the correction when there are more.
    comparisons = sum(cell.delta is not None and cell.delta.sd is not None for cell in result.cells)
    targets = []
    for metric in result.metrics:
        for column in result.columns:
            single = [cell.delta for cell in result.cells if (cell.column, cell.metric) == (column, metric) and cell.delta is not None]
            words = _pair(result, column) + ", a row by itself" * (comparisons > 1)
            targets += _target(result, column, metric, words, single, comparisons, power, difference)
        for average in result.averages:
            if average.metric == metric and average.delta is not None:
                words = f"{_pair(result, average.column)}, mean over {len(result.complete_rows)} rows"
                targets += _target(result, average.column, metric, words, [average.delta], 1, power, difference)
    return targets


def _pair(result: TableResult, column: str) -> str:
    return f"{one_line(column)} − {one_line(result.baseline)}"


def _target(
    result: TableResult,
    column: str,
    metric: str,
    words: str,
    deltas: Sequence[Delta],
    comparisons: int,
    power: float,
    difference: float | None,
) -> list[Target]:
    deltas = [delta for delta in deltas if delta.sd is not None]
    if not deltas:
        return []
    described, test = describe(metric), planned_test(result.test)
    n = statistics.mode(delta.n for delta in deltas)
    spread = _spread(deltas)
    if spread is None:
        return [Target(result.name, column, described, words, result.test, comparisons, n)]
    fewest = WILCOXON_FROM if result.test == "wilcoxon" else 2

    def smallest(seeds: int) -> float | None:
        if seeds < fewest:
            return None
        return smallest_difference(spread.sd, seeds, alpha=result.alpha, power=power, comparisons=comparisons, test=test)

    def needed(sd: float) -> int | None:
        if difference is None:
            return None
        n = seeds_needed(sd, difference / described.scale, alpha=result.alpha, power=power, comparisons=comparisons, test=test)
        return None if n is None else max(n, fewest)

    low, high = spread.interval
    return [
        Target(
            table=result.name,
            column=column,
            metric=described,
            words=words,
            test=result.test,
            comparisons=comparisons,
            n=n,
            spread=spread,
            smallest={seeds: smallest(seeds) for seeds in (n, *(seeds for seeds in LADDER if seeds > n))},
            needed=needed(spread.sd),
            needed_interval=(needed(low), needed(high)),
        )
    ]


def _spread(deltas: Sequence[Delta]) -> Spread | None:
    """None where the differences of each row are equal, but for rounding noise."""
    sd = pooled_sd([delta.sd for delta in deltas], [delta.n for delta in deltas])
    if sd is None or sd <= NOISE * max(1.0, *(abs(delta.mean or 0.0) for delta in deltas)):
        return None
    degrees = sum(delta.n - 1 for delta in deltas)
    return Spread(sd, sd_interval(sd, degrees), degrees)
