"""Change of the accuracy by class: numbers against brute force, pairing by seed, which classes are shown, and when there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.figures.panels import image_rows
from pipeline.analysis.figures.per_class import MAX_CLASSES, MAX_LINES, MAX_PANELS, class_changes, per_class
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.figures.write import write_captioned
from pipeline.analysis.tables import build_table
from pipeline.store.records import panel_types


def _note(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def panels_of(trials: pa.Table, classes: int, *, digest_of=lambda _: "d0", count: int = 50, **changes: Any) -> pa.Table:
    """results/panels.parquet with random numbers by class for every trial; `changes` is trial id -> columns of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for trial_id in trials["trial_id"].to_pylist():
        correct = rng.integers(0, count + 1, classes).tolist()
        row = {
            "trial_id": trial_id,
            "panel_digest": digest_of(trial_id),
            "panel_class_correct": correct,
            "panel_class_count": [count] * classes,
        }
        rows.append(row | changes.get(trial_id, {}))
    return pa.Table.from_pylist(rows, schema=pa.schema([("trial_id", pa.string()), *panel_types().items()]))


def images_of(names: list[str], digest: str = "d0"):
    """data/images.parquet with one image of a dataset of these classes."""
    row = {"data_digest": digest, "index": 0, "classes": names}
    return image_rows(pa.Table.from_pylist([row]))


@pytest.fixture
def compared(make_spec, make_trials):
    """Two backbones x three arms x three seeds, and numbers for five classes, the last of which has no test image."""
    spec = make_spec(["net_a", "net_b"], ["ce", "cam", "focal"], [0, 1, 2], baseline="ce")
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5, 0.6, 0.7] for cell in spec["cells"]})
    panels = panels_of(trials, 5).to_pylist()
    for row in panels:
        row["panel_class_correct"][4] = row["panel_class_count"][4] = 0
    schema = pa.schema([("trial_id", pa.string()), *panel_types().items()])
    return spec, build_table(spec, trials), pa.Table.from_pylist(panels, schema=schema)


def test_changes_are_paired_by_seed(compared):
    """Each change is correct / count of a trial minus that of the baseline's trial of the same seed; a class without images has none."""
    _, result, panels = compared
    changes, lacking = class_changes(result, panels)
    assert lacking == []
    assert [(change.panel, change.label, change.axis) for change in changes] == [
        ("net_a", "cam", "column"), ("net_a", "focal", "column"), ("net_b", "cam", "column"), ("net_b", "focal", "column")
    ]  # fmt: skip
    correct = {row["trial_id"]: row["panel_class_correct"] for row in panels.to_pylist()}
    for change in changes:
        i, j = ["net_a", "net_b"].index(change.panel), ["ce", "cam", "focal"].index(change.label)
        for seed in range(3):
            expected = [(correct[f"t{i}{j}{seed}"][k] - correct[f"t{i}0{seed}"][k]) / 50 for k in range(4)]
            assert change.change_SK[seed, :4].tolist() == pytest.approx(expected)
        assert np.isnan(change.change_SK[:, 4]).all()


def test_the_figure_shows_means_and_spread_in_order(compared):
    """Marks at the mean change in points with bars of the sample SD, classes from gain to loss by the mean over the arms, named."""
    _, result, panels = compared
    figure, caption = per_class(result, panels, images_of(["ant", "bee", "cat", "$dog", "elk"]))
    changes, _ = class_changes(result, panels)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["net_a", "net_b"]
    for ax, own in zip(figure.axes, (changes[:2], changes[2:]), strict=True):
        mean_K = np.mean([change.change_SK[:, :4].mean(axis=0) for change in own], axis=0)
        order = np.argsort(-mean_K)
        assert [label.get_text() for label in ax.get_yticklabels()] == [["ant", "bee", "cat", r"\$dog"][k] for k in order]
        marks = [line for line in ax.lines if line.get_linestyle() == "None"]
        assert len({(line.get_color(), line.get_marker()) for line in marks}) == 2
        for line, bars, change in zip(marks, ax.collections, own, strict=True):
            value_SK = 100 * change.change_SK[:, order]
            assert list(line.get_xdata()) == pytest.approx(value_SK.mean(axis=0))
            halves = [(segment[1][0] - segment[0][0]) / 2 for segment in bars.get_segments()]
            assert halves == pytest.approx(value_SK.std(axis=0, ddof=1))
            assert [round(y) for y in line.get_ydata()] == [0, 1, 2, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cam", "focal"]
    assert figure.legends[0].get_title().get_text() == "arm, against ce"
    assert "Mean over n = 3 seeds, paired; bars: ± sample SD." in _note(figure)
    assert "by the weights of the last epoch" in _note(figure)
    assert "the ends are partly chance" in _note(figure)
    best = int(np.nanargmax(changes[0].mean_K))
    assert f"net_a/cam: {100 * changes[0].mean_K[best]:+.1f} points at best, {['ant', 'bee', 'cat', '$dog'][best]}" in caption.alt
    assert "elk" not in caption.alt


def test_trials_without_numbers_by_class_leave_their_cell_out(compared):
    """A null in one seed, of the arm or of its baseline, or other test images: the cell is named and not drawn."""
    _, result, panels = compared
    rows = panels.to_pylist()
    by_id = {row["trial_id"]: row for row in rows}
    by_id["t011"]["panel_class_correct"] = None
    for seed in range(3):
        by_id[f"t12{seed}"]["panel_digest"] = "another"
    changed = pa.Table.from_pylist(rows, schema=panels.schema)
    changes, lacking = class_changes(result, changed)
    assert [(change.panel, change.label) for change in changes] == [("net_a", "focal"), ("net_b", "cam")]
    assert lacking == ["net_a/cam", "net_b/focal"]
    assert "Not stored by class: net_a/cam, net_b/focal." in _note(per_class(result, changed, {})[0])
    by_id["t000"]["panel_class_correct"] = None
    by_id["t110"]["panel_class_count"] = [49] * 5
    assert per_class(result, pa.Table.from_pylist(rows, schema=panels.schema), {}) is None


def test_old_results_and_tables_without_a_baseline_have_no_figure(compared, make_trials):
    """No column, nothing but nulls, no row, no baseline: None."""
    spec, result, panels = compared
    assert per_class(result, panels.drop_columns(["panel_class_correct", "panel_class_count"]), {}) is None
    assert per_class(result, panels.slice(0, 0), {}) is None
    nulls = [row | {"panel_class_correct": None, "panel_class_count": None} for row in panels.to_pylist()]
    assert per_class(result, pa.Table.from_pylist(nulls, schema=panels.schema), {}) is None
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5, 0.6, 0.7] for cell in spec["cells"]})
    assert per_class(build_table(spec | {"baseline": None}, trials), panels, {}) is None


def test_a_missing_seed_leaves_its_comparison_out(arms):
    """Where a cell lacks a seed the table has no difference, so the figure has none either."""
    spec, trials = arms
    changes, lacking = class_changes(build_table(spec, trials), panels_of(trials, 3))
    assert [(change.panel, change.label) for change in changes] == [("resnet8", "cam")]
    assert lacking == []


def test_of_many_classes_both_ends_are_shown(make_spec, make_trials):
    """Of 100 classes the 15 largest gains and the 15 largest losses, a gap between them; of 30 all of them."""
    spec = make_spec(["net"], ["ce", "cam"], [0], baseline="ce")
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    result = build_table(spec, trials)
    for classes in (MAX_CLASSES, 100):
        panels = panels_of(
            trials,
            classes,
            t000={"panel_class_correct": [0] * classes},
            t010={"panel_class_correct": [50 - k // 2 for k in range(classes)]},
        )
        figure, _ = per_class(result, panels, {})
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        if classes == MAX_CLASSES:
            assert sorted(labels, key=int) == labels
            assert len(labels) == 30
            assert "Of 30" not in _note(figure)
        else:
            assert labels == [*map(str, range(15)), "⋮", *map(str, range(85, 100))]
            assert "Of 100 classes the 15 that gain most and the 15 that lose most are shown." in _note(figure)
        assert "One seed." in _note(figure)
        assert not figure.axes[0].collections


def test_arms_as_rows_are_compared_within_a_column(make_spec, make_trials):
    """With arms as rows each dataset has its panel, with its own classes, and the arms are the lines."""
    spec = make_spec(["ce", "cam"], ["digits", "birds"], [0])
    spec["baseline"] = "ce"
    for cell in spec["cells"]:
        cell |= {"arm": cell["row"], "row_levels": {"arm": cell["row"]}, "column_levels": {"dataset": cell["column"]}}
    spec["row_fields"] = ["arm"]
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    panels = panels_of(trials, 4, digest_of=lambda trial_id: f"d{trial_id[2]}")
    figure, _ = per_class(build_table(spec, trials), panels, images_of(["ant", "bee", "cat", "dog"], "d1"))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["digits", "birds"]
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == {"0", "1", "2", "3"}
    assert {label.get_text() for label in figure.axes[1].get_yticklabels()} == {"ant", "bee", "cat", "dog"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cam"]


def test_rows_of_a_metric_table_are_compared_within_their_dataset(make_spec, make_trials):
    """Where columns are metrics the arms are rows, each is compared once, and every dataset has a panel of its own."""
    rows = ["ce digits", "cam digits", "ce birds", "cam birds"]
    metrics = {"acc_top1": "metric_test_acc_top1_last", "ece": "metric_test_ece_last"}
    spec = make_spec(rows, list(metrics), [0], metrics=metrics)
    spec["baseline"] = "ce"
    for cell in spec["cells"]:
        arm, dataset = cell["row"].split()
        cell |= {"arm": arm, "row_levels": {"arm": arm, "dataset": dataset}}
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    panels = panels_of(trials, 4, digest_of=lambda trial_id: "d0" if trial_id < "t2" else "d1")
    result = build_table(spec, trials)
    changes, _ = class_changes(result, panels)
    assert [(change.panel, change.label, change.axis, change.digest) for change in changes] == [
        ("", "cam digits", "row", "d0"), ("", "cam birds", "row", "d1")
    ]  # fmt: skip
    figure, _ = per_class(result, panels, {})
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cam digits", "cam birds"]


def test_many_rows_and_arms_are_cut_and_it_is_said(make_spec, make_trials, tmp_path):
    """Beyond 6 panels and 3 lines the figure stops and says so; long class names are cut; the bytes are the same each time."""
    spec = make_spec([f"net_{i}" for i in range(8)], [f"arm_{k}_with_a_long_name(weight=0.3)" for k in range(12)], [0, 1])
    spec["baseline"] = spec["columns"][0]
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5, 0.6] for cell in spec["cells"]})
    result, panels = build_table(spec, trials), panels_of(trials, 3)
    images = images_of(["a class with a very long name indeed", "b", "c"])
    figure, _ = per_class(result, panels, images)
    assert len(figure.axes) == MAX_PANELS
    assert len(figure.legends[0].get_texts()) == MAX_LINES
    assert "2 more panels not shown. 8 more columns not shown." in _note(figure)
    assert all(len(label.get_text()) <= 18 for ax in figure.axes for label in ax.get_yticklabels())
    first = [path.read_bytes() for path in save_figure(figure, tmp_path / "a")]
    assert [path.read_bytes() for path in save_figure(per_class(result, panels, images)[0], tmp_path / "b")] == first


def test_all_kinds_are_written_with_their_captions(make_spec, make_trials, make_history, tmp_path):
    """A table that has everything gets a file of each kind, in order, and words for each; without panels none by class."""
    spec = make_spec(["1", "2", "3"], ["ce", "cam", "focal"], [0, 1], baseline="ce", levels={"1": 1, "2": 2, "3": 3})
    rng = np.random.default_rng(0)
    trials = make_trials(spec, {(cell["row"], cell["column"]): rng.uniform(0.5, 0.9, 2).tolist() for cell in spec["cells"]})
    trials = trials.append_column("time_train_s", pa.array(rng.uniform(1, 9, len(trials))))
    common = {"trials": trials, "history": make_history(trials), "folder": tmp_path}
    document, results = {"study": "quick", "tables": [spec]}, [build_table(spec, trials)]
    captions = write_captioned(document, results, panels=panels_of(trials, 3), **common)
    kinds = ["accuracy", "convergence", "sweep", "per_class", "ranks", "cost"]
    assert [path.name for path in captions] == [f"backbones.{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")]
    assert all(path.exists() for path in captions)
    assert all(caption.text and caption.alt.startswith(f"{caption.text[:-1]}, table backbones. ") for caption in captions.values())
    assert not any("per_class" in path.name for path in write_captioned(document, results, **common))
