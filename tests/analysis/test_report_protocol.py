"""What the report says of how a study was run: description, day, settings and levels; and its sentences on few seeds and differences."""

from __future__ import annotations

import json
import math
import re

import pyarrow as pa
import pytest

from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.report.figures import Shared, inline_svg, pictures_by_table
from pipeline.analysis.report.listing import Link
from pipeline.analysis.report.page import write_report
from pipeline.analysis.report.protocol import protocol_of
from pipeline.analysis.report.statistics import statistics_of
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import summary_sentences

SHARED = {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}, "schedule": {"warmup_epochs": 1.0}, "ema": None}
LOSSES = {"ce": {"ce": {"weight": 1.0}}, "cam": {"ce": {"weight": 1.0}, "cam": {"weight": 1.0, "start_epoch": 2}}}


def planned_of(spec, config_of) -> pa.Table:
    """plan/trials.parquet of a table, with `config_of(cell)`."""
    rows = {
        trial["trial_id"]: json.dumps({"spec": {"config": config_of(cell), "trial_id": trial["trial_id"], "seed": trial["seed"]}})
        for cell in spec["cells"]
        for trial in cell["trials"]
        if trial["trial_id"] is not None
    }
    return pa.table({"trial_id": list(rows), "planned": list(rows.values())})


@pytest.fixture
def planned(arms) -> pa.Table:
    """Of the table `arms`, with three backbones and two losses."""
    return planned_of(arms[0], lambda cell: {"backbone": {"name": cell["row"]}, "loss": LOSSES[cell["column"]], **SHARED})


def test_protocol_defines_every_level_and_all_shared_settings(arms, planned):
    """Each setting of each trial is either shared by all or told of a level, and no level is told what all share."""
    shared, levels = protocol_of([build_table(*arms)], planned)
    assert dict(shared.rows) == {
        "loss.ce.weight": "1.0",
        "optimizer.name": "sgd",
        "optimizer.momentum": "0.9",
        "optimizer.nesterov": "true",
        "schedule.warmup_epochs": "1.0",
        "ema": "none",
    }
    assert levels.title == "Levels of “Backbones”"
    assert levels.rows == (
        ("backbone", "resnet8", "backbone.name = resnet8"),
        ("backbone", "wrn_10_1", "backbone.name = wrn_10_1"),
        ("backbone", "vit_tiny", "backbone.name = vit_tiny"),
        ("arm", "ce", "nothing beside the shared settings"),
        ("arm", "cam", "loss.cam.weight = 1.0, loss.cam.start_epoch = 2"),
    )
    assert levels.note == "Seeds 0, 1 and 2; shown: the last epoch."


def test_what_a_table_fixes_and_others_do_not_is_of_its_every_cell(arms, make_spec, make_trials):
    """A setting that is constant in one table only stands there once, not at each of its levels."""
    spec = make_spec(["a", "b"], ["ce"], [0], name="deep", title="Deep")
    for cell in spec["cells"]:
        for trial in cell["trials"]:
            trial["trial_id"] += "deep"
    first = planned_of(arms[0], lambda cell: {"backbone": {"name": cell["row"]}, "epochs": 8, "batch_size": 32})
    second = planned_of(spec, lambda cell: {"backbone": {"name": cell["row"]}, "epochs": 200, "batch_size": 32})
    results = [build_table(*arms), build_table(spec, make_trials(spec, {("a", "ce"): [0.5], ("b", "ce"): [0.5]}))]
    shared, _, deep = protocol_of(results, pa.concat_tables([first, second]))
    assert shared.rows == (("batch_size", "32"),)
    assert deep.rows[0] == ("", "every cell", "epochs = 200")
    assert [row[2] for row in deep.rows[1:]] == ["backbone.name = a", "backbone.name = b", "nothing beside the shared settings"]
    assert deep.note == "Seed 0; shown: the last epoch."


def test_levels_of_a_metric_table_are_its_rows(sweep_table):
    """Columns that are metrics set nothing."""
    planned = planned_of(sweep_table[0], lambda cell: {"loss": {"cam": {"weight": float(cell["row"])}}, **SHARED})
    _, levels = protocol_of([build_table(*sweep_table)], planned)
    assert [row[1:] for row in levels.rows] == [(row, f"loss.cam.weight = {float(row)}") for row in ("0", "0.3", "1", "3")]


def test_without_configurations_there_is_no_protocol(arms):
    """No plan, and a plan of other trials, give no listing."""
    result = build_table(*arms)
    assert protocol_of([result], None) == []
    assert protocol_of([result], pa.table({"trial_id": ["other"], "planned": ["{}"]})) == []


def test_page_says_what_and_when_and_where_to_look(arms, planned, tmp_path):
    """Description, day of the last trial, contents, protocol and the word on links; the same bytes the second time."""
    spec, trials = arms
    times = [1_763_850_000_000_000_000 + 86_400 * 10**9 * i for i in range(len(trials))]
    trials = trials.append_column("time_finished_ns", pa.array([None, *times[1:]], pa.int64()))
    pages = []
    for name in ("a", "b"):
        path = write_report(
            tmp_path / name,
            study="quick",
            results=[build_table(spec, trials)],
            figure_paths=[],
            trials=trials,
            provenance={},
            planned=planned,
            run_links={"run-t000": "http://127.0.0.1:5000/#/experiments/1/runs/run-t000"},
            description="Does <it> help?",
        )
        pages.append(path.read_text(encoding="utf-8"))
    page = pages[0]
    assert pages[1] == page
    assert "<title>Study quick, 2025-12-06</title>" in page
    assert "<p>Does &lt;it&gt; help?</p>" in page
    assert "The last one finished on 2025-12-06 (UTC)." in page
    contents = re.search(r'<nav class="contents".*?</nav>', page, re.DOTALL)[0]
    assert re.findall(r'href="#([^"]+)"', contents) == re.findall(r'<h2 id="([^"]+)"', page)
    assert page.count("Links to MLflow work while <code>ablate ui</code> runs.") == 1
    assert "loss.cam.weight = 1.0, loss.cam.start_epoch = 2" in page


def test_page_without_these_facts_does_not_speak_of_them(arms, tmp_path):
    """No description, day, plan or run: no empty words."""
    spec, trials = arms
    path = write_report(tmp_path, study="quick", results=[build_table(spec, trials)], figure_paths=[], trials=trials, provenance={})
    page = path.read_text(encoding="utf-8")
    assert "<title>Study quick</title>" in page
    for words in ("MLflow", "protocol", "finished on", "<p></p>"):
        assert words not in page


def test_trials_in_captions_lead_to_their_pages(tmp_path):
    """Each id of a trial that has a page is a link, and the words are what they were."""
    path = tmp_path / "t.features.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    caption = Caption("One trial each: a / ce 0a1b, a / cam 2c3d.", "")
    (picture,) = pictures_by_table([path], ["t"], {path: caption}, Shared(), {"0a1b"})["t"]
    assert [part for part in picture.parts if not isinstance(part, str)] == [Link("0a1b", "trials/0a1b.html")]
    assert "".join(part if isinstance(part, str) else part.text for part in picture.parts) == picture.words == caption.text


@pytest.mark.parametrize(("height", "style"), [("120pt", "max-width: 110pt"), ("130pt", "max-width: 110pt; --high: 22cm")])
def test_a_high_figure_may_fill_a_page_of_paper(height, style):
    """Others are kept low enough for two on a page."""
    assert f' style="{style}"' in inline_svg(f'<svg width="100pt" height="{height}"/>', "a figure", Shared())


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_few_seeds_are_warned_of(make_spec, make_trials, seeds):
    """Below 10 seeds the notes tell how often bootstrap intervals hold and by how much effect sizes are too large."""
    spec = make_spec(["a"], ["ce", "cam"], list(range(seeds)), baseline="ce")
    values = {("a", arm): [0.5 + 0.01 * i * (1 + k) for i in range(seeds)] for k, arm in enumerate(("ce", "cam"))}
    differences, *_, cells = statistics_of(build_table(spec, make_trials(spec, values)))
    few = 1 < seeds < 10
    for listing in (differences, cells):
        assert ("75 % with 3, 84 % with 5, 91 % with 10 seeds (simulated normal noise)" in listing.note) == few
    assert ("effect sizes too large" in differences.note) == (seeds in (3, 5))
    if seeds in (3, 5):
        half = (seeds - 1) / 2
        factor = math.sqrt(half) * math.gamma(half - 0.5) / math.gamma(half)
        assert f"{seeds} seeds {factor:.2f} times on average" in differences.note


def test_what_matters_stands_first(arms):
    """A reader of a narrow screen sees the difference, its corrected p and its size before raw p values."""
    headers = statistics_of(build_table(*arms))[0].headers
    assert headers[2:6] == ("n", "Δ", "p after Holm", "effect size")
    assert headers[-1] == "95 % bootstrap interval"


def test_summary_gives_the_range_of_differences(make_spec, make_trials):
    """Gains and losses are told by their ends; one row, or equal differences, by one number."""
    spec = make_spec(["none", "mixup", "cutmix"], ["ce", "cam"], [0], baseline="ce")
    values = {(row, "ce"): [0.5] for row in spec["rows"]} | {
        ("none", "cam"): [0.504],
        ("mixup", "cam"): [0.4877],
        ("cutmix", "cam"): [0.508],
    }
    result = build_table(spec, make_trials(spec, values))
    assert summary_sentences(result)[1] == "cam is above ce in 2 of 3 rows; differences from -1.23 (mixup) to +0.80 points (cutmix)."
    alone = make_spec(["none"], ["ce", "cam"], [0], baseline="ce")
    result = build_table(alone, make_trials(alone, {place: value for place, value in values.items() if place[0] == "none"}))
    assert summary_sentences(result)[1] == "cam is above ce in 1 of 1 row; difference +0.40 points (none)."


@pytest.mark.parametrize(
    ("values", "seeds", "said"),
    [
        ({"a": [0.5, 0.6, 0.7], "b": [0.51, 0.58, 0.69]}, 3, "; the sign-flip test cannot tell b from it."),
        ({"a": [0.9] * 8, "b": [0.5 + 0.01 * i for i in range(8)]}, 8, "; the sign-flip test tells all others from it."),
        ({"a": [0.9] * 8, "b": [0.5 + 0.01 * i for i in range(8)], "c": [0.89, 0.9] * 4}, 8, "; the sign-flip test cannot tell c from it."),
        ({"a": [0.9] * 3, "b": [0.8] * 3, "c": [0.7] * 3}, 3, "; the sign-flip test can tell none of the other 2 from it."),
        ({"a": [0.9], "b": [0.8]}, 1, "highest at a (90.00 %)."),
    ],
)
def test_summary_says_what_the_best_can_be_told_from(make_spec, make_trials, values, seeds, said):
    """Where the best value is comes with the cells that the test of the table cannot tell from it; one seed allows no word on it."""
    spec = make_spec(list(values), ["acc"], list(range(seeds)), metrics={"acc": "metric_test_acc_top1_last"})
    result = build_table(spec, make_trials(spec, {(row, "acc"): each for row, each in values.items()}))
    assert summary_sentences(result)[1].endswith(said)
