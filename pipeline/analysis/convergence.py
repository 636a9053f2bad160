"""How fast the networks of a table learn: the first epoch at which each seed reaches a share of a final accuracy."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.curves import Curve, accuracy_curves
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.tables.references import data_levels

# T epochs of a trial, M rows of a history
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
SHARES = (0.9, 0.95, 0.99)
_NOISE = 1e-12  # 0.9 x 0.85 is a little more than 0.765 in floating point, and an accuracy of 0.765 has reached it


@dataclass(frozen=True)
class Reach:
    """How long one cell takes to one level.

    Attributes:
        group: row of the table whose cells are compared; its column where the rows hold several datasets; '' where columns are metrics.
        row, column: the cell; `column` is '' where columns are metrics, as they share their trials.
        split: 'val' or 'test'.
        share: of `reference`.
        reference: final accuracy that the levels are shares of, a fraction.
        from_baseline: whether that is the baseline's, or else the best of the group.
        epochs: first epoch at which a seed has the accuracy share x reference or more, one a seed; None where it never has.
        last: number of the last epoch of any seed.
    """

    group: str
    row: str
    column: str
    split: str
    share: float
    reference: float
    from_baseline: bool
    epochs: tuple[int | None, ...]
    last: int

    @property
    def level(self) -> float:
        """Accuracy to be reached, a fraction."""
        return self.share * self.reference

    @property
    def never(self) -> int:
        """Number of seeds that do not reach it."""
        return self.epochs.count(None)

    @property
    def mean(self) -> float | None:
        """Mean over all seeds; None where one of them never reaches the level, as a mean of the others would flatter."""
        return None if self.never else statistics.fmean(epoch for epoch in self.epochs if epoch is not None)


def epochs_to_reach(
    spec: Mapping[str, Any], result: TableResult, history: pa.Table, trials: pa.Table, *, shares: Sequence[float] = SHARES
) -> tuple[list[Reach], list[str]]:
    """One `Reach` a share and cell whose trials are complete, and the labels of the cells left out because a seed is missing.

    The reference of a group is the mean accuracy of its baseline cell at the last epoch, of the best one where there are several;
    where there is no complete baseline cell it is the best final mean of the group. A group is on one dataset.

    Args:
        spec: one entry of `tables` in tables.json.
        result: the same table, filled.
        history, trials: results/history.parquet, results/trials.parquet.
        shares: of the reference.
    """
    curves, incomplete = accuracy_curves(spec, history, trials)
    curves = [curve for curve in curves if curve.epochs]
    if not curves:
        return [], incomplete
    cells = {(cell.row, cell.column if result.column_kind == "level" else ""): cell for cell in reversed(result.cells)}
    ids = _trials_of(spec)
    series = _series(history, curves[0].split, {trial_id for curve in curves for trial_id in ids[curve.row, curve.column]})
    reaches = []
    for label, members in _groups(curves, cells, by_level=result.column_kind == "level"):
        baselines = [curve for curve in members if _is_baseline(cells[curve.row, curve.column], result.baseline)]
        reference = max(curve.mean[-1] for curve in baselines or members)
        for share, curve in itertools.product(shares, members):
            own = [series[trial_id] for trial_id in ids[curve.row, curve.column]]
            epochs = tuple(_first(*each, share * reference) for each in own)
            last = max(int(epoch_T[-1]) for epoch_T, _ in own)
            reaches.append(Reach(label, curve.row, curve.column, curve.split, share, reference, bool(baselines), epochs, last))
    return reaches, incomplete


def _groups(curves: Sequence[Curve], cells: Mapping[tuple[str, str], CellResult], *, by_level: bool) -> list[tuple[str, list[Curve]]]:
    """Curves that are compared, all on one dataset: those of a row; of a column where only the rows mix datasets."""
    data = {(curve.row, curve.column): data_levels(cells[curve.row, curve.column]) for curve in curves}
    mixed = [len({key[i] for key in data}) < len({(key[i], levels) for key, levels in data.items()}) for i in (0, 1)]
    axis = 1 if mixed == [True, False] else 0
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        key = curve.row, curve.column
        groups.setdefault((key[axis] if by_level else "", data[key]), []).append(curve)
    return [(label, members) for (label, _), members in groups.items()]


def _is_baseline(cell: CellResult, baseline: str | None) -> bool:
    return baseline is not None and baseline in (cell.arm, cell.column)


def _trials_of(spec: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Trials of each cell, seeds in order."""
    found = {}
    for cell in spec["cells"]:
        ordered = sorted(cell["trials"], key=lambda trial: trial["seed"])
        found[cell["row"], cell["column"] if spec["column_kind"] == "level" else ""] = [trial["trial_id"] for trial in ordered]
    return found


def _series(history: pa.Table, split: str, wanted: Set[str]) -> dict[str, tuple[Ints, Floats]]:
    """Trial id -> its epochs in order, and the accuracy at each; a null or NaN is no accuracy."""
    table = history.select(["trial_id", "epoch", f"metric_{split}_acc_top1"]).rename_columns(["trial_id", "epoch", "accuracy"])
    known = pc.is_in(table["trial_id"], value_set=pa.array(sorted(wanted), pa.string()))
    table = table.filter(pc.and_(known, pc.is_finite(table["accuracy"]))).combine_chunks()
    encoded = pc.dictionary_encode(table["trial_id"]).combine_chunks()  # sorting numbers is much faster than sorting texts
    code_M, epoch_M, accuracy_M = encoded.indices.to_numpy(), table["epoch"].to_numpy(), table["accuracy"].to_numpy()
    order_M = np.lexsort((epoch_M, code_M))
    bounds = np.searchsorted(code_M[order_M], np.arange(len(encoded.dictionary) + 1)).tolist()
    rows = [order_M[start:end] for start, end in itertools.pairwise(bounds)]
    return {name: (epoch_M[own], accuracy_M[own]) for name, own in zip(encoded.dictionary.to_pylist(), rows, strict=True)}


def _first(epoch_T: Ints, accuracy_T: Floats, level: float) -> int | None:
    reached_T = np.flatnonzero(accuracy_T >= level - _NOISE)
    return int(epoch_T[reached_T[0]]) if len(reached_T) else None
