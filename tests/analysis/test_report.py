"""The report: complete, self-contained, well formed, and safe with any text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import urldefrag

import pyarrow as pa
import pytest

from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.report.figures import Shared, inline_svg, pictures_by_table
from pipeline.analysis.report.page import write_report
from pipeline.analysis.report.provenance import hardware, mixed_hardware, trained_rows
from pipeline.analysis.report.statistics import published_of, statistics_of, verdict
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import summary_sentences
from pipeline.errors import ConfigError, StoreError
from tests.analysis.report_study import ODD, Study, write_study


@pytest.fixture(scope="module")
def study(make_spec, tmp_path_factory) -> Study:
    """A written report of three tables, with all that a report can show."""
    return write_study(tmp_path_factory.mktemp("study"), make_spec)


@pytest.fixture(scope="module")
def report(study) -> str:
    """Its index page."""
    return study.index.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Links, ids and, by id, the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.links += [names["href"]] if tag in ("a", "link") else []
        self.ids += [names["id"]] if "id" in names else []

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_index_loads_nothing_and_nests_properly(report, readers):
    """No image, script or style sheet from outside; the page forbids it, too, and elements nest properly."""
    page = readers["page"](report)
    assert not re.search(r"<(?:script|img|iframe)[^>]*\bsrc=|<link\b|@import|url\((?!#)", report)
    assert "default-src 'none'" in report
    assert report.count("<script>") == 1
    assert "prefers-color-scheme: dark" in report
    assert 'name="viewport"' in report
    assert page.captions == report.count("<table") > 8


def test_every_link_of_every_page_has_a_target(study):
    """Report, tables and trials link to files that exist, and to ids that are there once."""
    root = study.folder
    paths = [study.index, *(root / "report/trials").glob("*.html"), *(root / "tables").glob("*.html")]
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in paths}
    assert len(pages) == 1 + len(study.trials) + 3
    seen: Counter[str] = Counter()
    for path, page in pages.items():
        assert max(Counter(page.ids).values(), default=1) == 1, path.name
        for link in page.links:
            if link.startswith("http://127.0.0.1:5000/#/experiments/1/runs/run-"):
                seen["run"] += 1
                continue
            file, fragment = urldefrag(link)
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{path.name}: {link}"
            assert not fragment or fragment in pages[target].ids, f"{path.name}: {link}"
            seen[target.parent.name] += 1
    assert min(seen[name] for name in ("run", "report", "trials", "tables")) > 20


def test_references_of_figures_have_targets_and_ids_are_unique(report):
    """Inlined figures neither collide in their ids nor lose what they point to, and letters are there once for all of them."""
    ids = Counter(re.findall(r'\bid="([^"]+)"', report))
    assert max(ids.values()) == 1
    targets = set(re.findall(r'(?:\bhref="|url\()#([^")]+)', report))
    assert targets
    assert targets <= set(ids)
    shapes = re.findall(r'<path id="g\d+" (d="[^"]{40,}")', report)
    assert len(shapes) > 20
    assert len(set(shapes)) == len(shapes)


def test_index_tells_counts_comparison_failures_and_provenance(report):
    """The page holds the sentence of counts, the comparison in words, each failure with its reason, and where numbers come from."""
    text = _Page(report).text
    assert "94 of 98 trials are complete, 1 failed and 3 skipped." in text
    assert "They took 1.6 hours, one after the other." in text
    assert "cam is above ce in 1 of 1 row" in text
    assert f"loss became nan at step 12 (epoch 1) {ODD}" in text
    assert "vit_tiny has layers after pooling: no CAM" in text
    for part in ("abc123", "versions: torch", "<script>alert(1)</script>"):
        assert part in text
    assert ODD not in report
    assert report.count('role="img" aria-label="Accuracy over epochs, table backbones') == 1


@pytest.mark.parametrize("table", range(3))
def test_each_number_leads_to_its_trials(study, report, table):
    """The link of each printed mean ends at a list with exactly the trials and the values that the mean is made of."""
    result = study.results[table]
    section = report.split("<section ")[table + 1]
    places = dict(re.findall(r'<div id="(cell-[^"]+)">(.*?)</div>', section, flags=re.DOTALL))
    linked = {}
    for anchor, text in re.findall(r'<td><a href="#(cell-[^"]+)">(?:<strong>)?([^<]*)', section):
        linked.setdefault(anchor, text)  # a difference without a number leads to the same place
    assert len(places) == len(result.cells)
    assert len(linked) == len(result.cells)
    for (anchor, text), cell in zip(
        linked.items(), sorted(result.cells, key=lambda c: (result.rows.index(c.row), result.metrics.index(c.metric))), strict=True
    ):
        assert re.findall(r'href="trials/([^"]+)\.html"', places[anchor]) == [
            trial for _, trial in sorted([*zip(cell.seeds, cell.trial_ids, strict=True), *((m.seed, m.trial_id) for m in cell.missing)])
        ]
        assert text.startswith("--" if cell.mean is None else f"{100 * cell.mean:.2f}")
        for seed, value in zip(cell.seeds, cell.values, strict=True):
            assert f"<dd>seed {seed}: {100 * value:.2f} %" in places[anchor]


def test_each_difference_leads_to_its_test(study, report):
    """The link of each printed difference and p value ends at the row that holds this number."""
    section = report.split("<section ")[2]
    rows = dict(re.findall(r'<tr id="(difference-[^"]+)">(.*?)</tr>', section, flags=re.DOTALL))
    linked = re.findall(r'<a href="#(difference-[^"]+)">([^<]*)', section)
    assert len(rows) == 16
    assert Counter(anchor for anchor, _ in linked) == dict.fromkeys(rows, 2)
    for anchor, text in linked:
        number = text.split(" ±")[0].removesuffix(" †")
        assert f">{number}</td>" in rows[anchor] or f">{number} †</td>" in rows[anchor]


def test_statistics_print_the_numbers_of_the_table(study):
    """Differences, intervals and p values stand in the row of their cell, with a dagger where the table's test finds one."""
    result = study.results[1]
    differences, versus, accuracy, energy, cells = statistics_of(result)
    index = dict(zip(differences.headers, range(len(differences.headers)), strict=True))
    rows = {(row[0].text, *row[1:3]): row for row in differences.rows}
    assert len(rows) == 16
    for cell in result.cells:
        if cell.delta is None:
            continue
        row = rows[cell.row, cell.column, "acc_top1 (%)" if "acc" in cell.metric else "caam_energy (%)"]
        low, high = cell.delta.ci
        assert row[index["Δ"]] == f"{100 * cell.delta.mean:+z.2f}"
        assert row[index["95 % t interval"]] == f"{100 * low:+z.2f} to {100 * high:+z.2f}"
        assert row[index["p t"]] == ("< 0.001" if cell.delta.p_t < 0.001 else f"{cell.delta.p_t:.3f}")
        assert row[index["p after Holm"]].endswith("†") == cell.delta.significant
        assert row[index["effect size"]] == f"{cell.delta.effect:+.2f}"
    assert any(row[index["p after Holm"]].endswith("†") for row in rows.values())
    assert len(cells.rows) == len(result.cells)
    for ranks, metric in ((accuracy, result.metrics[0]), (energy, result.metrics[1])):
        average = dict(zip(result.rankings[metric].names, result.rankings[metric].average_ranks, strict=True))
        assert list(ranks.rows) == sorted(((name, f"{rank:.2f}") for name, rank in average.items()), key=lambda row: average[row[0]])
        assert f"critical difference at α = 0.05: {result.rankings[metric].critical_difference:.2f}" in ranks.note
    assert [row[0] for row in versus.rows] == ["cam", "focal"] * 2
    assert versus.rows[0][2:5] == (str(result.versus[0].wins), str(result.versus[0].ties), str(result.versus[0].losses))


def test_verdict_says_what_is_significant_or_what_forbids_it(study):
    """Significant cells are named with their number; with three seeds the sentence says what the test cannot do."""
    backbones, datasets, sweep = study.results
    found = sum(cell.delta is not None and cell.delta.significant for cell in datasets.cells)
    assert verdict(datasets)[0].startswith(
        f"{found} of 16 differences to ce are significant (paired t test after Holm's correction over 16"
    )
    assert verdict(backbones) == [
        "No difference to ce is significant (sign-flip test, α = 0.05).",
        "With 3 seeds no two-sided sign-flip test can go below p = 0.25.",
    ]
    assert verdict(sweep) == []


def test_one_seed_has_no_statistics_but_a_page(make_spec, make_trials, tmp_path):
    """A study of one seed shows dashes where a spread is needed."""
    spec = make_spec(["a"], ["ce", "cam"], [0], baseline="ce")
    trials = make_trials(spec, {("a", "ce"): [0.5], ("a", "cam"): [0.6]})
    result = build_table(spec, trials)
    differences = statistics_of(result)[0]
    assert differences.rows[0][3:] == ("+10.00", "--", "--", "--", "--", "--", "--", "--", "--")
    assert "One seed allows no test." in differences.note
    assert verdict(result) == []
    assert write_report(tmp_path, study="s", results=[result], figure_paths=[], trials=trials, provenance={}).exists()


def test_published_numbers_carry_source_protocol_and_runs(make_spec, make_trials):
    """Each published number stands beside where it was read and how its protocol is known."""
    reference = {"CRD": {"where": {"table": "CRD_students", "dataset": "CIFAR-100"}, "by": "backbone", "names": {"a": "resnet8x4"}}}
    spec = make_spec(["a", "b"], ["ce"], [0], reference=reference)
    result = build_table(spec, make_trials(spec, {("a", "ce"): [0.5], ("b", "ce"): [0.5]}))
    (listing,) = published_of(result)
    (row,) = listing.rows
    assert row[:6] == ("a", "CRD", "student_vanilla, resnet8x4, CIFAR-100, task kd_baseline", "72.50", "the last epoch", "unknown")
    assert "RepDistiller" in row[6]
    assert "issue 16" in row[7]
    assert published_of(build_table(spec | {"reference": {}}, make_trials(spec, {("a", "ce"): [0.5], ("b", "ce"): [0.5]}))) == []


def test_hardware_is_counted_by_kind_and_mixed_tables_say_so(study):
    """Trials are counted by device and versions; a table whose trials ran on two kinds says so."""
    listing = hardware(study.trials)
    assert listing.headers == ("device", "torch", "trials", "hosts", "hours")
    assert [row[:3] for row in listing.rows] == [("cpu", "2.15.0", "76"), ("cuda", "2.15.0", "18")]
    assert [row[3:] for row in listing.rows] == [("--", f"{76 * 61.5 / 3600:.2f}"), ("--", f"{18 * 61.5 / 3600:.2f}")]
    assert mixed_hardware(study.results[0], study.trials) == []
    assert mixed_hardware(study.results[1], study.trials) == ["Its trials ran on 2 kinds of machine: device cpu and cuda."]
    assert hardware(pa.table({"trial_id": ["t"], "env_torch": pa.nulls(1, pa.string())})) is None


def test_commits_that_trained_are_counted_and_stand_before_that_of_the_report(study, report):
    """By commit and state of the tree, most trials first; unknown ones are said to be; trials that never ran do not count."""
    rows = [
        {"state": "complete", "env_git_commit": "a1", "env_git_dirty": False},
        {"state": "failed", "env_git_commit": "a1", "env_git_dirty": True},
        {"state": "complete", "env_git_commit": "b2", "env_git_dirty": None},
        {"state": "pruned", "env_git_commit": "a1", "env_git_dirty": True},
        *[{"state": "complete", "env_git_commit": None, "env_git_dirty": None}] * 3,
        {"state": "planned", "env_git_commit": None, "env_git_dirty": None},
        {"state": "skipped", "env_git_commit": None, "env_git_dirty": None},
    ]
    assert trained_rows(pa.Table.from_pylist(rows)) == [
        ("trials trained at commit", "3 trials: not recorded"),
        ("trials trained at commit", "2 trials: a1, with changes that were not committed"),
        ("trials trained at commit", "1 trial: a1, as committed"),
        ("trials trained at commit", "1 trial: b2; whether files were changed is not known"),
    ]
    assert trained_rows(pa.table({"trial_id": ["t"], "state": ["planned"]})) == []
    assert trained_rows(study.trials) == [("trials trained at commit", "95 trials: not recorded")]
    text = _Page(report).text
    assert text.index("trials trained at commit 95 trials: not recorded") < text.index("abc123")


def test_report_without_figures_or_failures(make_spec, make_trials, tmp_path):
    """A study without trouble has no section on it."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    path = write_report(tmp_path, study="s", results=[build_table(spec, trials)], figure_paths=[], trials=trials, provenance={})
    page = path.read_text(encoding="utf-8")
    assert "The only trial is complete." in page
    assert "missing and why" not in page


def test_figures_are_ordered_and_maps_are_folded(tmp_path):
    """What sums a table up comes first, pictures of single networks last and folded; an unknown kind is shown by its name."""
    kinds = ["features", "maps_1_resnet8", "cost", "my_own", "ranks", "per_class", "sweep", "convergence", "accuracy"]
    paths = [tmp_path / f"t.{kind}.svg" for kind in kinds]
    for path in paths:
        path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><g id="{path.stem}"/></svg>', encoding="utf-8")
    captions = {paths[0]: Caption("Said below.", "Said aloud")}
    shown = pictures_by_table([*paths, tmp_path / "t.accuracy.png"], ["t"], captions, Shared())["t"]
    assert [picture.words for picture in shown] == [
        "Accuracy over epochs.",
        "Epochs until an accuracy is reached.",
        "Metrics over the factor.",
        "Change of the accuracy of each class against the baseline.",
        "Average ranks with the critical difference.",
        "Accuracy against cost.",
        "My own.",
        "Said below.",
        "Class activation maps.",
    ]
    assert [picture.folded for picture in shown] == [False] * 7 + [True] * 2
    assert 'aria-label="Said aloud"' in shown[7].svg


def test_what_figures_share_is_written_once():
    """A letter or image of two figures is kept once, ids that are referred to differ, the others go."""
    letter = '<path id="D-1" d="M 0 0 \nL 1 1 \nz\n" transform="scale(0.015625)"/>'
    image = '<image xlink:href="data:image/png;base64,AAAA" id="image7" transform="matrix(1 0 0 1 {x} 2)" width="9" height="9"/>'
    drawn = (
        '<?xml version="1.0"?>\n<svg width="9"><metadata>x</metadata><!-- a --><defs>{letter}</defs><g id="unused"><use xlink:href="#D-1"/>'
        '<clipPath id="p1"/><g clip-path="url(#p1)" style="fill: red"/>{image}</g></svg>'
    )
    shared = Shared()
    one, two = (inline_svg(drawn.format(letter=letter, image=image.format(x=x)), "it", shared) for x in (1, 2))
    assert shared.shapes == (
        '<path id="g0" d="M 0 0L 1 1z" transform="scale(0.015625)"/><image id="g1" href="data:image/png;base64,AAAA" width="9" height="9"/>'
    )
    assert one == (
        '<svg role="img" aria-label="it" width="9"><g><use href="#g0"/><clipPath id="f1-1"/><g clip-path="url(#f1-1)" class="s0"/>'
        '<use transform="matrix(1 0 0 1 1 2)" href="#g1"/></g></svg>'
    )
    assert two == one.replace("f1-", "f2-").replace("1 1 2)", "1 2 2)")
    assert shared.styles == ".s0{fill: red}"


def test_figure_of_another_study_is_an_error(make_spec, make_trials, tmp_path):
    """A stray figure is named instead of being shown under the wrong table or dropped."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    stray = tmp_path / "old.accuracy.svg"
    with pytest.raises(ConfigError, match=r"old\.accuracy\.svg belongs to no table"):
        write_report(tmp_path, study="s", results=[build_table(spec, trials)], figure_paths=[stray], trials=trials, provenance={})


def test_trial_id_that_is_no_file_name_is_refused(make_spec, make_trials, tmp_path):
    """A page cannot be written outside its folder."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    trials = trials.set_column(0, "trial_id", pa.array(["../../t000"]))
    with pytest.raises(StoreError, match=r"'\.\./\.\./t000' cannot be the name of a page"):
        write_report(tmp_path / "r", study="s", results=[build_table(spec, trials)], figure_paths=[], trials=trials, provenance={})
    assert list(tmp_path.rglob("*t000*")) == []


def test_summary_names_where_metrics_are_best(sweep_table):
    """A table of metrics is summed up by where each is best, in the words of the metric."""
    assert summary_sentences(build_table(*sweep_table)) == [
        "All 8 cells are complete.",
        "Test accuracy is highest at 3 (94.45 %, sample SD 0.35 %); the sign-flip test can tell none of the other 3 from it.",
        "Share of the CAAM's energy on the object in the test split is highest at 3 (46.50 %, sample SD 0.71 %); "
        "the sign-flip test can tell none of the other 3 from it.",
    ]


def test_summary_of_two_equal_means_gives_both_sds(make_spec, make_trials):
    """One mean reached in two ways is no single mean ± SD."""
    spec = make_spec(["0", "1", "3"], ["acc_top1"], [0, 1], metrics={"acc_top1": "metric_test_acc_top1_last"})
    values = {("0", "acc_top1"): [0.5, 0.5], ("1", "acc_top1"): [0.75, 1.0], ("3", "acc_top1"): [0.875, 0.875]}
    assert summary_sentences(build_table(spec, make_trials(spec, values)))[1:] == [
        "Test accuracy is highest at 1 and 3 (87.50 %, sample SD 17.68 and 0.00 %); the sign-flip test cannot tell 0 from them.",
    ]


def test_summary_of_equal_means_calls_none_the_highest(make_spec, make_trials):
    """Where all cells are the best none is above another."""
    spec = make_spec(["0", "1"], ["acc_top1"], [0, 1], metrics={"acc_top1": "metric_test_acc_top1_last"}, style={"decimals": 1})
    result = build_table(spec, make_trials(spec, {("0", "acc_top1"): [0.75, 0.5], ("1", "acc_top1"): [0.5, 0.75]}))
    assert summary_sentences(result)[1:] == ["Test accuracy is the same at 0 and 1 (62.5 %, sample SD 17.7 %)."]
