"""Metrics over one numeric factor."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import STYLE, decorate, dot_style, grid_of_axes, line_style, plain
from pipeline.analysis.metrics import Metric, describe
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import one_line

_FLAT_ENERGY = "metric_test_flat_energy_{selection}"


def sweep(spec: Mapping[str, Any], result: TableResult, trials: pa.Table | None = None) -> Drawing | None:
    """Metrics over one numeric factor: one panel a metric, mean with error bars of ± sample SD.

    Where the columns are levels each of them is a line, with a band instead of bars. The x axis is symlog when a level is 0 (linear up
    to the smallest positive level), log when all levels are positive and span a factor of 10 or more, else linear. With `trials`,
    panels of an energy get a dotted line at the mean energy of a flat map on the same test images: what a map without any
    localisation would reach.

    Returns:
        The figure, or None when the table is no sweep (see `is_sweep`) or has no complete cell.
    """
    if not is_sweep(spec) or all(cell.mean is None for cell in result.cells):
        return None
    flat = _flat_energy(result, trials) if trials is not None else None
    by_level = result.column_kind == "level"
    drawn = [column for column in result.columns if any(cell.column == column and cell.mean is not None for cell in result.cells)]
    panels = [(metric, result.columns) for metric in result.metrics] if by_level else [("", (column,)) for column in drawn]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid_of_axes(len(panels), share_y=False)
        for ax, (only, columns) in zip(axes, panels, strict=True):
            cells = [cell for cell in result.cells if cell.column in columns and only in ("", cell.metric)]
            metric = describe(cells[0].metric)
            # The scale comes first: margins are computed on it.
            _numeric_axis(ax, [_level(cell.row_levels) for cell in cells])
            for column in columns:
                _draw_line(ax, [cell for cell in cells if cell.column == column], metric, result.columns.index(column), band=by_level)
            if flat is not None and "energy" in metric.column and "flat" not in metric.column:
                ax.axhline(flat * metric.scale, linestyle=":", color="#444444")
                ax.annotate("flat map (no localisation)", (0.98, flat * metric.scale), xycoords=("axes fraction", "data"), ha="right",
                            va="bottom", fontsize=8, color="#444444", xytext=(0, 2), textcoords="offset points")  # fmt: skip
                ax.margins(y=0.12)
            ax.set_xlabel(plain(result.row_fields[0]))
            ax.set_ylabel(textwrap.fill(metric.quantity, 34))
        note = _note(result, by_level=by_level)
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
            best = (max if described.higher_is_better else min)(line, key=lambda cell: cell.mean or 0.0)
            value = f"{described.spread(best.mean or 0.0, best.sd)} {described.unit}".strip()
            facts.append(f"{one_line(column)}: {described.words} is best at {result.row_fields[0]} = {one_line(best.row)} ({value})")
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


def _flat_energy(result: TableResult, trials: pa.Table) -> float | None:
    column = _FLAT_ENERGY.format(selection=result.selection)
    if column not in trials.column_names:
        return None
    ids = {trial_id for cell in result.cells for trial_id in cell.trial_ids}
    pairs = zip(trials["trial_id"].to_pylist(), trials[column].to_pylist(), strict=True)
    values = [value for trial_id, value in pairs if trial_id in ids and value is not None and math.isfinite(value)]
    return statistics.fmean(values) if values else None
