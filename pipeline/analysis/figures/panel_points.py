"""Features of test images as points in a plane: one panel a network."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.analysis.figures.panels import (
    Arm,
    Caption,
    Group,
    Images,
    chosen_words,
    class_name,
    class_names,
    cut,
    full_label,
    hidden_words,
    label_of,
    title_words,
    trial_words,
)
from pipeline.analysis.figures.style import COLORS, STYLE, decorate, plain
from pipeline.analysis.wording import join_words, wrap

_COLORS = (*COLORS, "#8C564B", "#999933")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_PANEL_MIN, _PANEL_MAX, _WIDTH = 1.6, 2.6, 6.6  # inches: a side of a panel, all panels of a line
_AN_INCH = 12  # characters of a heading
_LINE = 0.15  # inches: height of a line of a heading
_A_LINE = 3  # panels of a table that is shown as one group


def features_figure(spec: Mapping[str, Any], groups: Sequence[Group], images: Images, hidden_rows: int = 0) -> tuple[Figure, Caption]:
    """First two principal components of the pooled features: a line of panels a row, a panel an arm, colour and marker a class.

    Args:
        spec: one entry of `tables` in tables.json.
        groups: at least one, each with an arm that has pictures.
        images: see `panels.image_rows`; for the names of the classes.
        hidden_rows: number of rows left out.
    """
    panels = [panel for group in groups for _, panel in group.shown]
    rules = dict.fromkeys(chosen_words(panel["panel_point_label"], class_names(panel, images)) for panel in panels)
    left_out = hidden_words(hidden_rows, max(group.hidden for group in groups))
    seeds = join_words([str(seed) for seed in sorted({group.seed for group in groups})])
    note = (
        f"Each point is a test image, chosen by a fixed rule: {join_words(list(rules))}, in the order of the test split. Axes: first and "
        "second principal component of the pooled features, for each network by itself, so directions and lengths cannot be compared "
        f"between panels. %: share of the variance along the two. Seed {seeds}. {left_out}"
    ).strip()
    with matplotlib.rc_context(STYLE):
        title = f"Features of test images: {title_words(groups[0].field, spec['title'])}"
        figure = _draw(title, note, groups, images)
    shown = join_words([full_label(group, arm) for group in groups for arm, _ in group.shown])
    alt = f"Scatter plots of the features of test images by class, table {spec['name']}: {shown}. {note}"
    return figure, Caption(f"Features of test images. {trial_words(groups)}", alt)


def _draw(title: str, note: str, groups: Sequence[Group], images: Images) -> Figure:
    most = max(len(group.arms) for group in groups)
    columns = most if len(groups) > 1 else min(most, _A_LINE)
    lines = sum(math.ceil(len(group.arms) / columns) for group in groups)
    keys = {_key(panel, images) for group in groups for _, panel in group.shown}
    side = min(max(_WIDTH / columns, _PANEL_MIN), _PANEL_MAX)
    width = max(side * columns, 4.6)
    headings = [_heading(group, arm, int(side * _AN_INCH)) for group in groups for arm in group.arms]
    above = max(heading.count("\n") for heading in headings)
    heading = iter(headings)
    height = (side + 0.15 + _LINE * above) * lines + 0.45 + 0.14 * len(textwrap.wrap(note, int(width * 15)))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(lines, columns, squeeze=False).ravel().tolist())
    for group in groups:
        for arm in group.arms:
            ax = next(axes)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set(visible=True, color="#c8c8ce")
            if arm.panel is None:
                words = "\n".join(textwrap.wrap(arm.reason, 24)[:7])
                ax.text(0.5, 0.5, plain(words), ha="center", va="center", fontsize=8, color="#444444", transform=ax.transAxes)
            else:
                _scatter(ax, arm.panel)
            ax.set_title(plain(next(heading)), loc="left", fontsize=9)
        for _ in range(-len(group.arms) % columns):
            next(axes).remove()
    legend = keys.pop() if len(keys) == 1 else ()  # of two datasets a colour may stand for another class in each panel
    decorate(figure, title, note, "class", [(name, _point(i)) for i, name in legend])
    return figure


def _heading(group: Group, arm: Arm, width: int) -> str:
    """Row, arm and share of variance, in lines that do not reach the next panel."""
    share = "" if arm.panel is None else f" · {100 * sum(arm.panel['panel_share']):.0f} %"
    whole = f"{label_of(group, arm)}{share}"
    if len(whole) <= width:
        return whole
    lines = [*(wrap(group.row, width) if group.row else []), *wrap(arm.label, width)]
    last = f"{lines[-1]}{share}"
    return "\n".join([*lines[:-1], *([last] if len(last) <= width else [lines[-1], share.removeprefix(" · ")])])


def _scatter(ax: Axes, panel: Mapping[str, Any]) -> None:
    label_M = np.array(panel["panel_point_label"])
    xy_M2 = np.frombuffer(panel["panel_xy"], "<f2").reshape(-1, 2).astype(np.float64)
    for i, label in enumerate(_classes(panel)):
        ax.plot(*xy_M2[label_M == label].T, **_point(i))
    ax.set_aspect("equal", adjustable="datalim")


def _classes(panel: Mapping[str, Any]) -> list[int]:
    return sorted(set(panel["panel_point_label"]))


def _point(i: int) -> dict[str, Any]:
    marker = _MARKERS[i % 10]
    style = {"linestyle": "none", "marker": marker, "color": _COLORS[i % 10], "markersize": 5 if marker in "PX*" else 3.7}
    return {**style, "markeredgecolor": "white", "markeredgewidth": 0.3, "alpha": 0.85}


def _key(panel: Mapping[str, Any], images: Images) -> tuple[tuple[int, str], ...]:
    """Which marker stands for which class."""
    return tuple((i, cut(class_name(label, class_names(panel, images)), 16)) for i, label in enumerate(_classes(panel)))
