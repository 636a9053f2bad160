"""What a table is made of once it is filled: plain data, free of any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    """Difference cell - baseline, paired by seed.

    Attributes:
        mean, sd: mean and sample SD (ddof=1; None for one pair) of the differences, in stored units.
        n: number of pairs.
        p: two-sided p value of the paired t test; None for one pair or when all differences are equal.
        baseline_row, baseline_column: the cell that is subtracted.
    """

    mean: float | None
    sd: float | None
    n: int
    p: float | None
    baseline_row: str
    baseline_column: str


@dataclass(frozen=True)
class CellResult:
    """One number of a table.

    Attributes:
        mean: mean over all planned seeds, in stored units (fractions); None while any seed is missing.
        sd: sample SD (ddof=1); None for one seed or a missing mean.
        ci95: 95 % confidence interval of the mean (Student t); None where `sd` is.
        n: number of seeds with a value; the mean exists only when that is all of them.
        seeds, values, trial_ids: aligned, one a seed with a value.
        run_ids: MLflow runs of those trials, as far as known.
        delta: difference to the baseline; None for the baseline itself and in tables without one.
        best: whether it is the best of its row (columns are levels) or of its column (columns are metrics). Needs a rival with a mean.
    """

    row: str
    column: str
    metric: str
    arm: str | None
    cell_id: str | None
    mean: float | None
    sd: float | None
    ci95: tuple[float, float] | None
    n: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    trial_ids: tuple[str, ...]
    run_ids: tuple[str, ...]
    missing: tuple[Missing, ...]
    row_levels: Mapping[str, Any]
    column_levels: Mapping[str, Any]
    delta: Delta | None = None
    best: bool = False

    @property
    def by_seed(self) -> dict[int, float]:
        """seed -> value."""
        return dict(zip(self.seeds, self.values, strict=True))


@dataclass(frozen=True)
class Average:
    """A column averaged over its rows: per seed first, then mean and sample SD over the seeds."""

    column: str
    metric: str
    mean: float
    sd: float | None
    n: int
    delta: Delta | None = None


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
    """A finished table, free of any format; `cells` go row by row."""

    study: str
    name: str
    title: str
    row_fields: tuple[str, ...]
    rows: tuple[str, ...]
    column_fields: tuple[str, ...]
    columns: tuple[str, ...]
    column_kind: str
    baseline: str | None
    selection: str
    seeds: tuple[int, ...]
    fixed: Mapping[str, Any]
    cells: tuple[CellResult, ...]
    averages: tuple[Average, ...] = field(default=())
    references: tuple[Reference, ...] = field(default=())

    def cell(self, row: str, column: str) -> CellResult | None:
        """The cell at (row, column); None when the design has none there."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)
