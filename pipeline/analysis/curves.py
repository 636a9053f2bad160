"""Accuracy over epochs, aggregated over seeds: the numbers behind the figure and behind `dvc plots`. Letters: S seeds, T epochs."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.analysis.wording import file_stem
from pipeline.store.bare_arrays import numpy_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Series = tuple[Ints, Floats]  # epochs in rising order, and the accuracy at each

_COLUMNS = {"val": "metric_val_acc_top1", "test": "metric_test_acc_top1"}


@dataclass(frozen=True)
class Curve:
    """Mean over seeds of one accuracy, epoch by epoch.

    Attributes:
        row, column: where it belongs; in a table whose columns are metrics `column` is '', as they share their trials.
        split: 'val' or 'test'.
        epochs: 1-based; only epochs that every seed has.
        mean, sd: fractions, one an epoch; `sd` (ddof=1) is empty for one seed.
        n: number of seeds.
    """

    row: str
    column: str
    split: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    n: int

    @property
    def label(self) -> str:
        """'row/column', or 'row' where the columns are metrics."""
        return f"{self.row}/{self.column}" if self.column else self.row


def accuracy_curves(spec: Mapping[str, Any], history: pa.Table, trials: pa.Table) -> tuple[list[Curve], list[str]]:
    """Curves of all cells whose trials are complete, and the labels of those left out because a seed is missing.

    All curves of a table show one split: validation if every shown trial has it, else test.

    Args:
        spec: one entry of `tables` in tables.json.
        history: results/history.parquet, one row a trial and epoch (1-based), accuracies as fractions.
        trials: results/trials.parquet.
    """
    states = dict(zip(trials["trial_id"].to_pylist(), trials["state"].to_pylist(), strict=True))
    cells: dict[tuple[str, str], list[str | None]] = {}
    for cell in spec["cells"]:
        column = cell["column"] if spec["column_kind"] == "level" else ""
        by_seed = {trial["seed"]: trial["trial_id"] for trial in cell["trials"]}
        cells[cell["row"], column] = [by_seed.get(seed) for seed in sorted({*spec["seeds"], *by_seed})]
    complete = {key: [i for i in ids if i] for key, ids in cells.items() if all(i and states.get(i) == "complete" for i in ids)}
    wanted = {trial_id for ids in complete.values() for trial_id in ids}
    split, values = _one_split(history, wanted)
    curves = [_curve(key, split, [values[i] for i in ids]) for key, ids in complete.items() if all(i in values for i in ids)]
    shown = {(curve.row, curve.column) for curve in curves}
    return curves, ["/".join(filter(None, key)) for key in cells if key not in shown]


def _one_split(history: pa.Table, wanted: Set[str]) -> tuple[str, dict[str, Series]]:
    """The first split that all wanted trials have, else the one that most have, and its accuracies by trial."""
    rows = _rows_of(history, wanted)
    candidates = [(split, _series(history, column, rows)) for split, column in _COLUMNS.items()]
    return max(candidates, key=lambda candidate: len(candidate[1]))


def _rows_of(history: pa.Table, wanted: Set[str]) -> dict[str, list[slice]]:
    """Trial id -> where its rows stand: one piece in results/history.parquet, which is sorted, perhaps several elsewhere."""
    runs = pc.run_end_encode(history["trial_id"].combine_chunks())
    ends = runs.run_ends.to_pylist()
    rows: dict[str, list[slice]] = {}
    for trial_id, start, end in zip(runs.values.to_pylist(), [0, *ends[:-1]], ends, strict=True):
        if trial_id in wanted:
            rows.setdefault(trial_id, []).append(slice(start, end))
    return rows


def _series(history: pa.Table, column: str, rows: Mapping[str, Sequence[slice]]) -> dict[str, Series]:
    """Trial id -> its accuracies, of the trials that have any: a null or NaN is none."""
    if column not in history.column_names:
        return {}
    epochs_M = numpy_of(history["epoch"].cast(pa.int64()))
    values_M = numpy_of(pc.fill_null(history[column].cast(pa.float64()), math.nan))  # the cast is for a column that is null throughout
    series = {}
    for trial_id, pieces in rows.items():
        epoch_T, value_T = (np.concatenate([array_M[piece] for piece in pieces]) for array_M in (epochs_M, values_M))
        there_T = np.isfinite(value_T)
        if there_T.any():
            series[trial_id] = _in_order(epoch_T[there_T], value_T[there_T])
    return series


def _in_order(epoch_T: Ints, value_T: Floats) -> Series:
    """By epoch; of two rows of one epoch the later counts."""
    if (epoch_T[1:] > epoch_T[:-1]).all():
        return epoch_T, value_T
    ordered_T, first_T = np.unique(epoch_T[::-1], return_index=True)
    return ordered_T, value_T[::-1][first_T]


def _curve(key: tuple[str, str], split: str, by_trial: Sequence[Series]) -> Curve:
    epoch_T = functools.reduce(_common, (own_T for own_T, _ in by_trial))
    values_ST = [value_T if len(own_T) == len(epoch_T) else value_T[np.isin(own_T, epoch_T)] for own_T, value_T in by_trial]
    n = len(values_ST)
    mean = tuple(math.fsum(values) / n for values in zip(*(value_T.tolist() for value_T in values_ST), strict=True))
    sd = tuple(sample_sd(np.array(values_ST)).tolist()) if n > 1 else ()
    return Curve(*key, split=split, epochs=tuple(epoch_T.tolist()), mean=mean, sd=sd, n=n)


def _common(a_T: Ints, b_T: Ints) -> Ints:
    return a_T if np.array_equal(a_T, b_T) else np.intersect1d(a_T, b_T)


def sample_sd(values_ST: Floats) -> Floats:
    """Sample SD (ddof=1) of each column; about the first row, so that equal values give exactly 0."""
    sd_T: Floats = (values_ST - values_ST[0]).std(axis=0, ddof=1)
    return sd_T


def curves_csv(curves: Iterable[Curve]) -> str:
    """Mean accuracy (fraction) over epochs in long form for `dvc plots`: one line a curve and epoch; `sd` is empty for one seed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "column", "split", "n", "epoch", "accuracy", "sd"])
    for curve in curves:
        same = map(itertools.repeat, (curve.row, curve.column, curve.split, curve.n))
        writer.writerows(zip(*same, curve.epochs, curve.mean, curve.sd or itertools.repeat(None), strict=False))
    return stream.getvalue()


def write_curves(document: Mapping[str, Any], *, trials: pa.Table, history: pa.Table, folder: Path) -> list[Path]:
    """Write `<table>.csv` for `dvc plots`, one a table that has a complete cell."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for spec in document["tables"]:
        curves, _ = accuracy_curves(spec, history, trials)
        if curves:
            paths.append(folder / f"{file_stem(spec['name'])}.csv")
            paths[-1].write_text(curves_csv(curves), encoding="utf-8", newline="\n")
    return paths
