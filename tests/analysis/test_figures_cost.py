"""Cost against accuracy: points, quartiles and labels, no claim that noise can make, and warnings about times that cannot be compared."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from pipeline.analysis.figures.cost import MAX_LABELS, cost, cost_points
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.tables import build_table


def _note(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def with_column(trials: pa.Table, name: str, value_of) -> pa.Table:
    """A column more, of a function of the trial id."""
    return trials.append_column(name, pa.array([value_of(i) for i in trials["trial_id"].to_pylist()]))


def markers(ax) -> list[tuple[float, float, str]]:
    """(x, y, colour of the edge) of all cells of a panel."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_markeredgecolor())
        for line in ax.lines
        if line.get_markersize() == 6 and line.get_linestyle() == "None"
    ]


@pytest.fixture
def timed(arms):
    """The table of `arms` with a time a trial."""
    spec, trials = arms
    seconds = {"t000": 10.0, "t001": 11.0, "t002": 12.0, "t010": 14.0, "t011": 13.0, "t012": 90.0}
    return spec, with_column(trials, "time_train_s", lambda i: seconds.get(i, 50.0 + int(i[1])))


def test_points_are_median_time_and_mean_accuracy(timed):
    """A marker a complete cell at its median time and mean accuracy, with bars of quartiles and of SD; what is missing is said."""
    spec, trials = timed
    figure, caption = cost(build_table(spec, trials), trials)
    (ax,) = figure.axes
    found = sorted((x, y) for x, y, _ in markers(ax))
    expected = [(11.0, 93.566667), (14.0, 94.453333), (51.0, 92.14), (52.0, 80.566667)]
    assert [value for point in found for value in point] == pytest.approx([value for point in expected for value in point])
    dearest = {text.get_text(): text.xy for text in ax.texts}  # where the line of a row's name ends
    assert dearest == {
        "resnet8": pytest.approx(expected[1]),
        "wrn_10_1": pytest.approx(expected[2]),
        "vit_tiny": pytest.approx(expected[3]),
    }
    assert ax.get_xscale() == "linear"
    assert ax.get_xlabel() == "training time of a trial (s)"
    assert ax.get_ylabel() == "test accuracy (%)"
    bars = [collection.get_segments()[0] for collection in ax.collections]
    low, high = next(segment for segment in bars if segment[0][0] == 11.0)[:, 1]
    assert (high - low) / 2 == pytest.approx(100 * np.std([0.931, 0.936, 0.94], ddof=1))
    times = next(segment for segment in bars if segment[0][1] == segment[1][1] == pytest.approx(93.566667))[:, 0]
    assert list(times) == pytest.approx([10.5, 11.5])
    assert "Means over n = 3 seeds; bars: ± sample SD. Time: wall clock, median over a cell's trials; bars: the middle half." in _note(
        figure
    )
    assert "a seed is missing: wrn_10_1/cam, vit_tiny/cam." in _note(figure)
    assert "Trials ran" not in _note(figure)
    assert "resnet8/cam: 94.45 ± 0.08 % in 14 s" in caption.alt
    assert "Trials may have shared the machine: a time is how long they took, not what a method costs." in caption.alt


def epochs_of(trials: pa.Table, seconds) -> pa.Table:
    """A history of `seconds(trial_id)`, one number an epoch."""
    rows = [
        {"trial_id": trial_id, "epoch": epoch, "time_train_s": value}
        for trial_id in trials["trial_id"].to_pylist()
        for epoch, value in enumerate(seconds(trial_id), 1)
    ]
    return pa.Table.from_pylist(rows)


@given(st.data())
def test_epochs_give_the_time_of_a_trial(make_spec, make_trials, data):
    """Each epoch tells a time, its own times their number; a cell has the median and the quartiles over its trials."""
    spec = make_spec(["a", "b"], ["ce"], [0, 1])
    trials = with_column(make_trials(spec, {("a", "ce"): [0.5, 0.6], ("b", "ce"): [0.5, 0.6]}), "time_train_s", lambda i: 1e6)
    epochs = {i: data.draw(st.lists(st.floats(0.1, 10), min_size=2, max_size=5)) for i in trials["trial_id"].to_pylist()}
    (panel,), untimed = cost_points(build_table(spec, trials), trials, epochs_of(trials, epochs.get))
    assert untimed == []
    for point in panel:
        told = [len(epochs[trial_id]) * value for trial_id in point.cell.trial_ids for value in epochs[trial_id]]
        low, median, high = statistics.quantiles(told, n=4, method="inclusive")
        assert (point.seconds, *point.quartiles) == pytest.approx((median, low, high))


def test_a_slow_epoch_moves_no_marker(timed):
    """An epoch that another program disturbed changes neither median nor quartiles; a trial without times of epochs has its whole time."""
    spec, trials = timed
    result = build_table(spec, trials)
    calm = epochs_of(trials, lambda i: [2.0] * 8 if i[1] == "0" else [None])
    shaken = epochs_of(trials, lambda i: [2.0] * 7 + [500.0 * (1 + int(i[2]))] if i[1] == "0" else [None])
    seen = [[(point.seconds, point.quartiles) for point in cost_points(result, trials, history)[0][0]] for history in (calm, shaken)]
    assert seen[0] == seen[1]
    assert [seconds for seconds, _ in seen[0]] == [16.0, 16.0, 51.0, 52.0]
    note = _note(cost(result, trials, calm)[0])
    assert "Time: wall clock, number of epochs × median epoch of a cell's trials; bars: the middle half of the epochs." in note


def test_no_cell_is_called_cheaper(timed):
    """No front is drawn and no marker is set off, as the order of near times may be another in the next run."""
    spec, trials = timed
    figure, caption = cost(build_table(spec, trials), trials)
    (ax,) = figure.axes
    assert {edge for _, _, edge in markers(ax)} == {"white"}
    assert not [line for line in ax.lines if line.get_linestyle() == "--"]
    assert not [word for word in ("front", "Pareto", "cheap") if word in caption.alt]


def test_wide_times_are_logarithmic_and_in_their_unit(timed):
    """More than a factor of 10 makes the axis logarithmic; long times are in minutes or hours."""
    spec, trials = timed
    for factor, unit in ((1, "s"), (20, "min"), (1000, "h")):
        scaled = with_column(trials.drop_columns(["time_train_s"]), "time_train_s", lambda i: factor * (1.0 if i < "t1" else 10.5))  # noqa: B023
        ax = cost(build_table(spec, scaled), scaled)[0].axes[0]
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == f"training time of a trial ({unit})"
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert "1" in shown
    assert not any("$" in text for text in shown)


def test_cells_without_times_are_left_out_and_named(timed):
    """A time that is null, zero or NaN leaves its cell out; without times, or with one point, there is no figure."""
    spec, trials = timed
    result = build_table(spec, trials)
    bad = {"t001": None, "t100": 0.0, "t201": float("nan")}
    partly = with_column(trials.drop_columns(["time_train_s"]), "time_train_s", lambda i: bad.get(i, 10.0))
    assert cost(result, partly) is None  # one point is left
    bad.pop("t001")
    partly = with_column(trials.drop_columns(["time_train_s"]), "time_train_s", lambda i: bad.get(i, 10.0))
    figure, _ = cost(result, partly)
    assert "a training time is missing: wrn_10_1/ce, vit_tiny/ce." in _note(figure)
    assert cost(result, trials.drop_columns(["time_train_s"])) is None


def test_mixed_hardware_is_a_warning(timed):
    """Trials on two devices, or with two numbers of threads, are said to have times that cannot be compared; others do not count."""
    spec, trials = timed
    result = build_table(spec, trials)
    mixed = with_column(trials, "env_device_name", lambda i: "NVIDIA H200" if i == "t000" else "NVIDIA A100")
    mixed = with_column(mixed, "env_threads", lambda i: 1 + (i == "t002"))
    note = _note(cost(result, mixed)[0])
    assert "Trials ran on different devices (NVIDIA A100, NVIDIA H200) and with different numbers of threads (1, 2), so their times" in note
    unused = with_column(trials, "env_device_name", lambda i: "NVIDIA H200" if i == "t111" else "NVIDIA A100")  # t111 failed
    note = _note(cost(result, unused)[0])
    assert "Trials ran" not in note
    assert "Trials may have shared the machine (NVIDIA A100): a time is how long" in note
    known = with_column(unused, "env_threads", lambda i: 2)
    assert "the machine (NVIDIA A100, 2 threads): a time" in _note(cost(result, known)[0])


def test_metrics_and_datasets_have_panels_of_their_own(make_spec, make_trials):
    """Of a metric table a panel a metric and dataset, none for a cost; rows are the only names."""
    rows = ["digits 0", "digits 1", "birds 0", "birds 1"]
    metrics = {"acc_top1": "metric_test_acc_top1_last", "ece": "metric_test_ece_last", "mem": "mem_peak_bytes"}
    spec = make_spec(rows, list(metrics), [0, 1], metrics=metrics)
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": cell["row"].split()[0], "weight": int(cell["row"][-1])}
    trials = make_trials(spec, {(row, column): [0.1, 0.2] for row in rows for column in metrics})
    trials = with_column(trials, "time_train_s", lambda i: 1.0 + int(i[1]))
    figure, _ = cost(build_table(spec, trials), trials)
    quantities = ["test accuracy (%)", "test expected calibration error (%)"]
    assert [" ".join(ax.get_ylabel().split()) for ax in figure.axes] == quantities * 2
    assert [len(markers(ax)) for ax in figure.axes] == [2, 2, 2, 2]
    assert not figure.legends
    assert "Thin lines" not in _note(figure)


def test_labels_stay_apart_in_the_figure_and_near_their_rows(make_spec, make_trials, tmp_path):
    """24 long names over nearly equal accuracies: none overlaps another, all are inside and in order; the same bytes twice."""
    rows = [f"timm/convnext_tiny.in12k_variant_with_a_long_name_{i:02}" for i in range(MAX_LABELS)]
    spec = make_spec(rows, [f"arm{k}" for k in range(12)], [0])
    rng = np.random.default_rng(0)
    trials = make_trials(spec, {(cell["row"], cell["column"]): [float(0.9 + 0.001 * rng.random())] for cell in spec["cells"]})
    trials = with_column(trials, "time_train_s", lambda i: float(sum(map(ord, i))))
    result = build_table(spec, trials)
    figure, _ = cost(result, trials)
    first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    labels = figure.axes[0].texts
    assert sorted("".join(text.get_text().split()) for text in labels) == rows
    boxes = [text.get_window_extent(renderer) for text in labels]
    words = [Text.get_window_extent(text, renderer) for text in labels]  # without the line to the marker
    assert not any(one.overlaps(other) for one, other in itertools.combinations(words, 2))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(word.overlaps(legend.get_window_extent(renderer)) for word in words for legend in figure.legends)
    leaders = [text.arrow_patch.get_window_extent(renderer) for text in labels]
    assert all(leader.x1 <= word.x0 + 2 for leader, word in zip(leaders, words, strict=True))  # none runs across a name
    anchors = [text.xy[1] for text in labels]
    places = [text.get_position()[1] for text in labels]
    assert np.all(np.diff(np.array(places)[np.argsort(anchors, kind="stable")]) > 0)
    again, _ = cost(result, trials)
    assert [path.read_bytes() for path in save_figure(again, tmp_path / "b")] == first


def test_of_very_many_rows_the_best_are_named(make_spec, make_trials):
    """With more rows than labels those with the best values are named, and the note says so."""
    rows = [f"net{i}" for i in range(MAX_LABELS + 2)]
    spec = make_spec(rows, ["ce"], [0])
    trials = make_trials(spec, {(row, "ce"): [0.9 + 0.001 * i] for i, row in enumerate(rows)})
    trials = with_column(trials, "time_train_s", lambda i: 10.0)
    figure, _ = cost(build_table(spec, trials), trials)
    assert {text.get_text() for text in figure.axes[0].texts} == set(rows[2:])
    assert "Only the 24 rows with the best values are named." in _note(figure)
    assert "One seed." in _note(figure)
