"""Change of the accuracy of each class against the baseline. Letters: S seeds, K classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes

from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.panels import Images, class_name, class_names, cut
from pipeline.analysis.figures.style import PANELS_A_ROW, STYLE, decorate, dot_style, grid_of_axes, plain
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import one_line, wrap
from pipeline.errors import counted

Floats = npt.NDArray[np.float64]
MAX_PANELS = 6
MAX_LINES = 3
MAX_CLASSES = 30
_COLUMNS = ("trial_id", "panel_digest", "panel_class_correct", "panel_class_count")


@dataclass(frozen=True)
class ClassChange:
    """One cell against its baseline, class by class.

    Attributes:
        panel: label of the panel it belongs to: its row; its column where the arms are rows; '' where the columns are metrics.
        label: what it is told apart by within the panel: its column, or its row.
        axis: 'column' or 'row', what `label` is.
        digest: of the dataset.
        change_SK: difference of the accuracies, seed by seed, as a fraction; NaN for a class without test images.
    """

    panel: str
    label: str
    axis: str
    digest: str
    change_SK: Floats

    @property
    def mean_K(self) -> Floats:
        """Mean over the seeds."""
        mean_K: Floats = self.change_SK.mean(axis=0)
        return mean_K


def class_changes(result: TableResult, panels: pa.Table) -> tuple[list[ClassChange], list[str]]:
    """Changes of all cells that have a baseline, and the labels of those that lack numbers by class in one of their trials.

    Args:
        panels: results/panels.parquet; the columns panel_class_* are of the weights of the last epoch.
    """
    if not set(_COLUMNS) <= set(panels.column_names):
        return [], []
    kept = {row["trial_id"]: row for row in panels.select(_COLUMNS).to_pylist() if row["panel_class_correct"] is not None}
    changes, lacking = [], []
    seen: set[tuple[str, str]] = set()
    for cell in result.cells:
        key = cell.row, cell.column if result.column_kind == "level" else ""
        if cell.delta is None or cell.delta.mean is None or key in seen:
            continue
        seen.add(key)  # the metrics of one place, and the columns that are metrics, share their trials
        base = result.cell(cell.delta.baseline_row, cell.delta.baseline_column, cell.metric)
        change_SK, digest = _changes(cell, base, kept)
        if change_SK is None:
            lacking.append("/".join(filter(None, key)))
        elif cell.delta.baseline_row == cell.row:
            changes.append(ClassChange(cell.row, cell.column, "column", digest, change_SK))
        else:
            changes.append(ClassChange(key[1], cell.row, "row", digest, change_SK))
    return changes, lacking


def per_class(result: TableResult, panels: pa.Table, images: Images) -> Drawing | None:
    """Mean change of each class over the seeds with bars of ± sample SD, largest gain at the top.

    One panel a row, at most 6; at most 3 compared columns in it; of more than 30 classes the 15 that gain most and the 15 that lose most.

    Args:
        panels: results/panels.parquet.
        images: see `panels.image_rows`; for the names of the classes.

    Returns:
        The figure, or None when no compared cell has numbers by class.
    """
    changes, lacking = class_changes(result, panels)
    if not changes:
        return None
    groups: dict[tuple[str, str], list[ClassChange]] = {}
    for change in changes:
        groups.setdefault((change.panel, change.digest), []).append(change)
    shown = [group[:MAX_LINES] for group in groups.values()][:MAX_PANELS]
    orders = [_order(group) for group in shown]
    hidden_lines = max(map(len, groups.values())) - MAX_LINES
    note = _note(result, shown, lacking)
    note += f" {counted(len(groups) - len(shown), 'more panel')} not shown." if len(groups) > len(shown) else ""
    note += f" {counted(hidden_lines, f'more {shown[0][0].axis}')} not shown." if hidden_lines > 0 else ""
    legend = {change.label: _index(result, change) for group in shown for change in group}
    fields = {change.axis: getattr(result, f"{change.axis}_fields") for group in shown for change in group}
    with matplotlib.rc_context(STYLE):
        figure, axes = grid_of_axes(len(shown), share_y=False)
        width, height = figure.get_size_inches()
        tallest = max(len(order) * max(0.17, 0.09 * len(group)) for order, group in zip(orders, shown, strict=True))
        figure.set_size_inches(max(width, 5.2), max(height, math.ceil(len(shown) / PANELS_A_ROW) * (tallest + 0.8) + 1.0))
        for ax, group, order in zip(axes, shown, orders, strict=True):
            _draw(ax, result, group, order, class_names({"panel_digest": group[0].digest}, images))
        handles = [(label, {**dot_style(i), "markersize": 6}) for label, i in legend.items()]
        base = f"against {one_line(result.baseline)}"
        words = " / ".join(dict.fromkeys(field for axis in fields.values() for field in axis))
        decorate(figure, f"Accuracy by class, {base}: {one_line(result.title)}", note, f"{words}, {base}", handles)
    facts = [fact for group in shown for change in group for fact in _facts(change, images)]
    return figure, caption_of("per_class", result.name, note, facts)


def _changes(cell: CellResult, base: CellResult | None, kept: Mapping[str, Mapping[str, Any]]) -> tuple[Floats | None, str]:
    """change_SK and the digest of the dataset; None where a trial has no numbers by class, or the two are of other images."""
    if base is None:
        return None, ""
    own, other = (dict(zip(each.seeds, each.trial_ids, strict=True)) for each in (cell, base))
    pairs = [(kept.get(own[seed]), kept.get(other[seed])) for seed in own if seed in other]
    rows = []
    for mine, its in pairs:
        same = ("panel_digest", "panel_class_count")
        if mine is None or its is None or any(mine[name] != its[name] for name in same):
            return None, ""
        count_K = np.array(mine["panel_class_count"], dtype=np.float64)
        gained_K = np.array(mine["panel_class_correct"], dtype=np.float64) - np.array(its["panel_class_correct"], dtype=np.float64)
        rows.append(np.divide(gained_K, count_K, out=np.full_like(count_K, np.nan), where=count_K > 0))
    digests = {mine["panel_digest"] for mine, _ in pairs if mine is not None}
    if len(digests) != 1:
        return None, ""
    return np.array(rows), digests.pop()


def _order(group: Sequence[ClassChange]) -> list[int | None]:
    """Classes from the largest mean gain to the largest loss; None stands for those left out in between."""
    mean_K = np.mean([change.mean_K for change in group], axis=0)
    order: list[int | None] = [int(k) for k in np.argsort(-mean_K, kind="stable") if not math.isnan(mean_K[k])]
    half = MAX_CLASSES // 2
    return order if len(order) <= MAX_CLASSES else [*order[:half], None, *order[-half:]]


def _index(result: TableResult, change: ClassChange) -> int:
    labels: tuple[str, ...] = result.columns if change.axis == "column" else result.rows
    return labels.index(change.label)


def _draw(ax: Axes, result: TableResult, group: Sequence[ClassChange], order: Sequence[int | None], names: Sequence[str]) -> None:
    ax.set_title(plain("\n".join(wrap(group[0].panel, 42))), loc="left")
    ax.axvline(0, color="#444444", linewidth=1)
    places = [(y, k) for y, k in enumerate(order) if k is not None]
    for j, change in enumerate(group):
        style = dot_style(_index(result, change))
        y = [place + (j - (len(group) - 1) / 2) * 0.8 / len(group) for place, _ in places]
        change_SK = 100 * change.change_SK[:, [k for _, k in places]]
        sd = change_SK.std(axis=0, ddof=1) if len(change_SK) > 1 else None
        ax.errorbar(change_SK.mean(axis=0), y, xerr=sd, **style, markersize=4.5, elinewidth=0.9, markeredgecolor="white",
                    markeredgewidth=0.4)  # fmt: skip
    ax.set_yticks(range(len(order)), ["⋮" if k is None else plain(cut(class_name(k, names), 18)) for k in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("change (percentage points)")


def _note(result: TableResult, groups: Sequence[Sequence[ClassChange]], lacking: Sequence[str]) -> str:
    sizes = sorted({len(change.change_SK) for group in groups for change in group})
    text = "Accuracy of a class of the test split minus the baseline's, by the weights of the last epoch. "
    if sizes == [1]:
        text += "One seed. "
    else:
        text += f"Mean over n = {' or '.join(map(str, sizes))} seeds, paired; bars: ± sample SD. "
    text += "Classes are in the order of the mean change, so the ends are partly chance."
    counts = {int((~np.isnan(group[0].mean_K)).sum()) for group in groups}
    if max(counts) > MAX_CLASSES:
        half, many = MAX_CLASSES // 2, " or ".join(str(count) for count in sorted(counts) if count > MAX_CLASSES)
        text += f" Of {many} classes the {half} that gain most and the {half} that lose most are shown."
    return text + (f" Not stored by class: {', '.join(map(one_line, lacking))}." if lacking else "")


def _facts(change: ClassChange, images: Images) -> list[str]:
    """The class that gains most and the one that loses most."""
    names, mean_K = class_names({"panel_digest": change.digest}, images), change.mean_K
    where = "/".join(one_line(part) for part in (change.panel, change.label) if part)
    best, worst = int(np.nanargmax(mean_K)), int(np.nanargmin(mean_K))
    return [
        f"{where}: {100 * mean_K[k]:+.1f} points at {end}, {one_line(class_name(k, names))}"
        for k, end in ((best, "best"), (worst, "worst"))
    ]
