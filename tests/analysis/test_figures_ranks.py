"""Critical-difference diagrams: what is drawn against the table's ranks, and when there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from pipeline.analysis.figures.ranks import ranks
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.tables import build_table


def _note(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def filled(make_spec, make_trials, value_NK, columns=None):
    """A table of N rows and K columns with one seed and these accuracies."""
    count_rows, count_columns = value_NK.shape
    columns = columns or [f"arm{k}" for k in range(count_columns)]
    spec = make_spec([f"net{n}" for n in range(count_rows)], columns, [0], baseline=columns[0])
    values = {(f"net{n}", column): [float(value_NK[n, k])] for n in range(count_rows) for k, column in enumerate(columns)}
    return build_table(spec, make_trials(spec, values))


@pytest.fixture
def separated():
    """Six rows in which four arms keep their order nearly always."""
    value_NK = np.array([0.9, 0.7, 0.8, 0.2]) + 0.01 * np.arange(6)[:, None]
    value_NK[0, :2] = value_NK[0, 1::-1]
    return value_NK


def test_the_diagram_is_that_of_the_ranks(make_spec, make_trials, separated):
    """Markers at the average ranks, a bar as long as Nemenyi's critical difference, and Friedman's p: all against scipy."""
    figure, caption = ranks(filled(make_spec, make_trials, separated))
    (ax,) = figure.axes
    average_K = rankdata(-separated, axis=1).mean(axis=0)
    dots = [line for line in ax.lines if line.get_markersize() == 5 and line.get_linestyle() == "None"]
    assert sorted(line.get_xdata()[0] for line in dots) == pytest.approx(sorted(average_K))
    difference = studentized_range.ppf(0.95, 4, np.inf) / np.sqrt(2) * np.sqrt(4 * 5 / (6 * 6))
    (bar,) = [line for line in ax.lines if line.get_marker() == "|"]
    assert list(bar.get_xdata()) == pytest.approx([1, 1 + difference])
    p = friedmanchisquare(*separated.T).pvalue
    assert p < 0.01
    assert f"over N = 6 rows. Friedman's test: p = {p:.3f}" in _note(figure)
    assert "chance" not in _note(figure)
    texts = {text.get_text() for text in ax.texts}
    assert {f"arm{k}  {average_K[k]:.2f}" for k in range(4)} | {"best", f"critical difference {difference:.2f}"} <= texts
    order = np.argsort(average_K)
    assert "; ".join(f"arm{k} {average_K[k]:.2f}" for k in order) in caption.alt


def test_bars_join_what_is_not_told_apart(make_spec, make_trials, separated):
    """Each thick bar spans one clique: every pair within the critical difference is under a bar, and no other pair."""
    result = filled(make_spec, make_trials, separated)
    figure, _ = ranks(result)
    (rankings,) = result.rankings.values()
    bars = [line.get_xdata() for line in figure.axes[0].lines if line.get_linewidth() == 3]
    assert bars
    joined = {
        pair
        for low, high in bars
        for pair in itertools.combinations(range(4), 2)
        if all(low <= rankings.average_ranks[k] <= high for k in pair)
    }
    close = {
        (i, j)
        for i, j in itertools.combinations(range(4), 2)
        if abs(rankings.average_ranks[i] - rankings.average_ranks[j]) <= rankings.critical_difference
    }
    assert joined == close
    assert len(close) < 6


def test_an_order_that_may_be_chance_is_called_so(make_spec, make_trials):
    """Where Friedman's test finds nothing the note says that no column is told from another."""
    value_NK = np.random.default_rng(1).uniform(size=(4, 3))
    assert friedmanchisquare(*value_NK.T).pvalue > 0.1
    figure, _ = ranks(filled(make_spec, make_trials, value_NK))
    assert "so the order may be chance and no column is told from another." in _note(figure)


@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (1, 3)])
def test_too_few_arms_or_rows_have_no_diagram(make_spec, make_trials, shape):
    """Two arms or two rows: None."""
    assert ranks(filled(make_spec, make_trials, np.random.default_rng(0).uniform(size=shape))) is None


def test_rows_that_lack_a_number_are_left_out_and_counted(make_spec, make_trials, sweep_table):
    """A failed trial takes its row out of the ranks; tables whose columns are metrics have none."""
    spec = make_spec([f"net{n}" for n in range(5)], ["a", "b", "c"], [0])
    values = {(cell["row"], cell["column"]): [0.1 * i] for i, cell in enumerate(spec["cells"])}
    figure, _ = ranks(build_table(spec, make_trials(spec, values, {"t000": ("failed", "nan"), "t010": ("failed", "nan")})))
    assert "over N = 4 rows" in _note(figure)
    assert "1 of 5 rows lack a number and are left out." in _note(figure)
    spec, trials = sweep_table
    assert ranks(build_table(spec, trials)) is None


def test_a_table_of_two_metrics_has_a_diagram_each(make_spec, make_trials):
    """Each metric is ranked by itself, in its own direction, and named."""
    spec = make_spec([f"net{n}" for n in range(4)], ["a", "b", "c"], [0])
    values = {(cell["row"], cell["column"]): [0.1 * i] for i, cell in enumerate(spec["cells"])}
    spec["cells"] += [{**cell, "metric": "metric_test_loss_last"} for cell in spec["cells"]]
    figure, _ = ranks(build_table(spec, make_trials(spec, values)))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["test accuracy (%)", "test loss"]
    assert "a  3.00" in {text.get_text() for text in figure.axes[0].texts}
    assert "a  1.00" in {text.get_text() for text in figure.axes[1].texts}
    assert "Ranks of test accuracy over N = 4 rows" in _note(figure)


def test_twelve_long_names_stay_apart_and_in_the_figure(make_spec, make_trials, tmp_path):
    """No name overlaps another, all are within the figure, and the bytes are the same each time."""
    columns = [f"arm_{k}_with_a_very_long_name(weight=0.3, start={k})" for k in range(12)]
    value_NK = np.random.default_rng(0).uniform(size=(5, 12))
    figure, _ = ranks(filled(make_spec, make_trials, value_NK, columns))
    first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    names = [text for text in figure.axes[0].texts if text.get_text().startswith("arm")]
    boxes = [text.get_window_extent(renderer) for text in names]
    assert len(names) == 12
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    again, _ = ranks(filled(make_spec, make_trials, value_NK, columns))
    assert [path.read_bytes() for path in save_figure(again, tmp_path / "b")] == first
