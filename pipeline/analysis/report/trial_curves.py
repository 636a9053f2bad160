"""What a trial measured epoch by epoch, as small drawings: one a quantity, its splits as lines. Letters: T epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from pipeline.analysis.metrics import describe
from pipeline.metric_names import METRICS

Floats = npt.NDArray[np.float64]

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 256, 6, 94  # of the lines, in the 260 x 100 units of a drawing
_MOST = 125  # points of a line: two units of the drawing apart
_SPLIT = re.compile(r"metric_(train|val|test)_(.+)")
_SYSTEM_SCALE = {"bytes": (2.0**-20, "MiB"), "percent": (1.0, "%"), "s": (1.0, "s")}


@dataclass(frozen=True)
class Quantity:
    """What one drawing shows: its words, and a column of the history a split ('' for a quantity without splits)."""

    words: str
    unit: str
    scale: float
    decimals: int
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Curve:
    """A drawing: `lines` are (split, data of an SVG path), `last` says the last value of each in words."""

    words: str
    low: str
    high: str
    epochs: str
    last: str
    lines: tuple[tuple[str, Markup], ...]


class Histories:
    """The rows of results/history.parquet by trial, without a Python object a number; as that file is sorted by trial and epoch."""

    def __init__(self, history: pa.Table | None) -> None:
        self._rows: dict[str, tuple[int, int]] = {}
        if history is None or not len(history):
            self.quantities: tuple[Quantity, ...] = ()
            return
        runs = pc.run_end_encode(history["trial_id"].combine_chunks())
        ends = runs.run_ends.to_pylist()
        self._rows = {name: (start, end) for name, start, end in zip(runs.values.to_pylist(), [0, *ends[:-1]], ends, strict=True)}
        self.quantities = quantities(history.column_names)
        wanted = {column for quantity in self.quantities for _, column in quantity.columns}
        self._columns = {name: history[name].combine_chunks().cast(pa.float64()) for name in ("epoch", *sorted(wanted))}

    def curves(self, trial_id: str) -> list[Curve]:
        """Drawings of one trial; [] where it has no history."""
        if trial_id not in self._rows:
            return []
        start, end = self._rows[trial_id]
        values = {name: column.slice(start, end - start).to_numpy(zero_copy_only=False) for name, column in self._columns.items()}
        return [curve for quantity in self.quantities if (curve := _curve(quantity, values)) is not None]


def quantities(columns: Sequence[str]) -> tuple[Quantity, ...]:
    """What the columns of a history measure: metrics first, split by split, then learning rate, times and load of the machine."""
    by_stem: dict[str, list[tuple[str, str]]] = {}
    for column in columns:
        if match := _SPLIT.fullmatch(column):
            by_stem.setdefault(match[2], []).append((match[1], column))
    order = list(METRICS)
    stems = sorted(by_stem, key=lambda stem: order.index(stem) if stem in METRICS else len(order))
    found = [_metric(stem, by_stem[stem]) for stem in stems]
    for column in columns:
        if column.startswith(("metric_", "time_", "system_")) and not _SPLIT.fullmatch(column):
            found.append(_plain(column))
    return tuple(found)


def _metric(stem: str, members: Sequence[tuple[str, str]]) -> Quantity:
    splits = tuple((split, dict(members)[split]) for split in _SPLITS if split in dict(members))
    metrics = [describe(column) for _, column in splits]
    shown = next((metric for metric in metrics if metric.unit), metrics[0])
    words = re.sub(r"\b(training|validation|test) | in the (training|validation|test) split", "", shown.words)
    return Quantity(words, shown.unit, shown.scale, shown.decimals, splits)


def _plain(column: str) -> Quantity:
    if column == "metric_lr":
        return Quantity("learning rate", "", 1.0, 4, (("", column),))
    words = re.sub("^(metric|time|system)_", "", column)
    scale, unit = _SYSTEM_SCALE.get(words.rpartition("_")[2], (1.0, ""))
    words = words.rpartition("_")[0] if unit else words
    lead = {"time": "time: ", "system": "machine: "}.get(column.partition("_")[0], "")
    return Quantity(lead + words.replace("_", " "), unit, scale, 2, (("", column),))


def _curve(quantity: Quantity, values: Mapping[str, Floats]) -> Curve | None:
    lines = [(split, *_measured(values["epoch"], values[column] * quantity.scale)) for split, column in quantity.columns]
    lines = [line for line in lines if len(line[1])]
    if not lines:
        return None
    low, high = min(y_T.min() for _, _, y_T in lines), max(y_T.max() for _, _, y_T in lines)
    first, last = values["epoch"][0], values["epoch"][-1]

    def text(value: float) -> str:
        return f"{value:z.{quantity.decimals}f}"

    return Curve(
        words=f"{quantity.words} ({quantity.unit})" if quantity.unit else quantity.words,
        low=text(low),
        high=text(high),
        epochs=f"{first:g} to {last:g}" if last > first else f"{first:g}",
        last=", ".join(f"{_SPLITS[split]} {text(y_T[-1])}" if split else text(y_T[-1]) for split, _, y_T in lines),
        lines=tuple((split, _path(x_T, y_T, (first, last), (low, high))) for split, x_T, y_T in lines),
    )


def _measured(epoch_T: Floats, value_T: Floats) -> tuple[Floats, Floats]:
    """The epochs at which there is a number, and the numbers."""
    known = np.isfinite(value_T)
    return (epoch_T, value_T) if known.all() else (epoch_T[known], value_T[known])


def _path(x_T: Floats, y_T: Floats, x_range: tuple[float, float], y_range: tuple[float, float]) -> Markup:
    """Data of a path, in steps from point to point, which are short to write; a line of one point gets a short stroke."""
    step = -(-len(x_T) // _MOST)
    x_T, y_T = x_T[::-step][::-1], y_T[::-step][::-1]  # the last point stays
    width, height = x_range[1] - x_range[0] or 1.0, y_range[1] - y_range[0]
    across = _LEFT + (_RIGHT - _LEFT) * (x_T - x_range[0]) / width
    down = _BOTTOM - (_BOTTOM - _TOP) * ((y_T - y_range[0]) / height if height else np.full_like(y_T, 0.5))
    pairs = np.empty((len(x_T), 2), dtype=np.int64)
    pairs[:, 0], pairs[:, 1] = np.rint(across), np.rint(down)
    steps = (pairs[1:] - pairs[:-1]).ravel().tolist() or [3, 0]
    return Markup(f"M{pairs[0, 0]} {pairs[0, 1]}l{str(steps)[1:-1].replace(',', '')}")  # noqa: S704  # whole numbers alone
