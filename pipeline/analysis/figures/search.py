"""Figures of a search: the best value over the points of each arm, and how much each field matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.analysis.figures.style import COLORS, STYLE, decorate, plain
from pipeline.metric_names import METRICS

_MARKERS = ("o", "s", "^", "D", "v", "P")

Values = Sequence[float | None]  # of the points of an arm in their order; None where a point is not complete


def draw_history(points: Mapping[str, Values], *, goal: str, higher_is_better: bool) -> Figure | None:
    """The value of each complete point and the best so far, over the points; one colour an arm.

    Args:
        points: arm -> values of its points in the order in which they were proposed.
        goal: metric or cost, as the study file calls it.

    Returns:
        The figure, or None when no point is complete.
    """
    if not any(value is not None for values in points.values() for value in values):
        return None
    scale, words = _axis(goal)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        for index, values in enumerate(points.values()):
            color = COLORS[index % len(COLORS)]
            done = [(number, scale * value) for number, value in enumerate(values, start=1) if value is not None]
            ax.plot(
                [x for x, _ in done],
                [y for _, y in done],
                linestyle="none",
                marker=_MARKERS[index % 6],
                markersize=4,
                color=color,
                alpha=0.6,
            )
            best = _best_so_far([y for _, y in done], higher_is_better)
            ax.step([x for x, _ in done], best, where="post", color=color, linewidth=1.6)
        ax.set_xlabel("point")
        ax.set_ylabel(words)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend = [
            (f"{arm} ({sum(value is not None for value in values)} complete)", _line(index))
            for index, (arm, values) in enumerate(points.items())
        ]
        decorate(
            figure,
            "History of the search",
            "Marks: complete points; line: the best so far. Points given up or failed have no mark.",
            "arm",
            legend,
        )
        return figure


def draw_importance(shares: Mapping[str, Mapping[str, float]], *, goal: str) -> Figure | None:
    """How much of the variance of the metric each field explains, by fANOVA; one group of bars a field, one colour an arm.

    Args:
        shares: arm -> field -> share in [0, 1]; empty for an arm of which nothing is known.

    Returns:
        The figure, or None when nothing is known of any arm.
    """
    known = {arm: found for arm, found in shares.items() if found}
    if not known:
        return None
    names = list(dict.fromkeys(name for found in known.values() for name in found))
    names.sort(key=lambda name: max(found.get(name, 0.0) for found in known.values()))
    height = 0.8 / len(known)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 1.4 + 0.22 * len(names) * (len(known) + 1)), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        arms = list(shares)
        for place, (arm, found) in enumerate(known.items()):
            rows = [row for row, name in enumerate(names) if name in found]
            ax.barh(
                [row + height * (len(known) - 1 - place) for row in rows],
                [found[names[row]] for row in rows],
                height=height,
                color=COLORS[arms.index(arm) % len(COLORS)],
            )
        ax.set_yticks([row + height * (len(known) - 1) / 2 for row in range(len(names))], [plain(name) for name in names])
        ax.set_xlabel("share of the variance")
        ax.set_xlim(0, 1)
        ax.grid(axis="y", visible=False)
        note = (
            f"fANOVA over the complete points, {_axis(goal)[1]}. With few points this is a rough guide; a field with one value has no bar."
        )
        missing = [arm for arm in shares if arm not in known]
        if missing:
            note += f" Too few complete points in {', '.join(missing)}."
        legend = [(arm, {"color": COLORS[arms.index(arm) % len(COLORS)], "linewidth": 6}) for arm in known]
        decorate(figure, "What mattered in the search", note, "arm", legend)
        return figure


def _line(index: int) -> dict[str, object]:
    return {"color": COLORS[index % len(COLORS)], "linewidth": 1.6, "marker": _MARKERS[index % 6], "markersize": 4}


def _best_so_far(values: Sequence[float], higher_is_better: bool) -> list[float]:
    best: list[float] = []
    for value in values:
        better = max if higher_is_better else min
        best.append(better(best[-1], value) if best else value)
    return best


def _axis(goal: str) -> tuple[float, str]:
    if goal in METRICS:
        metric = METRICS[goal]
        words = metric.words.format(split="validation")
        return metric.scale, f"{words} ({metric.unit})" if metric.unit else words
    return {"time_train_s": (1.0, "training time (s)"), "mem_peak_bytes": (2.0**-20, "peak memory (MiB)")}[goal]
