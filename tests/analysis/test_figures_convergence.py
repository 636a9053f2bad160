"""Speed of convergence: numbers against brute force, what is compared with what, and what the figure says of seeds that never arrive."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.convergence import SHARES, epochs_to_reach
from pipeline.analysis.figures.convergence import MAX_LINES, MAX_PANELS, convergence
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.tables import build_table


def _note(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def history_of(curves: dict[str, list[float]], *, split: str = "val") -> pa.Table:
    """results/history.parquet of trial id -> accuracy an epoch, rows in no particular order."""
    rows = [
        {"trial_id": trial_id, "epoch": epoch, f"metric_{split}_acc_top1": accuracy}
        for trial_id, curve in curves.items()
        for epoch, accuracy in enumerate(curve, start=1)
    ]
    return pa.Table.from_pylist(rows[::-1])


def table_of(make_spec, make_trials, rows, columns, seeds, **changes):
    """A spec with its records, every trial complete, and the filled table."""
    spec = make_spec(rows, columns, seeds, **changes)
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] * len(seeds) for cell in spec["cells"]})
    return spec, trials, build_table(spec, trials)


def test_levels_are_shares_of_the_baselines_final_mean(make_spec, make_trials):
    """By hand: ce ends at 0.8 and 0.9, so 90 % of its mean is 0.765; a seed below it throughout has no epoch and the cell no mean."""
    spec, trials, result = table_of(make_spec, make_trials, ["net"], ["ce", "cam"], [0, 1], baseline="ce")
    history = history_of({"t000": [0.7, 0.78, 0.8], "t001": [0.765, 0.5, 0.9], "t010": [0.1, 0.2, 0.99], "t011": [0.1, 0.2, 0.3]})
    reaches, incomplete = epochs_to_reach(spec, result, history, trials, shares=[0.9])
    assert incomplete == []
    ce, cam = reaches
    assert (ce.group, ce.row, ce.column, ce.split, ce.from_baseline, ce.last) == ("net", "net", "ce", "val", True, 3)
    assert ce.level == pytest.approx(0.765)
    assert (ce.epochs, ce.mean, ce.never) == ((2, 1), 1.5, 0)
    assert (cam.epochs, cam.mean, cam.never) == ((3, None), None, 1)


@given(st.data())
def test_epochs_are_those_of_brute_force(make_spec, make_trials, data):
    """For any curves, each epoch is the first one at or above the level, found by looking at every epoch."""
    seeds = list(range(data.draw(st.integers(1, 3))))
    spec, trials, result = table_of(make_spec, make_trials, ["a", "b"], ["ce", "cam"], seeds, baseline="ce")
    accuracy = st.floats(0, 1, allow_nan=False)
    curves = {i: data.draw(st.lists(accuracy, min_size=1, max_size=6)) for i in trials["trial_id"].to_pylist()}
    reaches, _ = epochs_to_reach(spec, result, history_of(curves), trials)
    assert len(reaches) == 2 * 2 * len(SHARES)
    for reach in reaches:
        row = ["a", "b"].index(reach.row)
        # A curve ends at the last epoch that every seed of its cell has.
        common = min(len(curves[f"t{row}0{seed}"]) for seed in seeds)
        final = np.mean([curves[f"t{row}0{seed}"][common - 1] for seed in seeds])
        assert reach.reference == pytest.approx(final)
        own = [curves[f"t{row}{['ce', 'cam'].index(reach.column)}{seed}"] for seed in seeds]
        first = tuple(next((k for k, value in enumerate(curve, 1) if value >= reach.level - 1e-12), None) for curve in own)
        assert reach.epochs == first
        assert reach.last == max(map(len, own))


def test_gaps_in_a_history_are_no_accuracies(make_spec, make_trials):
    """An epoch with NaN or without an accuracy does not count as reached, and keeps its number."""
    spec, trials, result = table_of(make_spec, make_trials, ["net"], ["ce"], [0])
    history = history_of({"t000": [float("nan"), None, 0.9, 0.9, float("nan")], "elsewhere": [1.0, 1.0, 1.0, 1.0]})
    (reach,), _ = epochs_to_reach(spec, result, history, trials, shares=[0.5])
    assert reach.epochs == (3,)
    assert reach.last == 4


def test_without_a_complete_baseline_the_best_is_the_reference(make_spec, make_trials):
    """No baseline, or one that lacks a seed: levels are shares of the best final mean, and the note says whose they are."""
    spec = make_spec(["a", "b"], ["ce", "cam", "focal"], [0], baseline="ce")
    values = {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]}
    trials = make_trials(spec, values, {"t000": ("failed", "nan")})
    history = history_of({i: [0.1 * k, 0.1 * k + 0.3] for k, i in enumerate(trials["trial_id"].to_pylist())})
    result = build_table(spec, trials)
    reaches, incomplete = epochs_to_reach(spec, result, history, trials)
    assert incomplete == ["a/ce"]
    assert {(reach.row, reach.from_baseline, round(reach.reference, 9)) for reach in reaches} == {("a", False, 0.5), ("b", True, 0.6)}
    figure, _ = convergence(spec, result, history, trials)
    assert "of the baseline's (or else the panel's best) final mean" in _note(figure)
    assert "a seed is missing: a/ce." in _note(figure)
    alone = spec | {"baseline": None}
    figure, _ = convergence(alone, build_table(alone, trials), history, trials)
    assert "of the panel's best final mean" in _note(figure)


def test_cells_on_other_data_are_not_compared(make_spec, make_trials):
    """Arms as rows and datasets as columns are compared column by column; rows of metric tables dataset by dataset."""
    spec, trials, _ = table_of(make_spec, make_trials, ["ce", "cam"], ["digits", "birds"], [0])
    spec["baseline"] = "ce"
    for cell in spec["cells"]:
        cell |= {"arm": cell["row"], "row_levels": {"arm": cell["row"]}, "column_levels": {"dataset": cell["column"]}}
    history = history_of({"t000": [0.9, 0.9], "t010": [0.4, 0.4], "t100": [0.8, 0.9], "t110": [0.3, 0.5]})
    reaches, _ = epochs_to_reach(spec, build_table(spec, trials), history, trials, shares=[1.0])
    found = [(reach.group, reach.row, round(reach.level, 9), reach.epochs) for reach in reaches]
    assert found == [("digits", "ce", 0.9, (1,)), ("digits", "cam", 0.9, (2,)), ("birds", "ce", 0.4, (1,)), ("birds", "cam", 0.4, (2,))]
    figure, _ = convergence(spec, build_table(spec, trials), history, trials)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["digits", "birds"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce", "cam"]

    rows = ["digits 0", "digits 1", "birds 0"]
    spec, trials, _ = table_of(make_spec, make_trials, rows, ["m"], [0], metrics={"m": "metric_test_acc_top1_last"})
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": cell["row"].split()[0], "weight": int(cell["row"][-1])}
    history = history_of({"t00": [0.9, 0.9], "t10": [0.8, 0.95], "t20": [0.3, 0.4]})
    reaches, _ = epochs_to_reach(spec, build_table(spec, trials), history, trials, shares=[1.0])
    assert [(reach.group, reach.row, reach.reference) for reach in reaches] == [
        ("", "digits 0", 0.95), ("", "digits 1", 0.95), ("", "birds 0", 0.4)
    ]  # fmt: skip
    figure, _ = convergence(spec, build_table(spec, trials), history, trials)
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == rows


def test_two_rows_on_one_dataset_share_no_reference(arms, make_history):
    """Each row of backbones has the level of its own baseline, and a cell without its seeds has no dots but is named."""
    spec, trials = arms
    figure, caption = convergence(spec, build_table(spec, trials), make_history(trials), trials)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["resnet8", "wrn_10_1", "vit_tiny"]
    assert len({ax.get_yticklabels()[0].get_text() for ax in figure.axes}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce", "cam"]
    assert "90, 95 and 99 % of the baseline's final mean" in _note(figure)
    assert "mean over n = 3 seeds" in _note(figure)
    assert "a seed is missing: wrn_10_1/cam, vit_tiny/cam." in _note(figure)
    assert caption.alt.startswith("Epochs until an accuracy is reached, table backbones. resnet8/ce reaches ")


def test_every_seed_is_a_dot_and_those_that_never_arrive_stand_apart(make_spec, make_trials):
    """Dots lie at the seeds' epochs, the mean among them; where one never arrives there is no mean but a hollow mark with a count."""
    spec, trials, result = table_of(make_spec, make_trials, ["net"], ["ce", "cam"], [0, 1, 2], baseline="ce")
    ce = {f"t00{seed}": [0.5] * seed + [1.0] * (10 - seed) for seed in range(3)}
    cam = {f"t01{seed}": [0.5] * (4 + seed) + [1.0] * (6 - seed) for seed in range(2)}
    figure, caption = convergence(spec, result, history_of({**ce, **cam, "t012": [0.5] * 10}), trials)
    (ax,) = figure.axes
    at_level = [line for line in ax.lines if len(line.get_ydata()) and line.get_linestyle() == "None"]
    by_y = {
        y: sorted(x for line in lines for x in line.get_xdata())
        for y, lines in itertools.groupby(at_level, key=lambda line: line.get_ydata()[0])
    }
    assert by_y[0] == [1, 2, 2, 3]
    assert by_y[1] == [5, 6, pytest.approx(11.4)]
    assert [text.get_text() for text in ax.texts] == ["1 of 3"] * 3
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "never"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["90.0 %\n(90 %)", "95.0 %\n(95 %)", "99.0 %\n(99 %)"]
    assert "there is no mean then" in _note(figure)
    assert "net/ce reaches 99.0 % at epoch 2.0; net/cam does not reach 99.0 % in 1 of 3 seeds" in caption.alt


def test_a_seed_that_always_arrives_needs_no_zone(make_spec, make_trials):
    """With one seed that arrives the note says so, and the axis has epochs alone."""
    spec, trials, result = table_of(make_spec, make_trials, ["net"], ["ce"], [0])
    figure, _ = convergence(spec, result, history_of({"t000": [0.5, 0.9, 0.9]}), trials)
    assert "never" not in [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "One seed." in _note(figure)
    assert "Hollow" not in _note(figure)


def test_nothing_to_draw_without_curves_or_with_one_epoch(make_spec, make_trials):
    """No history, no complete cell, or a single epoch: no figure."""
    spec, trials, result = table_of(make_spec, make_trials, ["net"], ["ce"], [0])
    assert convergence(spec, result, history_of({"other": [0.5, 0.6]}), trials) is None
    assert convergence(spec, result, history_of({"t000": [0.5]}), trials) is None
    failed = make_trials(spec, {("net", "ce"): [0.5]}, {"t000": ("failed", "nan")})
    assert convergence(spec, build_table(spec, failed), history_of({"t000": [0.5, 0.6]}), failed) is None


def test_many_rows_and_columns_are_cut_and_it_is_said(make_spec, make_trials, tmp_path):
    """Beyond 8 panels and 12 lines the figure stops; long labels are whole, markers differ, and the bytes are the same each time."""
    columns = [f"arm_{i}_with_a_very_long_name(weight=0.{i}, start_epoch=10)" for i in range(14)]
    spec, trials, result = table_of(make_spec, make_trials, [f"net_{i}" for i in range(10)], columns, [0], baseline=columns[0])
    history = history_of({i: [0.5, 0.9] for i in trials["trial_id"].to_pylist()})
    figure, _ = convergence(spec, result, history, trials)
    assert len(figure.axes) == MAX_PANELS
    assert "2 more panels not shown. 2 more lines not shown." in _note(figure)
    legend = figure.legends[0]
    assert ["".join(text.get_text().split()) for text in legend.get_texts()] == ["".join(c.split()) for c in columns[:MAX_LINES]]
    assert len({(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles}) == MAX_LINES
    first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
    second = [path.read_bytes() for path in save_figure(convergence(spec, result, history, trials)[0], tmp_path / "b")]
    assert first == second
