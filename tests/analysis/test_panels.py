"""Pictures of networks: which trials and images are shown, what is said of the others, and the same bytes every time."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.figures.panel_maps import COLOR_MAP, TILE_PIXELS, map_tile, maps_figure, outlined
from pipeline.analysis.figures.panel_points import features_figure
from pipeline.analysis.figures.panels import MAX_ARMS, MAX_ROWS, Arm, blocks_of, chosen_words, groups_of, image_rows
from pipeline.analysis.figures.write import write_figures
from pipeline.analysis.figures.write_panels import write_panels
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import wrap
from pipeline.store.records import panel_types


def panel_row(trial_id: str, *, digest: str = "d0", count: int = 3, wrong: int = 0) -> dict[str, Any]:
    """Pictures of `count` images of 2 x 3 maps, the first `wrong` of them misclassified, and four points."""
    rng = np.random.default_rng(sum(trial_id.encode()))
    return {
        "trial_id": trial_id,
        "panel_digest": digest,
        "panel_index": [2 * i for i in range(count)],
        "panel_label": list(range(count)),
        "panel_predicted": [4 if i < wrong else i for i in range(count)],
        "panel_height": 2,
        "panel_width": 3,
        "panel_cam": rng.integers(0, 256, count * 6, dtype=np.uint8).tobytes(),
        "panel_caam": rng.integers(0, 256, count * 6, dtype=np.uint8).tobytes(),
        "panel_point_index": [0, 1, 2, 3],
        "panel_point_label": [0, 0, 1, 1],
        "panel_xy": np.array([[0, 0], [1, 0.5], [-1, 0.25], [0.5, -0.5]], "<f2").tobytes(),
        "panel_share": [0.6, 0.25],
    }


def panel_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([("trial_id", pa.string()), *panel_types().items()]))


def image_table(*, digest: str = "d0", count: int = 3, masks: bool = True, channels: int = 1, size: tuple[int, int] = (8, 12)) -> pa.Table:
    """data/images.parquet of one dataset of five classes."""
    mask = np.zeros(size, np.uint8)
    mask[2:5, 3:7] = 1
    common = {"data_digest": digest, "dataset": f"set {digest}", "classes": ["ant", "bee", "cat", "$dog", "a very long class name"]}
    shape = {"height": size[0], "width": size[1], "channels": channels}
    pixels = np.arange(size[0] * size[1] * channels, dtype=np.uint8).tobytes()
    return pa.Table.from_pylist(
        [{**common, **shape, "index": 2 * i, "label": i, "pixels": pixels, "mask": mask.tobytes() if masks else None} for i in range(count)]
    )


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.fixture
def shown(arms):
    """The table of `arms` with pictures of two of its trials of seed 0; wrn_10_1/cam has none, vit_tiny/cam was skipped."""
    spec, trials = arms
    rows = [panel_row("t000"), panel_row("t010", wrong=2), *(panel_row(trial_id) for trial_id in ("t100", "t001", "t200"))]
    return spec, trials, panel_table(rows)


def test_the_first_seed_of_each_arm_is_shown(shown):
    """A group a row with an arm a column: trials of the first seed, and why there is nothing where there is nothing."""
    spec, trials, panels = shown
    groups, hidden = groups_of(spec, panels, trials)
    assert [(group.number, group.row, group.seed, group.kind) for group in groups] == [
        (1, "resnet8", 0, "1_resnet8"),
        (2, "wrn_10_1", 0, "2_wrn-10-1"),
        (3, "vit_tiny", 0, "3_vit-tiny"),
    ]
    assert hidden == 0
    found = [(arm.label, arm.trial_id, arm.panel is not None, arm.reason) for group in groups for arm in group.arms]
    assert found == [
        ("ce", "t000", True, ""),
        ("cam", "t010", True, ""),
        ("ce", "t100", True, ""),
        ("cam", "t110", False, "stored without pictures"),
        ("ce", "t200", True, ""),
        ("cam", None, False, "skipped: vit_tiny has layers after pooling: no CAM"),
    ]
    failed = pa.Table.from_pylist([{**row, "state": "failed", "reason": "nan\nat 3"} for row in trials.to_pylist()])
    assert groups_of(spec, panels, failed) == ([], 0)


def test_pictures_of_a_trial_that_is_not_complete_are_not_shown(shown):
    """A record that failed later than its pictures were stored counts as failed."""
    spec, trials, panels = shown
    rows = [row | ({"state": "failed", "reason": "worker\nlost"} if row["trial_id"] == "t010" else {}) for row in trials.to_pylist()]
    groups, _ = groups_of(spec, panels, pa.Table.from_pylist(rows))
    assert groups[0].arms[1].panel is None
    assert groups[0].arms[1].reason == "failed: worker lost"


def test_rows_of_a_metric_table_are_the_arms(sweep_table):
    """Columns that are metrics share their trials, so one picture shows every row, with the name of its field."""
    spec, trials = sweep_table
    groups, _ = groups_of(spec, panel_table([panel_row("t00"), panel_row("t30")]), trials)
    assert [(group.number, group.row, group.kind) for group in groups] == [(0, "", "")]
    assert [(arm.label, arm.reason) for arm in groups[0].arms] == [
        ("0", ""),
        ("0.3", "stored without pictures"),
        ("1", "stored without pictures"),
        ("3", ""),
    ]
    figure, caption = maps_figure(spec, groups[0], image_rows(image_table()))
    assert " ".join(texts(figure)[:2]) == "Class activation maps: Weight of CAM-loss, by loss.cam.weight"
    assert "loss.cam.weight=0 t00, loss.cam.weight=3 t30" in caption.text
    assert "loss.cam.weight=3: 3 of 3" in caption.alt


def test_long_labels_are_whole_and_no_heading_reaches_the_next_panel(make_spec, make_trials):
    """A long arm label stands on lines of its own over the tiles; headings over points are broken to the width of their panel."""
    rows = ["timm_resnet50_with_a_very_long_name", "timm_resnet50_with_another_long_name", "short"]
    spec = make_spec(rows, ["m"], [0], metrics={"m": "metric_test_acc_top1_last"})
    trials = make_trials(spec, {(row, "m"): [0.5] for row in rows})
    groups, _ = groups_of(spec, panel_table([panel_row(trial_id) for trial_id in trials["trial_id"].to_pylist()]), trials)
    images = image_rows(image_table())
    assert {*rows} <= {*texts(maps_figure(spec, groups[0], images)[0])}
    figure, _ = features_figure(spec, groups, images)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    headings = [ax.get_title(loc="left") for ax in figure.axes]
    assert ["".join(heading.split("\n"))[: len(row)] for heading, row in zip(headings, rows, strict=True)] == rows
    boxes = [next(t for t in ax.get_children() if getattr(t, "get_text", str)() == h).get_window_extent(renderer)
             for ax, h in zip(figure.axes, headings, strict=True)]  # fmt: skip
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@given(text=st.text(alphabet="ab_ /,-", max_size=60), width=st.integers(1, 20))
def test_wrapping_loses_nothing(text: str, width: int) -> None:
    """No line is longer than asked, none is empty, and together they are the text but for blanks."""
    lines = wrap(text, width)
    assert all(0 < len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_labels_break_at_their_joints() -> None:
    """After underscores and blanks where there are some, within a word only if need be."""
    assert wrap("timm_resnet50_d", 10) == ["timm_", "resnet50_d"]
    assert wrap("a b, lr=0.1", 7) == ["a b,", "lr=0.1"]
    assert wrap("abcdefgh", 3) == ["abc", "def", "gh"]


def test_a_flat_map_is_grey_and_says_so(shown):
    """Maps without any range, as those of one pixel are, have no colour of the scale; the words stand on the tile and in the caption."""
    spec, trials, _ = shown
    row = panel_row("t000") | {"panel_height": 1, "panel_width": 1, "panel_cam": bytes([0, 0, 0]), "panel_caam": bytes([0, 7, 255])}
    groups, _ = groups_of(spec, panel_table([row]), trials)
    figure, caption = maps_figure(spec, groups[0], image_rows(image_table(masks=False)))
    assert texts(figure).count("flat map") == 6
    assert "A flat map has no range and is grey." in caption.alt
    tile = map_tile(np.zeros((1, 1), np.uint8), (4, 5))
    assert tile.shape == (4, 5, 3)
    assert len({*tile.ravel().tolist()}) == 1
    groups, _ = groups_of(spec, panel_table([panel_row("t000")]), trials)
    figure, caption = maps_figure(spec, groups[0], image_rows(image_table()))
    assert "flat map" not in texts(figure)
    assert "grey" not in caption.alt


def test_what_is_too_much_is_left_out_and_said(make_spec, make_trials):
    """At most six rows and six arms, and the words for the rest are in figure and caption."""
    rows, columns = [f"net_{i}" for i in range(8)], [f"arm_{i}" for i in range(9)]
    spec = make_spec(rows, columns, [0])
    trials = make_trials(spec, {(cell["row"], cell["column"]): [0.5] for cell in spec["cells"]})
    panels = panel_table([panel_row(trial_id) for trial_id in trials["trial_id"].to_pylist()])
    groups, hidden = groups_of(spec, panels, trials)
    assert len(groups) == MAX_ROWS
    assert hidden == 2
    assert {len(group.arms) for group in groups} == {MAX_ARMS}
    images = image_rows(image_table())
    figure, caption = maps_figure(spec, groups[0], images)
    assert "3 more columns not shown." in " ".join(texts(figure))
    assert "3 more columns not shown." in caption.alt
    figure, caption = features_figure(spec, groups, images, hidden)
    assert "2 more rows not shown. 3 more columns not shown." in " ".join(figure.get_supxlabel().split())
    assert "2 more rows not shown" in caption.alt
    assert len(figure.axes) == MAX_ROWS * MAX_ARMS


def test_tiles_of_a_row(shown):
    """One tile an image, and two for each arm that has pictures: images above, CAM, CAAM; predictions by mark and name."""
    spec, trials, panels = shown
    groups, _ = groups_of(spec, panels, trials)
    figure, caption = maps_figure(spec, groups[0], image_rows(image_table()))
    assert len(figure.axes[0].images) == 3 * (1 + 2 * 2)
    words = texts(figure)
    assert words[0] == "Class activation maps: resnet8"
    above = [text.get_text() for text in figure.axes[0].texts if text.get_ha() == "center"]
    assert above == ["ant", "bee", "cat", "✓ ant", "✓ bee", "✓ cat", *["✗ a very long…"] * 2, "✓ cat"]
    beside = [word for word in words if word in ("ce", "cam", "CAM", "CAAM", "test image")]
    assert beside == ["test image", "ce", "CAM", "CAAM", "cam", "CAM", "CAAM"]
    assert caption.text == "Class activation maps, row resnet8. One trial each, of seed 0: resnet8 / ce t000, resnet8 / cam t010."
    assert "ce: 3 of 3 images are classified correctly. cam: 1 of 3 images are classified correctly. Images by" in caption.alt
    drawn = " ".join(" ".join(words).split())
    for part in ("the first test image of each of the first 3 of 5 classes", "sum of the feature map", "Seed 0.", "outline"):
        assert part in caption.alt
        assert part in drawn
    extents = [image.get_extent() for image in figure.axes[0].images]
    assert len(set(map(tuple, extents))) == len(extents)
    width, height = figure.get_size_inches()
    assert all(0 < x0 < x1 < width and 0 < y1 < y0 < height for x0, x1, y0, y1 in extents)


@pytest.mark.parametrize(("row", "reason"), [(1, "stored without pictures"), (2, "skipped: vit_tiny has layers after pooling: no CAM")])
def test_an_arm_without_pictures_says_why(shown, row, reason):
    """Maps show the reason in place of tiles, features in place of points."""
    spec, trials, panels = shown
    groups, _ = groups_of(spec, panels, trials)
    images = image_rows(image_table())
    figure, caption = maps_figure(spec, groups[row], images)
    assert len(figure.axes[0].images) == 3 * 3
    assert reason in " ".join(texts(figure))
    assert "cam:" not in caption.alt
    figure, _ = features_figure(spec, groups, images)
    assert len(figure.axes) == 6
    assert " ".join(figure.axes[2 * row + 1].texts[0].get_text().split()) == reason
    assert not figure.axes[2 * row + 1].lines


def test_images_that_are_not_at_hand_leave_empty_tiles(shown):
    """Without data/images.parquet for the dataset the maps are still drawn, square and without outline, classes by number."""
    spec, trials, panels = shown
    groups, _ = groups_of(spec, panels, trials)
    figure, caption = maps_figure(spec, groups[0], image_rows(image_table(digest="another")))
    words = texts(figure)
    assert words.count("image\nnot kept") == 3
    assert {tuple(image.get_array().shape) for image in figure.axes[0].images} == {(TILE_PIXELS, TILE_PIXELS, 3)}
    assert "✗ 4" in words
    assert "outline" not in caption.alt


def test_arms_on_different_data_have_images_of_their_own(shown):
    """Where the columns are datasets each run of arms on one dataset stands below its images, under the dataset's name."""
    spec, trials, _ = shown
    panels = panel_table([panel_row("t000"), panel_row("t010", digest="d1", count=2)])
    colored = image_table(digest="d1", count=2, masks=False, channels=3, size=(9, 9))
    images = image_rows(pa.concat_tables([image_table(), colored], promote_options="permissive"))
    groups, _ = groups_of(spec, panels, trials)
    figure, caption = maps_figure(spec, groups[0], images)
    assert len(figure.axes[0].images) == 3 * 3 + 2 * 3
    assert [word for word in texts(figure) if word.startswith("Dataset")] == ["Dataset set d0", "Dataset set d1"]
    assert "first 3 of 5 classes and the first test image of each of the first 2 of 5 classes" in caption.alt
    lost = Arm("lost", None, None, "failed")
    for arms, expected in (([*groups[0].arms, lost], [["ce"], ["cam", "lost"]]), ([lost, *groups[0].arms], [["lost", "ce"], ["cam"]])):
        assert [[arm.label for arm in block] for block in blocks_of(arms)] == expected


def test_points_by_class_and_their_words(shown):
    """A line of markers a class, a legend of names, the share of variance in the heading; the rule, seed and trials in the caption."""
    spec, trials, panels = shown
    groups, _ = groups_of(spec, panels, trials)
    figure, caption = features_figure(spec, groups, image_rows(image_table()))
    ax = figure.axes[0]
    assert ax.get_title(loc="left") == "resnet8 / ce · 85 %"
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[0, 0], [1, 0.5]], [[-1, 0.25], [0.5, -0.5]]]
    assert len({(line.get_marker(), line.get_color()) for line in ax.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ant", "bee"]
    assert "the first 2 test images of each of the first 2 of 5 classes" in caption.alt
    assert "resnet8 / ce t000" in caption.text
    other = panel_table([panel_row("t000"), panel_row("t010", digest="d1")])
    groups, _ = groups_of(spec, other, trials)
    assert not features_figure(spec, groups, image_rows(image_table()))[0].legends  # names of d1 are not known


def test_the_rule_in_words():
    """All classes or the first of them, one image or several."""
    assert chosen_words([0, 1], ["a", "b"]) == "the first test image of each class"
    assert chosen_words([0, 1], []) == "the first test image of each class"
    assert chosen_words([0, 0, 1], ["a", "b", "c"]) == "the first 2 test images of each of the first 2 of 3 classes"


def test_maps_are_resized_as_where_their_energy_is_measured():
    """Bilinearly with half-pixel centres and clamped borders: the same as torch's interpolate, then coloured."""
    import matplotlib as mpl
    import torch
    import torch.nn.functional as F

    map_HW = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
    full = F.interpolate(torch.tensor(map_HW, dtype=torch.float64)[None, None], size=(40, 27), mode="bilinear", align_corners=False)[0, 0]
    tile = map_tile(map_HW, (40, 27))
    assert np.abs(tile.astype(int) - mpl.colormaps[COLOR_MAP](full.numpy() / 255, bytes=True)[..., :3]).max() <= 3  # one step of the map


def test_the_outline_hides_nothing_of_the_object():
    """White, then black, outside the mask; inside and farther away the tile is as it was; without a mask it is the tile."""
    tile = np.full((9, 9, 3), 77, np.uint8)
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4] = 1
    grey = outlined(tile, mask)[..., 0]
    expected = np.full((9, 9), 77)
    expected[2:7, 2:7] = 0
    expected[3:6, 3:6] = 255
    expected[4, 4] = 77
    assert grey.tolist() == expected.tolist()
    assert (tile == 77).all()
    assert outlined(tile, None) is tile


def test_files_are_the_same_bytes_each_time_and_go_into_the_report(shown, sweep_table, make_history, tmp_path):
    """One maps figure a row and one features figure a table, named for the table; the report folds them in with caption and alt text."""
    spec, trials, panels = shown
    document = {"study": "quick", "tables": [spec]}
    given = {"panels": panels, "images": image_table(), "trials": trials}
    first, second = (write_panels(document, **given, folder=tmp_path / name) for name in ("a", "b"))
    stems = ["maps_1_resnet8", "maps_2_wrn-10-1", "maps_3_vit-tiny", "features"]
    assert [path.name for path in first] == [f"backbones.{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    result = build_table(spec, trials, study="quick")
    figures = write_figures(document, [result], trials=trials, history=make_history(trials), folder=tmp_path / "a")
    path = write_report(
        tmp_path, study="quick", results=[result], figure_paths=[*figures, *first], captions=first, trials=trials, provenance={}
    )
    page = path.read_text(encoding="utf-8")
    assert page.count("<figure>") == 2 + 4
    assert page.count("<summary>Activation maps and features</summary>") == 1
    assert 'aria-label="Class activation maps, table backbones, row resnet8. ce: 3 of 3' in page
    assert "<figcaption>Class activation maps, row resnet8. One trial each, of seed 0: " in page
    assert "<figcaption>Accuracy over epochs.</figcaption>" in page
    drawn = [
        image for figure in first for image in re.findall(r"data:image/png[^\"]*", figure.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert len(drawn) == 3 * (5 + 3 + 3)
    embedded = re.findall(r"data:image/png[^\"]*", page)
    assert len(embedded) == len(set(embedded)) == len({re.sub(r"\s", "", image) for image in drawn})  # each picture once
    sweep, sweep_trials = sweep_table
    named = write_panels(
        {"study": "quick", "tables": [sweep]},
        panels=panel_table([panel_row("t00")]),
        images=image_table(),
        trials=sweep_trials,
        folder=tmp_path / "c",
    )
    assert [path.name for path in named if path.suffix == ".svg"] == ["loss_weight.maps.svg", "loss_weight.features.svg"]
    assert write_panels(document, panels=panel_table([]), images=image_table(), trials=trials, folder=tmp_path / "d") == {}
