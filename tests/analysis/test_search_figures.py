"""Figures of a search: what is drawn is what was found, and nothing is drawn of nothing."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from pipeline.analysis.figures.search import draw_history, draw_importance


def svg_of(figure: Figure | None) -> bytes:
    assert figure is not None
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@pytest.mark.parametrize(("upwards", "best"), [(True, [20.0, 20.0, 50.0]), (False, [20.0, 10.0, 10.0])])
def test_the_line_is_the_best_so_far(upwards: bool, best: list[float]) -> None:
    """Marks stand at the complete points, numbered among all; the line never gets worse, in either direction."""
    figure = draw_history({"ce": [0.2, None, 0.1, 0.5], "cam": [None]}, goal="acc_top1", higher_is_better=upwards)
    assert figure is not None
    marks, line = figure.axes[0].lines[:2]
    assert list(marks.get_xdata()) == [1, 3, 4]
    assert list(marks.get_ydata()) == pytest.approx([20.0, 10.0, 50.0])
    assert list(line.get_ydata()) == pytest.approx(best)
    assert figure.axes[0].get_ylabel() == "validation accuracy (%)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce (3 complete)", "cam (0 complete)"]
    ElementTree.fromstring(svg_of(figure))


def test_bars_are_the_shares_of_each_arm() -> None:
    """One bar a field and arm, as long as its share; an arm of which nothing is known is named below."""
    figure = draw_importance({"ce": {"optimizer.lr": 0.9, "batch_size": 0.1}, "cam": {"optimizer.lr": 0.4}, "x": {}}, goal="loss")
    assert figure is not None
    ax = figure.axes[0]
    assert sorted(bar.get_width() for bar in ax.patches) == [0.1, 0.4, 0.9]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["batch_size", "optimizer.lr"]
    assert b"Too few complete points in x" in svg_of(figure) or "Too few complete points in x" in str(figure.get_supxlabel())


def test_nothing_is_drawn_of_nothing() -> None:
    """A search without a complete point has no figure."""
    assert draw_history({"ce": [None], "cam": []}, goal="acc_top1", higher_is_better=True) is None
    assert draw_importance({"ce": {}}, goal="acc_top1") is None
