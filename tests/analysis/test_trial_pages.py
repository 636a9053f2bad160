"""A page a trial: what the record and the plan hold, its curves, and the way back to the numbers."""

from __future__ import annotations

import html
import math
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.metrics import describe
from pipeline.analysis.report.trial_curves import Histories, quantities
from pipeline.analysis.report.trial_page import flat, write_trial_pages
from tests.analysis.report_study import ACCURACY, ENERGY, ODD, Study, write_study


class Page(HTMLParser):
    """Facts by name, the table of metrics by row, and all text of a page; raises when elements are not properly nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.facts: dict[str, str] = {}
        self.rows: dict[str, list[str]] = {}
        self.links: dict[str, str] = {}
        self._open: list[str] = []
        self._name = self._text = self.text = ""
        self._href = ""
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        if tag in ("meta", "link"):
            return
        self._open.append(tag)
        if tag in ("dt", "dd", "th", "td", "a"):
            self._text = ""
        self._href = dict(attrs).get("href", self._href)

    def handle_data(self, data):
        self._text += data
        self.text += data

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("dt", "th"):
            self._name = self._text
        elif tag == "dd":
            self.facts[self._name] = self._text
        elif tag == "td":
            self.rows.setdefault(self._name, []).append(self._text)
        elif tag == "a":
            self.links[self._text] = self._href


@pytest.fixture(scope="module")
def study(make_spec, tmp_path_factory) -> Study:
    """A written report of three tables."""
    return write_study(tmp_path_factory.mktemp("study"), make_spec)


@pytest.fixture
def read(study):
    """Reader of the page of one trial."""
    return lambda trial_id: Page((study.folder / f"report/trials/{trial_id}.html").read_text(encoding="utf-8"))


def test_each_trial_has_a_page_and_no_other_is_left(study, read, tmp_path):
    """One page a row of the results; those of an earlier plan are removed."""
    assert {path.stem for path in (study.folder / "report/trials").iterdir()} == set(study.trials["trial_id"].to_pylist())
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "old.html").write_text("x")
    shared = {"study": "s", "results": study.results, "history": None, "planned": None, "runs": {}}
    assert write_trial_pages(tmp_path, trials=study.trials.slice(0, 2), **shared) == 2
    assert {path.name for path in (tmp_path / "trials").iterdir()} == {"t000.html", "t001.html"}
    assert (tmp_path / "style.css").exists()


def test_page_of_a_complete_trial_tells_all_that_is_recorded(study, read):
    """Every value of the record and of the resolved configuration stands on the page, in printed units."""
    page = read("t000")
    (record,) = (row for row in study.trials.to_pylist() if row["trial_id"] == "t000")
    assert page.rows["test accuracy (%)"] == [f"{100 * record['metric_test_acc_top1_last']:.2f}"]
    assert page.rows["validation accuracy (%)"] == ["70.00"]
    assert "share of the CAAM's energy" not in page.text  # not measured in this trial
    expected = {
        "total time": "61.5 s",
        "peak memory": "3.0 MiB",
        "backbone.name": "resnet8",
        "backbone.dropout": "0.0",
        "regularizers.cutout.size": "6",
        "ema": "none",
        "optimizer.nesterov": "true",
        "schedule.milestones": "0.5, 0.75",
        "device": "cpu",
        "torch": "2.15.0",
        "trial id": "t000",
        "code key": "c0de",
        "data digest": "da7a",
        "seed": "0",
        "MLflow run": "run-t000",
    }
    assert {name: page.facts.get(name) for name in expected} == expected
    assert page.links["Its run in MLflow"] == "http://127.0.0.1:5000/#/experiments/1/runs/run-t000"
    assert page.links["resnet8 / ce"] == "../index.html#cell-backbones-1-1"
    said = " ".join(page.text.split())
    assert (
        "Attempt 2, after 1 failed one. Continued from a checkpoint 1 time; commit and environment are those of its last process." in said
    )


def test_pages_of_failed_and_skipped_trials_say_why(read):
    """State and reason stand at the top, whatever the reason is made of."""
    assert f"This trial is failed: loss became nan at step 12 (epoch 1) {ODD}." in " ".join(read("t111").text.split())
    assert "This trial is skipped: vit_tiny has layers after pooling: no CAM." in " ".join(read("t210").text.split())
    assert "Its run in MLflow" not in read("t111").links


RAN = {"trial_id": "a1", "seed": 3, "state": "complete", "time_finished_ns": 1_795_401_296_000_000_000, "time_total_s": 23.06}
AT = {"env_git_commit": "0123abc", "env_git_dirty": False}
FINISHED = "Finished on 2026-11-23 02:34:56 UTC"
NEW = "The store had no finished trial of this identity, so it was run"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            RAN | AT | {"env_study": "s"},
            f"{NEW} for this study. {FINISHED} after 23.1 s. Commit that it was trained at: 0123abc, as committed.",
        ),
        (
            RAN | AT | {"env_study": "other", "env_git_dirty": True},
            f"{NEW} for study other. This study uses the stored trial again, as its identity is the same. {FINISHED} after 23.1 s. "
            "Commit that it was trained at: 0123abc, with changes that were not committed.",
        ),
        (RAN, f"{NEW}; for which study was not recorded. {FINISHED} after 23.1 s. Commit that it was trained at: not recorded."),
        (
            {"trial_id": "a1", "state": "failed", "reason": "lost", "env_study": "s"},
            f"{NEW} for this study. Commit that it was trained at: not recorded.",
        ),
        (
            RAN | AT | {"adopted_from": "b2"},
            "Not trained anew after a change of code: adopted from trial b2 as re-run trials were equal bit for bit. "
            "Adopted on 2026-11-23 02:34:56 UTC. Commit that it was trained at: 0123abc, as committed.",
        ),
    ],
    ids=["new", "re-used", "of an earlier version", "lost", "adopted"],
)
def test_page_says_why_when_and_at_which_commit_it_ran(tmp_path, row, said):
    """For which study, whether anew, when it ended, and the commit; what a record does not tell is said to be unknown."""
    page = only_page(tmp_path, row)
    assert f"Why it ran No table of study s asks for it. {said} " in " ".join(page.text.split())
    assert page.facts["git commit"] == said.rpartition(": ")[2].removesuffix(".")
    assert page.facts.get("study") == row.get("env_study")
    assert "git dirty" not in page.facts


@pytest.mark.parametrize(("state", "reason"), [("planned", "not trained yet"), ("skipped", "no CAM")])
def test_page_of_a_trial_that_never_ran_claims_no_run(tmp_path, state, reason):
    """Neither a commit nor an environment, but who asks for it."""
    page = only_page(tmp_path, {"trial_id": "a1", "seed": 0, "state": state, "reason": reason, "attempt": 0})
    text = " ".join(page.text.split())
    assert "Why it was planned No table of study s asks for it. Configuration" in text
    assert "commit" not in text
    assert "Environment" not in text


def test_page_names_the_cells_that_want_the_trial(study, read):
    """Study, seed, and each cell by table, row and column, as often as tables ask; numbers are made of complete trials only."""
    asked = "Study quick asks for seed {} of these cells{}: "
    behind = "; it is one of the trials behind their numbers"
    text = {trial_id: " ".join(read(trial_id).text.split()) for trial_id in ("t001", "d001", "t111", "t210")}
    assert f"Why it ran {asked.format(1, behind)}CAM-loss on backbones: resnet8 / ce " in text["t001"]
    cells = "; ".join(f"digits · resnet20 / ce ({describe(metric).words})" for metric in (ACCURACY, ENERGY))
    assert f"Why it ran {asked.format(1, behind)}Does it hold on other data?: {cells} " in text["d001"]
    assert f"Why it ran {asked.format(1, '')}CAM-loss on backbones: wrn_10_1 / cam " in text["t111"]
    assert f"Why it was planned {asked.format(0, '')}CAM-loss on backbones: vit_tiny / cam " in text["t210"]


def only_page(folder, row) -> Page:
    """The page of a trial that no table asks for, of study s."""
    write_trial_pages(folder, study="s", results=[], trials=pa.Table.from_pylist([row]), history=None, planned=None, runs={})
    return Page((folder / "trials/a1.html").read_text(encoding="utf-8"))


def test_adopted_trial_names_its_origin(study, tmp_path):
    """A trial that was taken over after a change of code links to the trial that was trained."""
    trials = pa.Table.from_pylist(
        [{"trial_id": t, "state": "complete", "adopted_from": a} for t, a in (("a1", "b2"), ("b2", None), ("c3", "z9"))]
    )
    write_trial_pages(tmp_path, study="s", results=[], trials=trials, history=None, planned=None, runs={})
    pages = {name: Page((tmp_path / f"trials/{name}.html").read_text(encoding="utf-8")) for name in ("a1", "b2", "c3")}
    assert pages["a1"].links["b2"] == "b2.html"
    assert "adopted from trial b2 as re-run trials" in " ".join(pages["a1"].text.split())
    assert "adopted" not in pages["b2"].text
    assert "z9" not in pages["c3"].links
    assert "adopted from trial z9" in " ".join(pages["c3"].text.split())


@settings(derandomize=True, deadline=None, max_examples=40)
@given(values=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), gap=st.integers(0, 29))
def test_curves_run_through_the_values(values, gap):
    """Points lie where a straight scale between smallest and largest value puts them; epochs without a number are left out."""
    known = {epoch: value for epoch, value in enumerate(values, 1) if epoch - 1 != gap or len(values) == 1}
    column = [known.get(epoch) for epoch in range(1, len(values) + 1)]
    history = pa.table({"trial_id": ["a"] * len(values), "epoch": list(range(1, len(values) + 1)), "metric_test_acc_top1": column})
    (curve,) = Histories(history).curves("a")
    (split, path) = curve.lines[0]
    assert split == "test"
    assert curve.words == "accuracy (%)"
    assert curve.low == f"{100 * min(known.values()):.2f}"
    assert curve.high == f"{100 * max(known.values()):.2f}"
    assert curve.last == f"test {100 * list(known.values())[-1]:.2f}"
    numbers = [int(number) for number in re.findall(r"-?\d+", path)]
    points = [(numbers[0], numbers[1])]
    for across, down in zip(numbers[2::2], numbers[3::2], strict=True):
        points.append((points[-1][0] + across, points[-1][1] + down))
    span = max(known.values()) - min(known.values())
    for (x, y), (epoch, value) in zip(points, known.items(), strict=len(known) > 1):
        assert math.isclose(x, 4 + 252 * (epoch - 1) / max(len(values) - 1, 1), abs_tol=0.51)
        assert math.isclose(y, 94 - 88 * ((value - min(known.values())) / span if span else 0.5), abs_tol=0.51)


def test_long_curves_keep_their_last_point():
    """A thousand epochs are drawn by at most 125 points, the last one among them."""
    values = [0.001 * epoch for epoch in range(1000)]
    history = pa.table({"trial_id": ["a"] * 1000, "epoch": list(range(1, 1001)), "metric_val_loss": values})
    (curve,) = Histories(history).curves("a")
    numbers = [int(number) for number in re.findall(r"-?\d+", curve.lines[0][1])]
    assert len(numbers) // 2 <= 125
    assert (sum(numbers[0::2]), sum(numbers[1::2])) == (256, 6)
    assert (curve.low, curve.high, curve.last, curve.epochs) == ("0.0000", "0.9990", "validation 0.9990", "1 to 1000")


def test_trials_do_not_mix_their_histories():
    """Each trial has its own rows, one without history none, and a column without numbers no drawing."""
    nothing = pa.nulls(5, pa.float64())
    history = pa.table(
        {"trial_id": list("aabbb"), "epoch": [1, 2, 1, 2, 3], "metric_lr": [0.1, 0.2, 0.3, 0.4, 0.5], "metric_train_ce": nothing}
    )
    histories = Histories(history)
    assert [(curve.words, curve.last, curve.epochs) for curve in histories.curves("a")] == [("learning rate", "0.2000", "1 to 2")]
    assert [(curve.words, curve.last, curve.epochs) for curve in histories.curves("b")] == [("learning rate", "0.5000", "1 to 3")]
    assert histories.curves("c") == []
    assert Histories(None).curves("a") == []


def test_quantities_join_the_splits_of_a_metric():
    """Accuracy comes first, with all its splits in one drawing; times, learning rate and load of the machine follow with their units."""
    columns = ["trial_id", "epoch", "metric_train_loss", "metric_val_loss", "metric_test_acc_top1", "metric_val_acc_top1", "metric_lr"]
    found = quantities([*columns, "time_epoch_s", "system_memory_bytes", "system_cpu_percent"])
    assert [(quantity.words, quantity.unit, [split for split, _ in quantity.columns]) for quantity in found] == [
        ("accuracy", "%", ["val", "test"]),
        ("loss", "", ["train", "val"]),
        ("learning rate", "", [""]),
        ("time: epoch", "s", [""]),
        ("machine: memory", "MiB", [""]),
        ("machine: cpu", "%", [""]),
    ]


CONFIG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3) | st.lists(st.integers(), max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(config=st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), CONFIG, max_size=4))
def test_configuration_loses_no_setting(config):
    """Each leaf stands under its dotted name, once."""

    def leaves(value, path=()):
        if isinstance(value, dict) and value:
            for key, each in value.items():
                yield from leaves(each, (*path, key))
        elif path:
            yield ".".join(path)

    assert [name for name, _ in flat(config) if name] == list(leaves(config))


def test_components_of_a_list_go_by_their_names():
    """A list of components reads as in a study file; one without options is on."""
    config = {"regularizers": [{"name": "mixup", "alpha": 0.2}, {"name": "label_smoothing"}], "plugins": [], "on": True}
    assert list(flat(config)) == [
        ("regularizers.mixup.alpha", "0.2"),
        ("regularizers.label_smoothing", "on"),
        ("plugins", "none"),
        ("on", "true"),
    ]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(text=st.text(st.characters(exclude_categories=("C",)) | st.sampled_from("<>&\"'"), min_size=1, max_size=20))
def test_no_text_breaks_a_page(tmp_path_factory, text):
    """Names, reasons and environment may hold anything."""
    folder = tmp_path_factory.mktemp("page")
    trials = pa.Table.from_pylist([{"trial_id": "a1", "name": text, "state": "failed", "reason": text, "env_host": text, "factor_x": text}])
    write_trial_pages(folder, study=text, results=[], trials=trials, history=None, planned=None, runs={"a1": f"http://h/{text}"})
    source = (folder / "trials/a1.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.facts["host"] == text
    assert page.facts["x"] == text
    assert html.escape(text, quote=False) in source.replace("&#34;", '"').replace("&#39;", "'")
