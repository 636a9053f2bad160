"""Accuracy over epochs: one panel a row of a table, one line a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.analysis.curves import Curve, accuracy_curves
from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import COLORS, MARKERS, PANELS_A_ROW, STYLE, decorate, grid_of_axes, line_style, plain
from pipeline.analysis.metrics import SPLIT_WORDS
from pipeline.analysis.wording import one_line, wrap

MAX_PANELS = 8
MAX_LINES = 8


def accuracy_over_epochs(spec: Mapping[str, Any], history: pa.Table, trials: pa.Table) -> Drawing | None:
    """Mean accuracy over epochs with a band of ± sample SD: one panel a row, one line a column.

    A table whose columns are metrics has one panel with one line a row. At most 8 panels (8 lines there) are drawn; what is
    left out, and which cells lack a seed, is said below the panels.

    Args:
        spec: one entry of `tables` in tables.json.
        history: results/history.parquet.
        trials: results/trials.parquet.

    Returns:
        The figure, or None when no cell is complete.
    """
    curves, incomplete = accuracy_curves(spec, history, trials)
    if not curves:
        return None
    notes = []
    if spec["column_kind"] == "level":
        rows = [row for row in spec["rows"] if any(curve.row == row for curve in curves)]
        panels = [(row, [curve for curve in curves if curve.row == row]) for row in rows]
        line_of = {column: i for i, column in enumerate(spec["columns"])}
    else:
        panels = [("", curves[:MAX_LINES])]
        line_of = {curve.row: i for i, curve in enumerate(curves[:MAX_LINES])}
        if len(curves) > MAX_LINES:
            notes.append(f"{len(curves) - MAX_LINES} more rows are not shown.")
    if len(panels) > MAX_PANELS:
        notes.append(f"{len(panels) - MAX_PANELS} more rows are not shown.")
    if incomplete:
        notes.append(f"Without a line, as a seed is missing: {', '.join(map(one_line, incomplete))}.")
    split = SPLIT_WORDS[curves[0].split]
    seeds = " or ".join(map(str, sorted({curve.n for curve in curves})))
    notes.insert(0, f"Mean over n = {seeds} seeds; band: ± sample SD." if any(c.n > 1 for c in curves) else "One seed.")
    legend = " / ".join(spec["column_fields"] if spec["column_kind"] == "level" else spec["row_fields"])
    with matplotlib.rc_context(STYLE):
        figure = _panels_of_curves(
            panels[:MAX_PANELS], line_of, title=spec["title"], legend=legend, y_label=f"{split} accuracy (%)", note=" ".join(notes)
        )
    facts = [
        f"{one_line(curve.label)} ends at {100 * curve.mean[-1]:.2f} % after epoch {curve.epochs[-1]}" for curve in curves if curve.epochs
    ]
    return figure, caption_of("accuracy", spec["name"], " ".join(notes), facts)


def _panels_of_curves(
    panels: Sequence[tuple[str, Sequence[Curve]]], line_of: Mapping[str, int], *, title: str, legend: str, y_label: str, note: str
) -> Figure:
    shown = {curve.column or curve.row for _, curves in panels for curve in curves}
    labels = [label for label in line_of if label in shown]
    figure, axes = grid_of_axes(len(panels), share_y=True)
    for ax, (row, curves) in zip(axes, panels, strict=True):
        ax.set_title(plain("\n".join(wrap(row, 42))), loc="left")
        for curve in curves:
            i = line_of[curve.column or curve.row]
            mean = [100 * value for value in curve.mean]
            ax.plot(curve.epochs, mean, **line_style(i), marker=MARKERS[i % 8] if len(curve.epochs) == 1 else None)
            if curve.sd:
                low, high = ([m + sign * 100 * s for m, s in zip(mean, curve.sd, strict=True)] for sign in (-1, 1))
                ax.fill_between(curve.epochs, low, high, color=COLORS[i % 8], alpha=0.18, linewidth=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.set_xlabel("epoch")
    limits = _late_limits([curve for _, curves in panels for curve in curves])
    if limits is not None:
        axes[0].set_ylim(*limits)
        note += f" The axis starts at {limits[0]:g} %; what lies below, early in training, is cut off."
    for ax in axes[::PANELS_A_ROW]:
        ax.set_ylabel(y_label)
    decorate(figure, title, note, legend, [(label, line_style(line_of[label])) for label in labels])
    return figure


def _late_limits(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Limits of the accuracy axis (%) that cut off the first quarter of training, so that late differences can be seen.

    None where the whole range is not much larger than the range after that quarter.
    """
    points = [(curve, i) for curve in curves for i in range(len(curve.epochs))]
    late = [100 * curve.mean[i] for curve, i in points if 4 * curve.epochs[i] > curve.epochs[-1]]
    low, high = min(late), max(100 * (curve.mean[i] + (curve.sd[i] if curve.sd else 0.0)) for curve, i in points)
    if high - min(100 * curve.mean[i] for curve, i in points) <= 2 * (high - low):
        return None
    margin = 0.06 * (high - low)
    return math.floor(low - margin), high + margin
