"""How many seeds a table needs: which differences its seeds can show, and what a smaller one would take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.metrics import Metric, describe
from pipeline.analysis.statistics.intervals import Interval
from pipeline.analysis.statistics.planner import PlannedTest, pooled_sd, sd_interval, seeds_needed, smallest_difference
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import one_line

LADDER = (3, 5, 6, 8, 10, 12, 15, 20, 30, 50)  # numbers of seeds that are tried beside the present one


@dataclass(frozen=True)
class Target:
    """Differences of one table and metric that are planned for together, all in stored units.

    Attributes:
        words: what the difference is of.
        sd: SD of the paired differences over seeds, pooled over the rows.
        sd_interval: 95 % interval of the true SD; few seeds leave it wide.
        degrees: degrees of freedom of `sd`.
        comparisons: number of differences that share Holm's correction.
        n: seeds that each difference has now.
        smallest: number of seeds -> smallest true difference that they show with the wanted power; None where none is large enough.
        needed: seeds for the wanted difference; None where none was asked for, or more than 1,000 are needed.
    """

    table: str
    column: str
    metric: Metric
    words: str
    sd: float
    sd_interval: Interval
    degrees: int
    comparisons: int
    n: int
    smallest: dict[int, float | None]
    needed: int | None


def planned_test(result: TableResult) -> PlannedTest:
    """The test that is planned for: for Wilcoxon's the sign-flip test, which can reject at the same numbers of seeds."""
    return "t" if result.test == "t" else "sign_flip"


def seed_targets(result: TableResult, *, power: float = 0.8, difference: float | None = None) -> list[Target]:
    """What the seeds of a table can show: for each compared column the differences of single rows, and that of the mean over rows.

    Args:
        difference: the smallest difference that matters, as printed (percentage points for accuracies); None: not said.

    Returns:
        Nothing for a table without a baseline, or without two seeds of any difference yet.

    Raises:
        ConfigError: the power or the difference is out of range.
    """
    targets = []
    for metric in result.metrics:
        for column in result.columns:
            deltas = [cell.delta for cell in result.cells if (cell.column, cell.metric) == (column, metric) and cell.delta is not None]
            sd = pooled_sd([delta.sd for delta in deltas], [delta.n for delta in deltas])
            if sd is not None:
                degrees = sum(delta.n - 1 for delta in deltas if delta.sd is not None)
                n = statistics.mode(delta.n for delta in deltas if delta.sd is not None)
                single = (
                    f"{one_line(column)} − {one_line(result.baseline)}, a row by itself"
                    if result.comparisons > 1
                    else _pair(result, column)
                )
                targets.append(_target(result, column, metric, single, sd, degrees, max(result.comparisons, 1), n, power, difference))
        for average in result.averages:
            if average.metric == metric and average.delta is not None and average.delta.sd is not None:
                words = f"{_pair(result, average.column)}, mean over {len(result.complete_rows)} rows"
                n = average.delta.n
                targets.append(_target(result, average.column, metric, words, average.delta.sd, n - 1, 1, n, power, difference))
    return targets


def _pair(result: TableResult, column: str) -> str:
    return f"{one_line(column)} − {one_line(result.baseline)}"


def _target(
    result: TableResult,
    column: str,
    metric: str,
    words: str,
    sd: float,
    degrees: int,
    comparisons: int,
    n: int,
    power: float,
    difference: float | None,
) -> Target:
    described, test = describe(metric), planned_test(result)

    def smallest(seeds: int) -> float | None:
        return smallest_difference(sd, seeds, alpha=result.alpha, power=power, comparisons=comparisons, test=test)

    needed = None
    if difference is not None:
        needed = seeds_needed(sd, difference / described.scale, alpha=result.alpha, power=power, comparisons=comparisons, test=test)
    return Target(
        table=result.name,
        column=column,
        metric=described,
        words=words,
        sd=sd,
        sd_interval=sd_interval(sd, degrees),
        degrees=degrees,
        comparisons=comparisons,
        n=n,
        smallest={seeds: smallest(seeds) for seeds in _ladder(n)},
        needed=needed,
    )


def _ladder(n: int) -> Sequence[int]:
    return [n, *(seeds for seeds in LADDER if seeds > n)]
