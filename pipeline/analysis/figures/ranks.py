"""Critical-difference diagram: average ranks of the columns over the complete rows."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.analysis.figures.captions import Drawing, caption_of
from pipeline.analysis.figures.style import STYLE, decorate, dot_style, plain
from pipeline.analysis.metrics import describe
from pipeline.analysis.statistics.rankings import Rankings
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import one_line, wrap

_WIDTH, _LINE = 6.6, 0.17  # inches: the figure, a line of text
_LABEL_CHARACTERS = 24
_FEWEST = 3  # arms, and rows: below, ranks say no more than the table


def ranks(result: TableResult) -> Drawing | None:
    """Average ranks on an axis, with the critical difference as a bar, and a bar under each group that it does not tell apart.

    After Demsar (JMLR 7, 2006), figure 1; one diagram a metric of the table. `statistics.rankings` has the formulas.

    Returns:
        The figure, or None for fewer than three columns or three complete rows.
    """
    ranked = {metric: each for metric, each in result.rankings.items() if len(each.names) >= _FEWEST and each.blocks >= _FEWEST}
    if not ranked:
        return None
    lines = {name: wrap(f"{one_line(name)}", _LABEL_CHARACTERS) for name in result.columns}
    note = " ".join(_verdict(metric, each, result.alpha, named=len(ranked) > 1) for metric, each in ranked.items())
    note += (
        f" Rank 1 is best; bars join columns that differ by no more than the critical difference of Nemenyi's test (α = {result.alpha:g})."
    )
    left_out = len(result.rows) - len(result.complete_rows)
    note += f" {left_out} of {len(result.rows)} rows lack a number and are left out." if left_out else ""
    with matplotlib.rc_context(STYLE):
        heights = [_height(each, lines) for each in ranked.values()]
        figure = Figure(figsize=(_WIDTH, sum(heights) + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(ranked), 1, squeeze=False, height_ratios=heights).ravel().tolist()
        for ax, height, (metric, each) in zip(axes, heights, ranked.items(), strict=True):
            _draw(ax, each, lines, height)
            if len(ranked) > 1:
                ax.set_title(plain(describe(metric).quantity), loc="left")
        decorate(figure, f"Average ranks: {one_line(result.title)}", note)
    facts = [f"{one_line(name)} {rank:.2f}" for each in ranked.values() for rank, name in _best_first(each)]
    return figure, caption_of("ranks", result.name, note, facts)


def _best_first(rankings: Rankings) -> list[tuple[float, str]]:
    order = sorted(range(len(rankings.names)), key=lambda arm: rankings.average_ranks[arm])
    return [(rankings.average_ranks[arm], rankings.names[arm]) for arm in order]


def _height(rankings: Rankings, lines: dict[str, list[str]]) -> float:
    """Inches of a diagram: bar and axis, groups, and the longer of the two stacks of names."""
    left, right = _sides(rankings)
    stacks = [sum(len(lines[name]) + 0.4 for _, name in side) * _LINE for side in (left, right)]
    return 0.9 + 0.12 * len(rankings.cliques) + max(stacks)


def _sides(rankings: Rankings) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """The better half, best first, and the worse half, worst first: so no two leader lines cross."""
    order = _best_first(rankings)
    half = (len(order) + 1) // 2
    return order[:half], order[half:][::-1]


def _draw(ax: Axes, rankings: Rankings, lines: dict[str, list[str]], height: float) -> None:
    """y is in inches from the top."""
    count, axis_y = len(rankings.names), 0.55
    ax.set(xlim=(1, count), ylim=(height, -0.18))
    ax.axis("off")
    black: dict[str, Any] = {"color": "black", "clip_on": False}
    margin = 0.05 * (count - 1)
    end = 1 + rankings.critical_difference
    ax.plot([1, end], [0.12, 0.12], **black, linewidth=1.4, marker="|", markersize=7)
    ax.text(min((1 + end) / 2, count), 0.03, f"critical difference {rankings.critical_difference:.2f}", ha="center", fontsize=8)
    ax.plot([1, count], [axis_y, axis_y], **black, linewidth=1.2)
    for tick in range(1, count + 1):
        ax.plot([tick, tick], [axis_y - 0.06, axis_y], **black, linewidth=1)
        ax.text(tick, axis_y - 0.08, str(tick), ha="center", va="bottom", fontsize=8)
    ax.text(1 - margin, axis_y, "best", ha="right", va="center", fontsize=8)
    rank_of = dict(zip(rankings.names, rankings.average_ranks, strict=True))
    for i, clique in enumerate(rankings.cliques):
        bar_y = axis_y + 0.12 * (i + 1)
        spread = [rank_of[name] for name in clique]
        ends = [min(spread) - 0.25 * margin, max(spread) + 0.25 * margin]
        ax.plot(ends, [bar_y, bar_y], **black, linewidth=3, solid_capstyle="butt")
    for side, edge, align in zip(_sides(rankings), (1 - margin, count + margin), ("right", "left"), strict=True):
        y = axis_y + 0.12 * len(rankings.cliques) + 0.2
        for rank, name in side:
            middle = y + _LINE * (len(lines[name]) - 1) / 2
            ax.plot([rank, rank, edge], [axis_y, middle, middle], color="#444444", linewidth=0.8, clip_on=False)
            ax.plot([rank], [axis_y], **dot_style(rankings.names.index(name)), markersize=5, clip_on=False, zorder=3)
            words = "\n".join([*lines[name][:-1], f"{lines[name][-1]}  {rank:.2f}"])
            shift = {"right": -1, "left": 1}[align] * 0.3 * margin
            ax.text(edge + shift, middle, plain(words), ha=align, va="center", fontsize=8.5, linespacing=1.0)
            y += _LINE * (len(lines[name]) + 0.4)


def _verdict(metric: str, rankings: Rankings, alpha: float, *, named: bool) -> str:
    """'Ranks over N = 6 rows. Friedman's test: p = 0.012 (Iman-Davenport: 0.003).', and what that means where it finds nothing."""
    p, f_p = rankings.friedman_p, rankings.iman_davenport_p
    assert p is not None  # three columns or more have the test
    assert f_p is not None
    lead = f"Ranks of {describe(metric).words}" if named else "Ranks"
    text = f"{lead} over N = {rankings.blocks} rows. Friedman's test: p {_p(p)} (Iman and Davenport's form: p {_p(f_p)})"
    return text + (", so the order may be chance and no column is told from another." if min(p, f_p) > alpha else ".")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
