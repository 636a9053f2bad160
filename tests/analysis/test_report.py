"""The report: complete, self-contained, well formed, and safe with any text."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pipeline.analysis.figures.write import write_figures
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import summary_sentences
from pipeline.errors import ConfigError


@pytest.fixture
def report(arms, make_history, tmp_path) -> str:
    """The page of a study with one table, its figures and hostile provenance."""
    spec, trials = arms
    result = build_table(spec, trials, study="quick")
    figures = write_figures({"study": "quick", "tables": [spec]}, [result], trials=trials, history=make_history(trials), folder=tmp_path)
    provenance = {"commit": "abc123", "versions": {"torch": "2.15"}, "note": "<script>alert(1)</script>"}
    path = write_report(tmp_path / "report", study="quick", results=[result], figure_paths=figures, trials=trials, provenance=provenance)
    assert path.name == "index.html"
    return path.read_text(encoding="utf-8")


def test_report_refers_to_nothing_outside_itself(report, readers):
    """No script, no image, no style sheet: every reference stays within the page, and elements nest properly."""
    page = readers["page"](report)
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert "<script" not in report
    assert "prefers-color-scheme: dark" in report
    assert 'name="viewport"' in report


def test_ids_are_unique_and_every_reference_has_a_target(report):
    """Inlined figures neither collide in their ids nor lose what they point to."""
    ids = Counter(re.findall(r'\bid="([^"]+)"', report))
    assert max(ids.values()) == 1
    targets = set(re.findall(r'(?:href="|url\()#([^")]+)', report))
    assert targets
    assert targets <= set(ids)


def test_report_tells_counts_comparison_failures_and_provenance(report):
    """The page holds the sentence of counts, the comparison in words, each failure with its reason, and where numbers come from."""
    assert "14 of 18 trials are complete, 1 failed and 3 skipped." in report
    assert "cam is above ce in 1 of 1 row; largest difference +0.89 points (resnet8)." in report
    assert "loss became nan at step 12 (epoch 1)" in report
    assert "vit_tiny has layers after pooling: no CAM" in report
    for text in ("abc123", "versions.torch", "trials: torch", "t000 t001 t002", "run-t000", "&lt;script&gt;"):
        assert text in report
    assert report.count('<svg role="img" aria-label="Accuracy over epochs, table backbones"') == 1


def test_report_without_figures_or_failures(make_spec, make_trials, tmp_path):
    """A study without trouble has no section on it."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    path = write_report(tmp_path, study="s", results=[build_table(spec, trials)], figure_paths=[], trials=trials, provenance={})
    page = path.read_text(encoding="utf-8")
    assert "The only trial is complete." in page
    assert "missing and why" not in page


def test_figure_of_another_study_is_an_error(make_spec, make_trials, tmp_path):
    """A stray figure is named instead of being shown under the wrong table or dropped."""
    spec = make_spec(["a"], ["ce"], [0])
    trials = make_trials(spec, {("a", "ce"): [0.5]})
    stray = tmp_path / "old.accuracy.svg"
    with pytest.raises(ConfigError, match=r"old\.accuracy\.svg belongs to no table"):
        write_report(tmp_path, study="s", results=[build_table(spec, trials)], figure_paths=[stray], trials=trials, provenance={})


def test_summary_names_where_metrics_are_best(sweep_table):
    """A table of metrics is summed up by where each is best, in the words of the metric."""
    assert summary_sentences(build_table(*sweep_table)) == [
        "All 8 cells are complete.",
        "Test accuracy is highest at 3 (94.45 ± 0.35 %).",
        "Share of the CAAM's energy on the object in the test split is highest at 3 (46.50 ± 0.71 %).",
    ]
