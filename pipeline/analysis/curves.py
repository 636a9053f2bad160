"""Accuracy over epochs, aggregated over seeds: the numbers behind the figure and behind `dvc plots`."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.wording import file_stem

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


def _one_split(history: pa.Table, wanted: set[str]) -> tuple[str, dict[str, dict[int, float]]]:
    """The first split that all wanted trials have, else the one that most have: (split, trial_id -> epoch -> accuracy)."""
    candidates = []
    for split, column in _COLUMNS.items():
        values: dict[str, dict[int, float]] = defaultdict(dict)
        if column in history.column_names:
            # A null or NaN is no accuracy; the cast is for a column that is null throughout.
            kept = history.filter(pc.is_finite(history[column].cast(pa.float64())))
            for trial_id, epoch, value in zip(*(kept[name].to_pylist() for name in ("trial_id", "epoch", column)), strict=True):
                if trial_id in wanted:
                    values[trial_id][epoch] = value
        candidates.append((split, dict(values)))
    return max(candidates, key=lambda candidate: len(candidate[1]))


def _curve(key: tuple[str, str], split: str, by_trial: Sequence[Mapping[int, float]]) -> Curve:
    epochs = sorted(set.intersection(*(set(values) for values in by_trial)))
    mean = tuple(statistics.fmean(values[epoch] for values in by_trial) for epoch in epochs)
    sd = tuple(statistics.stdev(values[epoch] for values in by_trial) for epoch in epochs) if len(by_trial) > 1 else ()
    return Curve(*key, split=split, epochs=tuple(epochs), mean=mean, sd=sd, n=len(by_trial))


def curves_csv(spec: Mapping[str, Any], history: pa.Table, trials: pa.Table) -> str:
    """Mean accuracy (fraction) over epochs in long form for `dvc plots`: one line a curve and epoch; `sd` is empty for one seed."""
    curves, _ = accuracy_curves(spec, history, trials)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "column", "split", "n", "epoch", "accuracy", "sd"])
    for curve in curves:
        for epoch, mean, sd in itertools.zip_longest(curve.epochs, curve.mean, curve.sd):
            writer.writerow([curve.row, curve.column, curve.split, curve.n, epoch, mean, sd])
    return stream.getvalue()


def write_curves(document: Mapping[str, Any], *, trials: pa.Table, history: pa.Table, folder: Path) -> list[Path]:
    """Write `<table>.csv` for `dvc plots`, one a table that has a complete cell."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for spec in document["tables"]:
        if accuracy_curves(spec, history, trials)[0]:
            paths.append(folder / f"{file_stem(spec['name'])}.csv")
            paths[-1].write_text(curves_csv(spec, history, trials), encoding="utf-8", newline="\n")
    return paths
