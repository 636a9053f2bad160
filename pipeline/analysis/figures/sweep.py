"""Metrics over one numeric factor."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import STYLE, decorate, dot_style, grid_of_axes, line_style, plain
from pipeline.analysis.metrics import Metric, baselines, describe
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.tables.cells import Reference
from pipeline.analysis.wording import join_words, one_line

_LEAST = 0.2  # of a panel's height that the data keep; a reference further away is written at the edge
_SCALES = {"symlog": " (symmetric log)", "log": " (log)", "linear": ""}
_SOFT = "#444444"


def sweep(spec: Mapping[str, Any], result: TableResult) -> Drawing | None:
    """Metrics over one numeric factor: one panel a metric, mean with error bars of ± sample SD.

    Where the columns are levels each of them is a line, with a band instead of bars. The x axis is symlog when a level is 0 (linear up
    to the smallest positive level), log when all levels are positive and span a factor of 10 or more, else linear; its label says so.
    A metric of maps gets a dotted line for each map that does not look at the image, on the same test images.

    Returns:
        The figure, or None when the table is no sweep (see `is_sweep`) or has no complete cell.
    """
    if not is_sweep(spec) or all(cell.mean is None for cell in result.cells):
        return None
    by_level = result.column_kind == "level"
    drawn = [column for column in result.columns if any(cell.column == column and cell.mean is not None for cell in result.cells)]
    panels = [(metric, result.columns) for metric in result.metrics] if by_level else [("", (column,)) for column in drawn]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid_of_axes(len(panels), share_y=False)
        told = False
        for ax, (only, columns) in zip(axes, panels, strict=True):
            cells = [cell for cell in result.cells if cell.column in columns and only in ("", cell.metric)]
            metric = describe(cells[0].metric)
            # The scale comes first: margins are computed on it.
            _numeric_axis(ax, [_level(cell.row_levels) for cell in cells])
            for column in columns:
                _draw_line(ax, [cell for cell in cells if cell.column == column], metric, result.columns.index(column), band=by_level)
            told |= _draw_references(ax, metric, result.references)
            ax.set_xlabel(plain(result.row_fields[0]) + _SCALES[ax.get_xscale()])
            ax.set_ylabel(textwrap.fill(metric.quantity, 34))
        note = _note(result, by_level=by_level) + (" Dotted: a map that does not look at the image." if told else "")
        styles = {column: {**line_style(i), **_marker(i)} for i, column in enumerate(result.columns) if column in drawn}
        decorate(figure, result.title, note, " / ".join(result.column_fields), list(styles.items()) if by_level else [])
    return figure, caption_of("sweep", result.name, note, _facts(result))


def is_sweep(spec: Mapping[str, Any]) -> bool:
    """Whether the rows are numbers of one field, two or more where the columns are levels."""
    if len(spec["row_fields"]) != 1 or not spec["cells"] or (spec["column_kind"] == "level" and len(spec["rows"]) < 2):
        return False
    levels = [level for cell in spec["cells"] for level in cell["row_levels"].values()]
    return all(isinstance(level, int | float) and not isinstance(level, bool) and math.isfinite(level) for level in levels)


def _draw_line(ax: Axes, cells: Sequence[CellResult], metric: Metric, i: int, *, band: bool) -> None:
    complete = sorted((cell for cell in cells if cell.mean is not None), key=lambda cell: _level(cell.row_levels))
    x = [_level(cell.row_levels) for cell in complete]
    mean = [(cell.mean or 0.0) * metric.scale for cell in complete]
    sd = [(cell.sd or 0.0) * metric.scale for cell in complete]
    if not band:
        ax.errorbar(x, mean, yerr=sd, **line_style(i), **_marker(i), capsize=3)
        return
    ax.plot(x, mean, **line_style(i), **_marker(i))
    if any(sd):
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=line_style(i)["color"], alpha=0.15, linewidth=0)


def _draw_references(ax: Axes, metric: Metric, references: Sequence[Reference]) -> bool:
    """Dotted lines, of those that would leave too little room to the data only words at the edge; whether there are any."""
    columns = baselines(metric.column).values()
    values = sorted((value * metric.scale, each.words) for each in references if each.column in columns for value in {each.low, each.high})
    low, high = ax.get_ylim()
    style: dict[str, Any] = {"fontsize": 8, "color": _SOFT, "ha": "right", "textcoords": "offset points"}
    for i, (value, words) in enumerate(values):
        text = f"{words} {metric.number(value / metric.scale)}{f' {metric.unit}' * bool(metric.unit)}"
        if high - low >= _LEAST * (max(high, value) - min(low, value)):
            ax.axhline(value, linestyle=":", color=_SOFT)
            below = i == 0 and len(values) > 1  # the words of two near lines stand apart
            ax.annotate(text, (0.98, value), xycoords=("axes fraction", "data"), va="top" if below else "bottom",
                        xytext=(0, -3 if below else 2), **style)  # fmt: skip
            continue
        y, arrow, offset = (0, "↓", 10 * i + 2) if value < low else (1, "↑", -10 * (len(values) - i))
        ax.annotate(f"{arrow} {text}", (0.98, y), xycoords="axes fraction", va="bottom", xytext=(0, offset), **style)
    if values:
        ax.margins(y=0.12)
    return bool(values)


def _marker(i: int) -> dict[str, Any]:
    return {"marker": dot_style(i)["marker"]}


def _note(result: TableResult, *, by_level: bool) -> str:
    counts = sorted({cell.n for cell in result.cells if cell.mean is not None})
    spread = "band" if by_level else "bars"
    text = f"Mean over n = {' or '.join(map(str, counts))} seeds; {spread}: ± sample SD." if max(counts) > 1 else "One seed."
    absent = dict.fromkeys(f"{cell.row}/{cell.column}" if by_level else cell.row for cell in result.cells if cell.mean is None)
    return text + (f" Without a point, as a seed is missing: {', '.join(map(one_line, absent))}." if absent else "")


def _facts(result: TableResult) -> list[str]:
    """Where each line has its best value."""
    facts = []
    for metric, column in dict.fromkeys((cell.metric, cell.column) for cell in result.cells):
        line = [cell for cell in result.cells if (cell.metric, cell.column) == (metric, column) and cell.mean is not None]
        if line:
            described = describe(metric)
            best = (max if described.higher_is_better else min)(cell.mean or 0.0 for cell in line)
            equal = [cell for cell in line if math.isclose(cell.mean or 0.0, best, rel_tol=1e-12)]
            where = join_words([one_line(cell.row) for cell in equal])
            value = join_words(list(dict.fromkeys(described.spread(cell.mean or 0.0, cell.sd) for cell in equal)))
            unit = f" {described.unit}" * bool(described.unit)
            facts.append(f"{one_line(column)}: {described.words} is best at {result.row_fields[0]} = {where} ({value}{unit})")
    return facts


def _numeric_axis(ax: Axes, levels: Sequence[float]) -> None:
    positive = [level for level in levels if level > 0]
    if positive and 0 in levels:
        ax.set_xscale("symlog", linthresh=min(positive))
    elif len(positive) == len(levels) and max(levels) >= 10 * min(levels):
        ax.set_xscale("log")
    ticks = sorted(set(levels))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())


def _level(row_levels: Mapping[str, Any]) -> float:
    (level,) = row_levels.values()
    return float(level)
