"""How all figures look: colours, fonts, grids of panels, titles, legends, files. Object API only: nothing is shared between threads."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.analysis.wording import one_line, wrap

PANELS_A_ROW = 3
_LEGEND_CHARACTERS = 30  # on a line
# Okabe & Ito's colours, told apart by colour-blind readers; yellow left out, as it fades on white. Dashes and markers repeat the message.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.composite_image": False,  # else the images of an SVG are drawn anew at its low resolution
    "svg.hashsalt": "pipeline.analysis",  # without it the ids in the SVG are random
    "svg.fonttype": "path",
}


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png (160 dots an inch); the same figure gives the same bytes."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    with matplotlib.rc_context(STYLE):
        figure.savefig(paths[0], format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(paths[1], format="png", dpi=160, metadata={"Software": None})
    return paths


def grid_of_axes(count: int, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    columns = min(count, PANELS_A_ROW)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(3.3 * columns, 4.6), 2.6 * rows + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def decorate(figure: Figure, title: str, note: str, legend: str = "", lines: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
    """Title above, note below, and a legend of (label, line style) to the right of a figure in constrained layout.

    The figure grows by the legend, so that neither title nor panels lose room to it.
    """
    width, height = figure.get_size_inches()
    characters = int(width * 15)
    title_lines, note_lines = textwrap.wrap(one_line(title), int(characters * 0.75)), textwrap.wrap(note, characters)
    figure.suptitle(plain("\n".join(title_lines)), fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(plain("\n".join(note_lines)), fontsize=8, color="#444444", x=0.01, ha="left")
    if lines:
        handles = [Line2D([], [], **style, label=plain("\n".join(wrap(label, _LEGEND_CHARACTERS)))) for label, style in lines]
        words = plain("\n".join(wrap(legend, _LEGEND_CHARACTERS)))
        box = figure.legend(handles=handles, loc="outside right upper", title=words, handlelength=2.6, alignment="left")
        extent = box.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        below = 0.14 * len(note_lines) + 0.3
        figure.set_size_inches(width + extent.width / figure.dpi + 0.1, max(height, extent.height / figure.dpi + below))


def line_style(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % 8], "linestyle": _DASHES[(i + i // 8) % 8], "linewidth": 1.6}


def dot_style(i: int) -> dict[str, Any]:
    """Colour and marker of points without a line; 64 different pairs."""
    return {"color": COLORS[i % 8], "marker": MARKERS[(i + i // 8) % 8], "linestyle": "none"}


def plain(text: str) -> str:
    """`text` as matplotlib prints it literally: a dollar sign would start mathtext, a leading underscore hides a legend entry."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
