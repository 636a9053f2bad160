"""Epochs until a share of the final accuracy is reached: one panel a row of a table, one line of dots a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.analysis.convergence import Reach, epochs_to_reach
from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import PANELS_A_ROW, STYLE, decorate, dot_style, grid_of_axes, plain
from pipeline.analysis.metrics import SPLIT_WORDS
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import join_words, one_line, wrap
from pipeline.errors import counted

MAX_PANELS = 8
MAX_LINES = 12
_LINE = 0.13  # inches: height of a line of dots


def convergence(spec: Mapping[str, Any], result: TableResult, history: pa.Table, trials: pa.Table) -> Drawing | None:
    """First epoch at which each seed reaches 90, 95 and 99 % of the baseline's final accuracy, and the mean over seeds.

    A seed that never does stands in a zone of its own, at the right, and its cell has no mean. At most 8 panels and 12 lines are
    drawn; what is left out, and which cells lack a seed, is said below the panels.

    Args:
        spec: one entry of `tables` in tables.json.
        result: the same table, filled.
        history, trials: results/history.parquet, results/trials.parquet.

    Returns:
        The figure, or None when no cell is complete or all of them were trained for one epoch.
    """
    reaches, incomplete = epochs_to_reach(spec, result, history, trials)
    if not reaches or max(reach.last for reach in reaches) < 2:
        return None
    panels: dict[tuple[str, float], list[Reach]] = {}
    for reach in reaches:
        panels.setdefault((reach.group, reach.reference), []).append(reach)
    axis = _line_axis(reaches, result)
    lines = [label for label in getattr(result, f"{axis}s") if any(getattr(reach, axis) == label for reach in reaches)]
    shown = [[reach for reach in panel if getattr(reach, axis) in lines[:MAX_LINES]] for panel in panels.values()]
    shown = [panel for panel in shown if panel][:MAX_PANELS]
    note = _note(reaches, incomplete)
    for count, what in ((len(panels) - len(shown), "more panel"), (len(lines) - MAX_LINES, "more line")):
        note += f" {counted(count, what)} not shown." if count > 0 else ""
    with matplotlib.rc_context(STYLE):
        figure, axes = grid_of_axes(len(shown), share_y=False)
        width, height = figure.get_size_inches()
        most = max(len({getattr(reach, axis) for reach in panel}) for panel in shown)
        rows = math.ceil(len(shown) / PANELS_A_ROW)
        figure.set_size_inches(width, max(height, rows * (_LINE * 3 * (most + 1) + 0.9) + 1.0))
        for ax, panel in zip(axes, shown, strict=True):
            _draw(ax, panel, axis, lines)
        legend = " / ".join(getattr(result, f"{axis}_fields"))
        drawn = [label for label in lines if any(getattr(reach, axis) == label for panel in shown for reach in panel)]
        styles = [(label, {**dot_style(lines.index(label)), "markersize": 6}) for label in drawn]
        decorate(figure, f"Speed of convergence: {one_line(result.title)}", note, legend, styles)
    highest = max(reach.share for reach in reaches)
    return figure, caption_of("convergence", result.name, note, [_fact(reach) for reach in reaches if reach.share == highest])


def _line_axis(reaches: Sequence[Reach], result: TableResult) -> str:
    """'row' or 'column': what the dots of a panel are told apart by."""
    by_columns = all(reach.group == reach.column for reach in reaches)  # also where columns are metrics: both are ''
    return "row" if by_columns else "column"


def _draw(ax: Axes, panel: Sequence[Reach], axis: str, lines: Sequence[str]) -> None:
    ax.set_title(plain("\n".join(wrap(panel[0].group, 42))), loc="left")
    shares = sorted({reach.share for reach in panel})
    labels = [label for label in lines if any(getattr(reach, axis) == label for reach in panel)]
    last = max(reach.last for reach in panel)
    never = last * 1.14
    for reach in panel:
        label = getattr(reach, axis)
        y = shares.index(reach.share) * (len(labels) + 1) + labels.index(label)
        style = dot_style(lines.index(label))
        reached = [epoch for epoch in reach.epochs if epoch is not None]
        if reached:
            ax.plot([min(reached), max(reached)], [y, y], color=style["color"], linewidth=1, alpha=0.5)
            ax.plot(reached, [y] * len(reached), **style, markersize=3.5, markeredgewidth=0, alpha=0.5)
        if reach.mean is not None:
            ax.plot([reach.mean], [y], **style, markersize=6.5, markeredgecolor="white", markeredgewidth=0.6)
        else:
            ax.plot([never], [y], **style, markersize=5, markerfacecolor="none")
            words = f"{reach.never} of {len(reach.epochs)}"
            ax.annotate(words, (never, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7, annotation_clip=False)
    ax.set_ylim((len(labels) + 1) * len(shares) - 1.2, -0.8)
    ax.set_yticks(
        [k * (len(labels) + 1) + (len(labels) - 1) / 2 for k in range(len(shares))],
        [f"{100 * share * panel[0].reference:.1f} %\n({100 * share:g} %)" for share in shares],
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ticks = [tick for tick in MaxNLocator(nbins=5, integer=True, min_n_ticks=1).tick_values(1, last) if 1 <= tick <= last]
    names = [f"{tick:g}" for tick in ticks]
    ax.set_xlim(left=min(1, 0.98 * last) - 0.03 * last, right=1.03 * last)
    if any(reach.never for reach in panel):
        ax.axvline(1.07 * last, color="#7F7F7F", linestyle=":", linewidth=1)
        kept = [i for i, tick in enumerate(ticks) if tick <= 0.93 * last]
        ticks, names = [*(ticks[i] for i in kept), never], [*(names[i] for i in kept), "never"]
        ax.set_xlim(right=1.2 * last)
    ax.set_xticks(ticks, names)
    ax.set_xlabel("first epoch at or above")


def _note(reaches: Sequence[Reach], incomplete: Sequence[str]) -> str:
    split = SPLIT_WORDS[reaches[0].split]
    kinds = {reach.from_baseline for reach in reaches}
    whose = "the baseline's" if kinds == {True} else "the panel's best" if kinds == {False} else "the baseline's (or else the panel's best)"
    shares = join_words([f"{100 * share:g}" for share in sorted({reach.share for reach in reaches})])
    seeds = " or ".join(map(str, sorted({len(reach.epochs) for reach in reaches})))
    text = f"First epoch at which the {split} accuracy is at least {shares} % of {whose} final mean"
    text += " (on the axis: that accuracy, and the share in brackets)."
    text += f" Small: a seed; large: mean over n = {seeds} seeds." if seeds != "1" else " One seed."
    if any(reach.never for reach in reaches):
        text += " Hollow: seeds that never reach the level, with their number; there is no mean then."
    return text + (f" Without dots, as a seed is missing: {', '.join(map(one_line, incomplete))}." if incomplete else "")


def _fact(reach: Reach) -> str:
    """'resnet8/cam reaches 93.1 % after 6.3 epochs': one for those who do not see the figure."""
    cell = "/".join(one_line(part) for part in (reach.row, reach.column) if part)
    if reach.mean is None:
        return f"{cell} does not reach {100 * reach.level:.1f} % in {reach.never} of {len(reach.epochs)} seeds"
    return f"{cell} reaches {100 * reach.level:.1f} % at epoch {reach.mean:.1f}"
