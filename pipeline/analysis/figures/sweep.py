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
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pipeline.analysis.figures.style import MARKERS, STYLE, decorate, grid_of_axes, line_style, plain
from pipeline.analysis.metrics import describe
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import one_line

_FLAT_ENERGY = "metric_test_flat_energy_{selection}"


def sweep(spec: Mapping[str, Any], result: TableResult, trials: pa.Table | None = None) -> Figure | None:
    """Metrics over one numeric factor: one panel a column, mean with error bars of ± sample SD.

    The x axis is symlog when a level is 0 (linear up to the smallest positive level), log when all levels are positive and span
    a factor of 10 or more, else linear. With `trials`, panels of an energy get a dotted line at the mean energy of a flat map
    on the same test images: what a map without any localisation would reach.

    Returns:
        The figure, or None when the table is no sweep (see `is_sweep`) or has no complete cell.
    """
    if not is_sweep(spec) or all(cell.mean is None for cell in result.cells):
        return None
    flat = _flat_energy(result, trials) if trials is not None else None
    with matplotlib.rc_context(STYLE):
        figure, axes = grid_of_axes(len(result.columns), share_y=False)
        for i, (ax, column) in enumerate(zip(axes, result.columns, strict=True)):
            cells = [cell for cell in result.cells if cell.column == column and cell.mean is not None]
            metric = describe(next(cell.metric for cell in result.cells if cell.column == column))
            levels = [_level(cell.row_levels) for cell in cells]
            order = sorted(range(len(cells)), key=levels.__getitem__)
            x = [levels[k] for k in order]
            mean = [(cells[k].mean or 0.0) * metric.scale for k in order]
            sd = [(cells[k].sd or 0.0) * metric.scale for k in order]
            # The scale comes first: margins are computed on it.
            _numeric_axis(ax, [_level(cell.row_levels) for cell in result.cells if cell.column == column])
            ax.errorbar(x, mean, yerr=sd, **line_style(i), marker=MARKERS[i % 8], capsize=3)
            if flat is not None and "energy" in metric.column and "flat" not in metric.column:
                ax.axhline(flat * metric.scale, linestyle=":", color="#444444")
                ax.annotate("flat map (no localisation)", (0.98, flat * metric.scale), xycoords=("axes fraction", "data"), ha="right",
                            va="bottom", fontsize=8, color="#444444", xytext=(0, 2), textcoords="offset points")  # fmt: skip
                ax.margins(y=0.12)
            ax.set_xlabel(plain(result.row_fields[0]))
            ax.set_ylabel(textwrap.fill(metric.quantity, 34))
        counts = sorted({cell.n for cell in result.cells if cell.mean is not None})
        note = f"Mean over n = {' or '.join(map(str, counts))} seeds; bars: ± sample SD." if max(counts) > 1 else "One seed."
        absent = list(dict.fromkeys(cell.row for cell in result.cells if cell.mean is None))
        note += f" Without a point, as a seed is missing: {', '.join(map(one_line, absent))}." if absent else ""
        decorate(figure, result.title, note)
        return figure


def is_sweep(spec: Mapping[str, Any]) -> bool:
    """Whether the rows are numbers of one field and the columns are metrics."""
    if spec["column_kind"] != "metric" or len(spec["row_fields"]) != 1 or not spec["cells"]:
        return False
    levels = [level for cell in spec["cells"] for level in cell["row_levels"].values()]
    return all(isinstance(level, int | float) and not isinstance(level, bool) and math.isfinite(level) for level in levels)


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
