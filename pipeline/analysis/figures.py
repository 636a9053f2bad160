"""Figures of a study: accuracy over epochs and sweeps. Object API only, so nothing is shared between figures or threads."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from pipeline.analysis.curves import Curve, accuracy_curves, curves_csv
from pipeline.analysis.metrics import SPLIT_WORDS, describe
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import one_line, wrap
from pipeline.analysis.write import file_stem

MAX_PANELS = 8
MAX_LINES = 8
_PANELS_A_ROW = 3
_LEGEND_CHARACTERS = 30  # on a line
_FLAT_ENERGY = "metric_test_flat_energy_{selection}"
# Okabe & Ito's colours, told apart by colour-blind readers; yellow left out, as it fades on white. Dashes and markers repeat the message.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
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


def accuracy_over_epochs(spec: Mapping[str, Any], history: pa.Table, trials: pa.Table) -> Figure | None:
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
        return _panels_of_curves(
            panels[:MAX_PANELS], line_of, title=spec["title"], legend=legend, y_label=f"{split} accuracy (%)", note=" ".join(notes)
        )


def _panels_of_curves(
    panels: Sequence[tuple[str, Sequence[Curve]]], line_of: Mapping[str, int], *, title: str, legend: str, y_label: str, note: str
) -> Figure:
    shown = {curve.column or curve.row for _, curves in panels for curve in curves}
    labels = [label for label in line_of if label in shown]
    figure, axes = _grid_of_axes(len(panels), share_y=True)
    for ax, (row, curves) in zip(axes, panels, strict=True):
        ax.set_title(plain("\n".join(wrap(row, 42))), loc="left")
        for curve in curves:
            i = line_of[curve.column or curve.row]
            mean = [100 * value for value in curve.mean]
            ax.plot(curve.epochs, mean, **_line(i), marker=_MARKERS[i % 8] if len(curve.epochs) == 1 else None)
            if curve.sd:
                low, high = ([m + sign * 100 * s for m, s in zip(mean, curve.sd, strict=True)] for sign in (-1, 1))
                ax.fill_between(curve.epochs, low, high, color=COLORS[i % 8], alpha=0.18, linewidth=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.set_xlabel("epoch")
    limits = _late_limits([curve for _, curves in panels for curve in curves])
    if limits is not None:
        axes[0].set_ylim(*limits)
        note += f" The axis starts at {limits[0]:g} %; what lies below, early in training, is cut off."
    for ax in axes[::_PANELS_A_ROW]:
        ax.set_ylabel(y_label)
    decorate(figure, title, note, legend, [(label, _line(line_of[label])) for label in labels])
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
        figure, axes = _grid_of_axes(len(result.columns), share_y=False)
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
            ax.errorbar(x, mean, yerr=sd, **_line(i), marker=_MARKERS[i % 8], capsize=3)
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


def write_figures(
    document: Mapping[str, Any], results: Iterable[TableResult], *, trials: pa.Table, history: pa.Table, folder: Path
) -> list[Path]:
    """Write `<table>.accuracy.{svg,png}` and, for sweeps, `<table>.sweep.{svg,png}`; returns the paths, tables in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    by_name = {result.name: result for result in results}
    for spec in document["tables"]:
        figures = {"sweep": sweep(spec, by_name[spec["name"]], trials), "accuracy": accuracy_over_epochs(spec, history, trials)}
        for kind, figure in figures.items():
            if figure is not None:
                paths += save_figure(figure, folder / f"{file_stem(spec['name'])}.{kind}")
    return paths


def write_curves(document: Mapping[str, Any], *, trials: pa.Table, history: pa.Table, folder: Path) -> list[Path]:
    """Write `<table>.csv` for `dvc plots`, one a table that has a complete cell."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for spec in document["tables"]:
        if accuracy_curves(spec, history, trials)[0]:
            paths.append(folder / f"{file_stem(spec['name'])}.csv")
            paths[-1].write_text(curves_csv(spec, history, trials), encoding="utf-8", newline="\n")
    return paths


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png (160 dots an inch); the same figure gives the same bytes."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    with matplotlib.rc_context(STYLE):
        figure.savefig(paths[0], format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(paths[1], format="png", dpi=160, metadata={"Software": None})
    return paths


def _grid_of_axes(count: int, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    columns = min(count, _PANELS_A_ROW)
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


def _line(i: int) -> dict[str, Any]:
    return {"color": COLORS[i % 8], "linestyle": _DASHES[(i + i // 8) % 8], "linewidth": 1.6}


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


def plain(text: str) -> str:
    """`text` as matplotlib prints it literally: a dollar sign would start mathtext, a leading underscore hides a legend entry."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
