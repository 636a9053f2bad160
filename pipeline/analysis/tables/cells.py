"""What a table is made of once it is filled: plain data, free of any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.analysis.published import PublishedColumn
from pipeline.analysis.statistics.paired import Test
from pipeline.analysis.statistics.rankings import Rankings


@dataclass(frozen=True)
class Missing:
    """One seed that a cell lacks, and why.

    Attributes:
        seed: repetition index.
        state: state of the trial; 'complete' when it finished without a usable value of the cell's metric.
        reason: what the record or the plan says; may be empty.
        trial_id: the trial that should have filled it; None when it was never planned.
    """

    seed: int
    state: str
    reason: str
    trial_id: str | None


@dataclass(frozen=True)
class Delta:
    """Difference cell - baseline, paired by seed, in stored units. `pipeline.analysis.statistics.paired` has the formulas.

    Attributes:
        mean, sd: mean and sample SD (ddof=1; None for one pair) of the differences; `mean` is None while either cell lacks a seed.
        n: number of pairs.
        baseline_row, baseline_column: the cell that is subtracted.
        ci, bootstrap_ci: confidence intervals of the mean (Student t; percentile bootstrap); None where `sd` is.
        p_sign_flip, p_t, p_wilcoxon: two-sided p values; None where the test says nothing.
        p: the one of the table's test.
        p_holm: `p` after Holm's correction over all differences of the table.
        significant: whether `p_holm` is at most the table's level.
        effect: Cohen's d_z, mean / sd.
    """

    mean: float | None
    sd: float | None
    n: int
    baseline_row: str
    baseline_column: str
    se: float | None = None
    ci: tuple[float, float] | None = None
    bootstrap_ci: tuple[float, float] | None = None
    p_sign_flip: float | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p: float | None = None
    p_holm: float | None = None
    significant: bool = False
    effect: float | None = None


@dataclass(frozen=True)
class CellResult:
    """One number of a table.

    Attributes:
        mean: mean over all planned seeds, in stored units (fractions); None while any seed is missing.
        sd, se: sample SD (ddof=1) and standard error of the mean; None for one seed or a missing mean.
        median: of the same values.
        ci, bootstrap_ci: confidence intervals of the mean (Student t; percentile bootstrap); None where `sd` is.
        n: number of seeds with a value; the mean exists only when that is all of them.
        seeds, values, trial_ids: aligned, one a seed with a value.
        run_ids: MLflow runs of those trials, as far as known.
        delta: difference to the baseline; None for the baseline itself and in tables without one.
        best: whether it is the best of its row (columns are levels) or of its column (columns are metrics). Needs a rival with a mean;
            where all are equal all are the best.
        top: whether it is the best or cannot be told from it by the table's test, after Holm's correction over its rivals.
    """

    row: str
    column: str
    metric: str
    arm: str | None
    cell_id: str | None
    n: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    trial_ids: tuple[str, ...]
    run_ids: tuple[str, ...]
    missing: tuple[Missing, ...]
    row_levels: Mapping[str, Any]
    column_levels: Mapping[str, Any]
    mean: float | None = None
    sd: float | None = None
    se: float | None = None
    median: float | None = None
    ci: tuple[float, float] | None = None
    bootstrap_ci: tuple[float, float] | None = None
    delta: Delta | None = None
    best: bool = False
    top: bool = False

    @property
    def planned_n(self) -> int:
        """Number of seeds that the cell is planned for."""
        return self.n + len(self.missing)

    @cached_property
    def by_seed(self) -> dict[int, float]:
        """seed -> value."""
        return dict(zip(self.seeds, self.values, strict=True))


@dataclass(frozen=True)
class Average:
    """A column averaged over the complete rows: per seed first, then mean and sample SD over the seeds.

    Attributes:
        delta: its difference to the baseline column; its p value stands by itself, outside the table's correction.
    """

    column: str
    metric: str
    mean: float
    sd: float | None
    n: int
    ci: tuple[float, float] | None = None
    delta: Delta | None = None


@dataclass(frozen=True)
class Versus:
    """A column against the baseline's, over the rows where both are complete.

    Attributes:
        wins, ties, losses: rows where its mean is better, equal, worse.
        significant_wins, significant_losses: those of them that the table's test finds.
        improvement: probability that a seed of it is better than a seed of the baseline, averaged over rows.
    """

    column: str
    metric: str
    wins: int
    ties: int
    losses: int
    significant_wins: int
    significant_losses: int
    improvement: float


@dataclass(frozen=True)
class Reference:
    """What a map that does not look at the image gets in metrics of the table, on the test images of the same trials.

    Attributes:
        column: column of what it gets; CAAM and CAM share it.
        words: 'flat map' or 'centre'.
        low, high: smallest and largest mean over the trials of one dataset, in stored units; equal in a table of one dataset.
        datasets: those that have it, in words; empty in a table of one dataset.
    """

    column: str
    words: str
    low: float
    high: float
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableResult:
    """A finished table, free of any format; `cells` go row by row, the metrics of one place side by side.

    Attributes:
        row_parts, column_parts: the labels of `rows` and `columns`, field by field.
        metrics: distinct metrics, in order.
        test, alpha, confidence: how differences are judged.
        comparisons: number of differences that share Holm's correction.
        style: as `pipeline.study.presentation.Style`.
        complete_rows: rows without a missing number; averages and ranks are over these.
        rankings: by metric, in tables of two complete rows or more whose columns are levels.
    """

    study: str
    name: str
    title: str
    row_fields: tuple[str, ...]
    rows: tuple[str, ...]
    row_parts: tuple[tuple[str, ...], ...]
    column_fields: tuple[str, ...]
    columns: tuple[str, ...]
    column_parts: tuple[tuple[str, ...], ...]
    column_kind: str
    metrics: tuple[str, ...]
    baseline: str | None
    selection: str
    seeds: tuple[int, ...]
    fixed: Mapping[str, Any]
    test: Test
    alpha: float
    confidence: float
    comparisons: int
    style: Mapping[str, Any]
    cells: tuple[CellResult, ...]
    complete_rows: tuple[str, ...] = ()
    averages: tuple[Average, ...] = field(default=())
    versus: tuple[Versus, ...] = field(default=())
    rankings: Mapping[str, Rankings] = field(default_factory=dict)
    references: tuple[Reference, ...] = field(default=())
    published: tuple[PublishedColumn, ...] = field(default=())

    @cached_property
    def usual_n(self) -> int:
        """The number of seeds that most cells are planned for (the larger one of two equally frequent)."""
        sizes = Counter(cell.planned_n for cell in self.cells)
        return max(sizes, key=lambda n: (sizes[n], n)) if sizes else len(self.seeds)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], dict[str, CellResult]]:
        places: dict[tuple[str, str], dict[str, CellResult]] = {}
        for cell in self.cells:
            places.setdefault((cell.row, cell.column), {})[cell.metric] = cell
        return places

    def cell(self, row: str, column: str, metric: str | None = None) -> CellResult | None:
        """The cell at (row, column), of the first metric there unless one is named; None when the design has none there."""
        place = self._by_place.get((row, column), {})
        return place.get(metric) if metric is not None else next(iter(place.values()), None)
