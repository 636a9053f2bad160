"""Curves and figures: what is drawn, what is left out and said, and the same bytes every time."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.convergence import epochs_to_reach
from pipeline.analysis.curves import accuracy_curves, curves_csv, write_curves
from pipeline.analysis.figures.accuracy import accuracy_over_epochs
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.figures.sweep import is_sweep, sweep
from pipeline.analysis.figures.write import write_figures
from pipeline.analysis.tables import build_table


def _note(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_curves_are_means_over_seeds_of_validation_accuracy(arms, make_history):
    """Each curve is the mean and sample SD over the cell's seeds; cells with a missing seed are named, not drawn."""
    spec, trials = arms
    history = make_history(trials)
    curves, incomplete = accuracy_curves(spec, history, trials)
    assert [curve.label for curve in curves] == ["resnet8/ce", "resnet8/cam", "wrn_10_1/ce", "vit_tiny/ce"]
    assert incomplete == ["wrn_10_1/cam", "vit_tiny/cam"]
    frame = history.to_pandas().pivot(index="epoch", columns="trial_id", values="metric_val_acc_top1")[["t000", "t001", "t002"]]
    assert curves[0].epochs == tuple(range(1, 9))
    assert np.allclose(curves[0].mean, frame.mean(axis=1))
    assert np.allclose(curves[0].sd, frame.std(axis=1, ddof=1))


@pytest.mark.parametrize("absent", ["null", "column"])
def test_curves_fall_back_to_test_accuracy(arms, make_history, absent):
    """Without validation accuracy, be its column empty or absent, the curves show the test split and the axis says so."""
    spec, trials = arms
    history = make_history(trials, val=False)
    if absent == "column":
        history = history.drop_columns(["metric_val_acc_top1"])
    else:
        position = history.column_names.index("metric_val_acc_top1")
        history = history.set_column(position, "metric_val_acc_top1", pa.nulls(history.num_rows))
    assert {curve.split for curve in accuracy_curves(spec, history, trials)[0]} == {"test"}
    assert accuracy_over_epochs(spec, history, trials)[0].axes[0].get_ylabel() == "test accuracy (%)"


def test_curves_keep_the_epochs_that_all_seeds_have(make_spec, make_trials, make_history):
    """A seed that stopped early shortens its cell's curve: no epoch is averaged over a part of the seeds."""
    spec = make_spec(["a"], ["ce"], [0, 1])
    trials = make_trials(spec, {("a", "ce"): [0.5, 0.6]})
    history = make_history(trials)
    shortened = history.filter(
        [not (t == "t001" and e > 5) for t, e in zip(history["trial_id"].to_pylist(), history["epoch"].to_pylist(), strict=True)]
    )
    assert accuracy_curves(spec, shortened, trials)[0][0].epochs == (1, 2, 3, 4, 5)


def test_curves_csv_is_long(arms, make_history, tmp_path):
    """The CSV for DVC has one line a curve and epoch, as fractions, and says split, seeds and sample SD."""
    spec, trials = arms
    history = make_history(trials)
    lines = list(csv.DictReader(io.StringIO(curves_csv(accuracy_curves(spec, history, trials)[0]))))
    assert list(dict.fromkeys((line["row"], line["column"]) for line in lines)) == [
        ("resnet8", "ce"),
        ("resnet8", "cam"),
        ("wrn_10_1", "ce"),
        ("vit_tiny", "ce"),
    ]
    curve = accuracy_curves(spec, history, trials)[0][0]
    first = lines[:8]
    assert [line["epoch"] for line in first] == [str(epoch) for epoch in range(1, 9)]
    assert [float(line["accuracy"]) for line in first] == list(curve.mean)
    assert [float(line["sd"]) for line in first] == list(curve.sd)
    assert {(line["split"], line["n"]) for line in lines} == {("val", "3")}
    (path,) = write_curves({"study": "quick", "tables": [spec]}, trials=trials, history=history, folder=tmp_path / "curves")
    assert path.read_text(encoding="utf-8") == curves_csv(accuracy_curves(spec, history, trials)[0])


def test_accuracy_figure_has_a_panel_a_row_and_a_line_an_arm(arms, make_history):
    """Panels are rows, lines are arms told apart by colour and dash, and the note says n and what has no line."""
    spec, trials = arms
    figure, _ = accuracy_over_epochs(spec, make_history(trials), trials)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["resnet8", "wrn_10_1", "vit_tiny"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 1, 1]
    ce, cam = figure.axes[0].lines
    assert ce.get_color() != cam.get_color()
    assert ce.get_linestyle() != cam.get_linestyle()
    assert figure.axes[0].get_ylabel() == "validation accuracy (%)"
    assert figure.axes[0].get_xlabel() == "epoch"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce", "cam"]
    assert "n = 3 seeds" in _note(figure)
    assert "a seed is missing: wrn_10_1/cam, vit_tiny/cam" in _note(figure)


def test_a_long_label_leaves_title_and_panels_alone(make_spec, make_trials, make_history):
    """The legend is wrapped and stands right of the panels and of the title; the panels are as wide as with short labels."""
    spans = []
    for name in ("b", "cam_loss_with_a_very_long_name(weight=0.3, start_epoch=10)+label_smoothing(eps=0.1)"):
        spec = make_spec(["resnet8", "wrn"], ["a", name], [0], title="Accuracy of two backbones, a title that fills its line and more")
        trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
        figure, _ = accuracy_over_epochs(spec, make_history(trials), trials)
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        legend = figure.legends[0].get_window_extent(renderer)
        for other in (figure._suptitle, *figure.axes):
            assert not legend.overlaps(other.get_window_extent(renderer))
        assert legend.x1 <= figure.bbox.x1
        assert "".join(figure.legends[0].get_texts()[1].get_text().split()) == "".join(name.split())
        spans.append(figure.axes[0].get_window_extent(renderer).width)
    assert spans[0] == pytest.approx(spans[1], rel=0.05)


def test_accuracy_figure_says_how_many_rows_it_leaves_out(make_spec, make_trials, make_history):
    """Beyond 8 rows the figure stops and says how many are not shown; odd names are printed literally."""
    spec = make_spec([f"net_{i}" for i in range(10)], ["_ce", "$x_1$"], [0])
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    figure, _ = accuracy_over_epochs(spec, make_history(trials, epochs=2), trials)
    assert len(figure.axes) == 8
    assert "2 more rows are not shown" in _note(figure)
    assert "One seed." in _note(figure)
    assert len(figure.legends[0].get_texts()) == 2


def test_metric_table_draws_its_rows_as_lines(sweep_table, make_history):
    """Where columns are metrics they share their trials, so one panel shows one line a row."""
    spec, trials = sweep_table
    figure, _ = accuracy_over_epochs(spec, make_history(trials), trials)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 4


def test_nothing_is_drawn_when_nothing_is_complete(make_spec, make_trials, make_history, tmp_path):
    """Without a complete cell there is neither figure nor CSV."""
    spec = make_spec(["1", "2"], ["m"], [0], metrics={"m": "metric_test_acc_top1_last"}, levels={"1": 1, "2": 2})
    trials = make_trials(spec, {("1", "m"): [None], ("2", "m"): [None]}, dict.fromkeys(["t00", "t10"], ("failed", "diverged")))
    document, history = {"study": "s", "tables": [spec]}, make_history(trials)
    result = build_table(spec, trials)
    assert is_sweep(spec)
    assert sweep(spec, result) is None
    assert write_figures(document, [result], trials=trials, history=history, folder=tmp_path) == []
    assert write_curves(document, trials=trials, history=history, folder=tmp_path) == []


def test_sweep_draws_mean_spread_and_references(sweep_table):
    """A panel a metric with the levels as ticks, symlog as 0 is one of them, and a dotted line for each map that sees no image."""
    spec, trials = sweep_table
    trials = trials.append_column("metric_test_centre_energy_last", pa.array([0.3] * 8))
    figure, _ = sweep(spec, build_table(spec, trials))
    accuracy, energy = figure.axes
    assert energy.get_xlabel() == "loss.cam.weight (symmetric log)"
    assert accuracy.get_xscale() == "symlog"
    assert [tick.get_text() for tick in accuracy.get_xticklabels()] == ["0", "0.3", "1", "3"]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([93.4, 93.75, 94.1, 94.45])
    assert energy.get_ylabel().startswith("share of the CAAM's energy")
    dotted = [line for line in energy.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == pytest.approx([21.41, 30.0])
    assert [text.get_text() for text in energy.texts] == ["flat map 21.41 %", "centre 30.00 %"]
    assert "Dotted: a map that does not look at the image." in _note(figure)
    assert not [line for line in accuracy.lines if line.get_linestyle() == ":"]
    assert not accuracy.texts


@pytest.mark.parametrize(("flat", "arrow"), [(0.001, "↓"), (0.9, "↑")])
def test_a_reference_far_away_leaves_the_panel_to_the_data(sweep_table, flat, arrow):
    """A reference that would squeeze the data is written at the edge that it lies beyond."""
    spec, trials = sweep_table
    column = "metric_test_flat_energy_last"
    for cell in spec["cells"]:  # energies within 0.4 points of each other
        cell["metric"] = "metric_test_caam_energy_last"
    position = trials.column_names.index("metric_test_caam_energy_last")
    trials = trials.set_column(position, "metric_test_caam_energy_last", pa.array([0.4 + 0.0005 * i for i in range(8)]))
    trials = trials.drop_columns([column]).append_column(column, pa.array([flat] * 8))
    ax = sweep(spec, build_table(spec, trials))[0].axes[0]
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [text.get_text() for text in ax.texts] == [f"{arrow} flat map {100 * flat:.2f} %"]
    low, high = ax.get_ylim()
    assert high - low < 1


@pytest.mark.parametrize(
    ("levels", "scale", "said"),
    [
        ([1, 2, 3], "linear", ""),
        ([0.01, 0.1, 1], "log", " (log)"),
        ([0, 1, 2], "symlog", " (symmetric log)"),
        ([-1, 1, 2], "linear", ""),
    ],
)
def test_sweep_chooses_its_axis_and_says_so(make_spec, make_trials, levels, scale, said):
    """Linear for near levels, log for a wide positive range, symlog with a zero; the label tells what is not linear."""
    rows = [str(level) for level in levels]
    spec = make_spec(rows, ["m"], [0], metrics={"m": "metric_test_acc_top1_last"}, levels=dict(zip(rows, levels, strict=True)))
    result = build_table(spec, make_trials(spec, {(row, "m"): [0.5] for row in rows}))
    ax = sweep(spec, result)[0].axes[0]
    assert (ax.get_xscale(), ax.get_xlabel()) == (scale, f"backbone{said}")


@pytest.fixture
def sensitivity(make_spec, make_trials):
    """Four learning rates x three arms x three seeds, out of order; cam lacks a seed at 0.1, focal is not part of the design at 2."""
    rows, columns = ["2", "0.01", "10", "0.1"], ["ce", "cam", "focal"]
    spec = make_spec(rows, columns, [0, 1, 2], baseline="ce", levels={row: float(row) for row in rows}, row_fields=["lr"])
    rng = np.random.default_rng(0)
    values = {(row, column): rng.uniform(0.5, 0.9, 3).tolist() for row in rows for column in columns}
    trials = make_trials(spec, values, {"t312": ("failed", "nan")})
    spec["cells"] = [cell for cell in spec["cells"] if (cell["row"], cell["column"]) != ("2", "focal")]
    return spec, trials, values


def test_sweep_of_arms_draws_a_line_an_arm(sensitivity):
    """Numeric rows with arms as columns: one panel, a line an arm in the order of the levels, a band of ± SD, and what is missing said."""
    spec, trials, values = sensitivity
    figure, caption = sweep(spec, build_table(spec, trials))
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    expected = {"ce": ["0.01", "0.1", "2", "10"], "cam": ["0.01", "2", "10"], "focal": ["0.01", "0.1", "10"]}
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3
    for line, band, (column, levels) in zip(ax.lines, ax.collections, expected.items(), strict=True):
        assert list(line.get_xdata()) == [float(level) for level in levels]
        value_LS = 100 * np.array([values[level, column] for level in levels])
        assert list(line.get_ydata()) == pytest.approx(value_LS.mean(axis=1))
        edges = {tuple(point) for point in np.round(band.get_paths()[0].vertices, 6).tolist()}
        for sign in (-1, 1):
            edge = value_LS.mean(axis=1) + sign * value_LS.std(axis=1, ddof=1)
            assert {(float(level), round(y, 6)) for level, y in zip(levels, edge.tolist(), strict=True)} <= edges
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce", "cam", "focal"]
    assert figure.legends[0].get_title().get_text() == "arm"
    assert "n = 3 seeds; band: ± sample SD" in _note(figure)
    assert "a seed is missing: 0.1/cam." in _note(figure)
    best = max(expected["ce"], key=lambda level: np.mean(values[level, "ce"]))
    assert f"ce: test accuracy is best at lr = {best} (" in caption.alt


def test_sweep_of_arms_has_a_panel_a_metric(make_spec, make_trials):
    """A table of two metrics a place has two panels, and one seed has no band."""
    spec = make_spec(["1", "2"], ["ce", "cam"], [0], levels={"1": 1, "2": 2})
    energy = "metric_test_caam_energy_last"
    spec["cells"] += [{**cell, "metric": energy} for cell in spec["cells"]]
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    figure, _ = sweep(spec, build_table(spec, trials))
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    assert [ax.get_ylabel().split()[0] for ax in figure.axes] == ["test", "share"]
    assert not any(ax.collections for ax in figure.axes)
    assert _note(figure) == "One seed."


def test_captions_tell_numbers_and_never_more_than_twelve(make_spec, make_trials, make_history):
    """Who does not see a figure is told final accuracies, and how many more there are."""
    spec = make_spec([f"net_{i}" for i in range(7)], ["ce", "cam"], [0])
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    _, caption = accuracy_over_epochs(spec, make_history(trials, epochs=2), trials)
    assert caption.text == "Accuracy over epochs."
    assert caption.alt.startswith("Accuracy over epochs, table backbones. net_0/ce ends at 54.50 % after epoch 2; net_0/cam ends at ")
    assert caption.alt.count("ends at") == 12
    assert "; and 2 more. " in caption.alt


def test_a_cell_whose_seeds_share_no_epoch_is_told_of_nowhere(make_spec, make_trials, make_history):
    """Such a cell has an empty curve: the figure and its words are about the other cells, and its convergence is left out."""
    spec = make_spec(["a"], ["ce", "cam"], [0, 1])
    trials = make_trials(spec, {("a", "ce"): [0.5, 0.6], ("a", "cam"): [0.5, 0.6]})
    history = make_history(trials, epochs=2)
    odd = {("t000", 1), ("t001", 2)}
    pairs = zip(history["trial_id"].to_pylist(), history["epoch"].to_pylist(), strict=True)
    history = history.filter([pair not in odd for pair in pairs])
    _, caption = accuracy_over_epochs(spec, history, trials)
    assert "a/cam ends at" in caption.alt
    assert "a/ce" not in caption.alt
    reaches, _ = epochs_to_reach(spec, build_table(spec, trials), history, trials)
    assert {reach.column for reach in reaches} == {"cam"}


def test_tables_of_names_are_no_sweep(arms, make_spec):
    """Only numeric rows of one field make a sweep, at least two where the columns are arms."""
    assert not is_sweep(make_spec(["1"], ["ce", "cam"], [0], levels={"1": 1}))
    assert is_sweep(make_spec(["1", "2"], ["ce", "cam"], [0], levels={"1": 1, "2": 2}))
    assert not is_sweep(arms[0])
    assert not is_sweep(make_spec(["a"], ["m"], [0], metrics={"m": "metric_test_acc_top1_last"}))
    assert not is_sweep(make_spec(["on"], ["m"], [0], metrics={"m": "metric_test_acc_top1_last"}, levels={"on": True}))


def test_figures_are_the_same_bytes_each_time(sweep_table, make_history, tmp_path):
    """SVG and PNG of the same records do not differ between two runs and hold no date."""
    spec, trials = sweep_table
    document, results = {"study": "quick", "tables": [spec]}, [build_table(spec, trials)]
    first, second = (
        write_figures(document, results, trials=trials, history=make_history(trials), folder=tmp_path / name) for name in ("a", "b")
    )
    names = [path.name for path in first]
    assert names == [f"loss_weight.{kind}.{suffix}" for kind in ("accuracy", "convergence", "sweep") for suffix in ("svg", "png")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert "dc:date" not in first[0].read_text(encoding="utf-8")


def test_global_style_is_left_alone(arms, make_history, tmp_path):
    """Drawing and saving change none of matplotlib's global settings."""
    import matplotlib

    spec, trials = arms
    before = dict(matplotlib.rcParams)
    save_figure(accuracy_over_epochs(spec, make_history(trials), trials)[0], tmp_path / "figure")
    assert dict(matplotlib.rcParams) == before
