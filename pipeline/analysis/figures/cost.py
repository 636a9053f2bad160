"""Cost against accuracy: one marker a cell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import STYLE, decorate, dot_style, plain
from pipeline.analysis.metrics import describe
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.tables.references import data_levels
from pipeline.analysis.wording import join_words, one_line, wrap
from pipeline.errors import counted

TIME = "time_train_s"
MAX_PANELS = 6
MAX_LABELS = 24
_WIDTH, _HEIGHT, _LINE = 5.2, 3.1, 0.15  # inches: a panel with its labels, a panel, a line of a label
_LABEL_CHARACTERS = 28
_DEVICE = ("env_device_name", "env_device")  # the first that is known


@dataclass(frozen=True)
class CostPoint:
    """One cell as a point.

    Attributes:
        cell: with its mean and SD.
        seconds: median training time of a trial, as each of its epochs says it: the time of the epoch times the number of epochs.
        quartiles: first and third quartile of the same times.
    """

    cell: CellResult
    seconds: float
    quartiles: tuple[float, float]


def cost(result: TableResult, trials: pa.Table, history: pa.Table | None = None) -> Drawing | None:
    """The table's metric over the training time of a trial: one panel a metric and dataset, at most 6.

    Times are of the wall clock, and a shared machine makes single epochs slow: shown is the median over the epochs of a cell's trials,
    with a bar over their middle half. No front is drawn, as the order of near times may be another in the next run.
    Colour and marker are the column; the row is written at the right, with a line to its dearest marker and thin lines to its others.
    The time axis is logarithmic where times span a factor of more than 10.

    Args:
        trials: results/trials.parquet.
        history: results/history.parquet; a trial without times of its epochs there is taken with its whole training time.

    Returns:
        The figure, or None when no panel has two complete cells with times.
    """
    panels, untimed = cost_points(result, trials, history)
    if not panels:
        return None
    shown = panels[:MAX_PANELS]
    note, scale = _note(result, shown, untimed, trials, history), _unit([point.seconds for panel in shown for point in panel])
    if len(panels) > len(shown):
        note += f" {counted(len(panels) - len(shown), 'more panel')} not shown."
    labelled = [_labelled(panel) for panel in shown]
    if any(len(rows) < len({point.cell.row for point in panel}) for rows, panel in zip(labelled, shown, strict=True)):
        note += f" Only the {MAX_LABELS} rows with the best values are named."
    levels = [column for column in result.columns if any(point.cell.column == column for panel in shown for point in panel)]
    by_level = result.column_kind == "level"
    with matplotlib.rc_context(STYLE):
        columns = min(len(shown), 2)
        lines = max(sum(len(wrap(row, _LABEL_CHARACTERS)) + 0.3 for row in rows) for rows in labelled)
        rows = math.ceil(len(shown) / columns)
        figure = Figure(figsize=(_WIDTH * columns, rows * max(_HEIGHT, _LINE * lines + 0.8) + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        stacks = [
            _draw(ax, panel, names, scale, {column: i if by_level else 0 for i, column in enumerate(result.columns)})
            for ax, panel, names in zip(axes, shown, labelled, strict=False)
        ]
        for ax in axes[len(shown) :]:
            ax.remove()
        styles = [(column, {**dot_style(result.columns.index(column)), "markersize": 6}) for column in levels] if by_level else []
        decorate(figure, f"Cost: {one_line(result.title)}", note, " / ".join(result.column_fields), styles)
        figure.draw_without_rendering()  # only now it is known how high the panels are
        for ax, stack in zip(axes, stacks, strict=False):
            _spread_labels(ax, stack)
    facts = [_fact(point) for panel in shown for point in panel]
    return figure, caption_of("cost", result.name, note, facts)


def cost_points(result: TableResult, trials: pa.Table, history: pa.Table | None = None) -> tuple[list[list[CostPoint]], list[CellResult]]:
    """Points of the panels, and complete cells left out as a trial has no time. A panel has one metric, one dataset, two points or more."""
    seconds = _times(result, trials, history)
    groups: dict[tuple[str, str, str], list[CostPoint]] = {}
    untimed = []
    for cell in result.cells:
        if cell.mean is None or describe(cell.metric).selection is None:  # a time or a size is a cost itself
            continue
        times = [seconds[trial_id] for trial_id in cell.trial_ids if trial_id in seconds]
        if len(times) < cell.n:
            untimed.append(cell)
            continue
        low, median, high = np.quantile(np.concatenate(times), (0.25, 0.5, 0.75)).tolist()
        column = cell.column if result.column_kind == "metric" else ""
        groups.setdefault((cell.metric, column, data_levels(cell)), []).append(CostPoint(cell, median, (low, high)))
    return [group for group in groups.values() if len(group) > 1], untimed


def _times(result: TableResult, trials: pa.Table, history: pa.Table | None) -> dict[str, np.ndarray]:
    """trial id -> training time of the trial in seconds, as each of its epochs says it; where no epoch has one, the whole."""
    whole = {trial_id: np.array([value]) for trial_id, value in _finite(trials)}
    if history is None:
        return whole
    ids = pa.array({trial_id for cell in result.cells for trial_id in cell.trial_ids}, pa.string())
    by_trial: dict[str, list[float]] = defaultdict(list)
    for trial_id, value in _finite(history.filter(pc.is_in(history["trial_id"], value_set=ids))):
        by_trial[trial_id].append(value)
    return whole | {trial_id: len(times) * np.array(times) for trial_id, times in by_trial.items()}


def _finite(table: pa.Table) -> list[tuple[str, float]]:
    """(trial id, training time) of the rows that have a time."""
    if TIME not in table.column_names:
        return []
    pairs = zip(table["trial_id"].to_pylist(), table[TIME].to_pylist(), strict=True)
    return [(trial_id, value) for trial_id, value in pairs if value is not None and math.isfinite(value) and value > 0]


def _labelled(panel: Sequence[CostPoint]) -> list[str]:
    """Rows whose names are written, in order: all, or those with the best values."""
    sign = -1 if describe(panel[0].cell.metric).higher_is_better else 1
    rows = list(dict.fromkeys(point.cell.row for point in panel))
    best = dict.fromkeys(point.cell.row for point in sorted(panel, key=lambda point: sign * (point.cell.mean or 0.0)))
    named = set(list(best)[:MAX_LABELS])
    return [row for row in rows if row in named]


def _draw(
    ax: Axes, panel: Sequence[CostPoint], names: Sequence[str], scale: tuple[float, str], index_of: Mapping[str, int]
) -> list[tuple[Annotation, float, int]]:
    """Draws a panel and returns its row labels, each with the y (in axes fractions) that it is about and its number of lines."""
    metric, (a_unit, unit) = describe(panel[0].cell.metric), scale
    span = max(point.seconds for point in panel) / min(point.seconds for point in panel)
    if span > 10:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    def place(point: CostPoint) -> tuple[float, float]:
        return point.seconds / a_unit, (point.cell.mean or 0.0) * metric.scale

    places: dict[str, list[tuple[float, float]]] = {}
    for point in panel:
        places.setdefault(point.cell.row, []).append(place(point))
    for of_row in places.values():
        ax.plot(*zip(*sorted(of_row), strict=True), color="#c8c8ce", linewidth=0.8)
    for point in panel:
        style = dot_style(index_of[point.cell.column])
        x, y = place(point)
        sd = None if point.cell.sd is None else point.cell.sd * metric.scale
        low, high = (quartile / a_unit for quartile in point.quartiles)
        marker: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.4}
        ax.errorbar(x, y, yerr=sd, xerr=[[x - low], [high - x]], **style, **marker, ecolor=style["color"], elinewidth=0.9)
    ax.set_xlabel(f"training time of a trial ({unit})")
    ax.set_ylabel("\n".join(wrap(metric.quantity, 34)))
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top)
    stack = []
    for row in names:
        x, y = max(places[row])
        lines = wrap(row, _LABEL_CHARACTERS)
        arrow = {"arrowstyle": "-", "relpos": (0, 0.5), "zorder": 1, "color": "#9a9aa0", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
        text = ax.annotate(plain("\n".join(lines)), (x, y), xytext=(1.03, 0.5), textcoords="axes fraction", va="center", fontsize=8,
                           linespacing=1.0, arrowprops=arrow, annotation_clip=False)  # fmt: skip
        stack.append((text, (y - bottom) / (top - bottom), len(lines)))
    return sorted(stack, key=lambda entry: entry[1])


def _spread_labels(ax: Axes, stack: Sequence[tuple[Annotation, float, int]]) -> None:
    """Moves the labels apart, none further from its row than need be: the nearest places in order, by isotonic regression."""
    from scipy.optimize import isotonic_regression  # takes long to import, and most tables need none

    if not stack:
        return
    inches = ax.get_window_extent().height / ax.figure.dpi
    tall = [_LINE * (lines + 0.3) / inches for _, _, lines in stack]
    middles = [sum(tall[:i]) + tall[i] / 2 for i in range(len(stack))]  # of labels that stand close together
    free = isotonic_regression([y - middle for (_, y, _), middle in zip(stack, middles, strict=True)]).x
    room = max(1 - sum(tall), 0.0)
    for (text, _, _), shift, middle in zip(stack, free, middles, strict=True):
        text.set_position((1.03, min(max(float(shift), 0.0), room) + middle))


def _unit(seconds: Sequence[float]) -> tuple[float, str]:
    longest = max(seconds)
    return (1.0, "s") if longest < 120 else (60.0, "min") if longest < 7200 else (3600.0, "h")


def _note(result: TableResult, panels: Sequence[Sequence[CostPoint]], untimed: Sequence[CellResult], trials: pa.Table,
          history: pa.Table | None) -> str:  # fmt: skip
    cells = [point.cell for panel in panels for point in panel]
    seeds = join_words(sorted({cell.n for cell in cells}))
    parts = [
        f"Means over n = {seeds} seeds; bars: ± sample SD." if any(cell.n > 1 for cell in cells) else "One seed.",
        "Time: wall clock, number of epochs × median epoch of a cell's trials; bars: the middle half of the epochs."
        if history is not None and TIME in history.column_names
        else "Time: wall clock, median over a cell's trials; bars: the middle half.",
        *(
            ["Thin lines join the cells of a row."]
            if any(len({point.cell.row for point in panel}) < len(panel) for panel in panels)
            else []
        ),
        *_hardware({trial_id for cell in cells for trial_id in cell.trial_ids}, trials),
    ]
    without = {
        "a seed": [cell for cell in result.cells if cell.mean is None],
        "a training time": untimed,
    }
    for what, absent in without.items():
        names = dict.fromkeys(_place(result, cell) for cell in absent)
        parts += [f"Without a marker, as {what} is missing: {', '.join(names)}."] if names else []
    return " ".join(parts)


def _hardware(trial_ids: set[str], trials: pa.Table) -> list[str]:
    """What the trials ran on and what their times are worth; a warning where devices or numbers of threads differ."""
    device = next((name for name in _DEVICE if name in trials.column_names), "")
    names = [name for name in (device, "env_threads") if name in trials.column_names]
    rows: list[dict[str, Any]] = [row for row in trials.select(["trial_id", *names]).to_pylist() if row["trial_id"] in trial_ids]
    found = {name: sorted({str(row[name]) for row in rows if row[name] is not None}) for name in names}
    words = {device: "on different devices ({})", "env_threads": "with different numbers of threads ({})"}
    mixed = [words[name].format(", ".join(map(one_line, values))) for name, values in found.items() if len(values) > 1]
    if mixed:
        return [f"Trials ran {join_words(mixed)}, so their times cannot be compared."]
    threads = [counted(int(value), "thread") for value in found.get("env_threads", [])]
    known = f" ({', '.join([*map(one_line, found.get(device, [])), *threads])})" if any(found.values()) else ""
    return [f"Trials may have shared the machine{known}: a time is how long they took, not what a method costs."]


def _place(result: TableResult, cell: CellResult) -> str:
    return f"{one_line(cell.row)}/{one_line(cell.column)}" if result.column_kind == "level" else one_line(cell.row)


def _fact(point: CostPoint) -> str:
    cell, metric = point.cell, describe(point.cell.metric)
    value = f"{metric.spread(cell.mean or 0.0, cell.sd)}{' ' * bool(metric.unit)}{metric.unit}"
    a_unit, unit = _unit([point.seconds])
    return f"{one_line(cell.row)}/{one_line(cell.column)}: {value} in {point.seconds / a_unit:.3g} {unit}"
