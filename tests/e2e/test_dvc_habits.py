"""What DVC's own commands say of a study: differences of metrics, parameters and plots, experiments, results from a remote."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import vl_convert

from tests.e2e.project import ROOT, Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SELECTED = {"acc_top1": "metric_test_acc_top1_last", "caam_energy": "metric_test_caam_energy_last"}


def commit(project: Project, message: str) -> None:
    """Commit what `dvc repro` says is to be tracked."""
    project.run("git", "add", "dvc.lock", "params.yaml", "studies")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", message)


def trials_of(project: Project) -> pd.DataFrame:
    """results/trials.parquet; both tables of the tiny study show these trials, as weight 0 is `ce` and weight 1 is `cam`."""
    return pd.read_parquet(project.folder / "results/trials.parquet")


def expected_metrics(trials: pd.DataFrame) -> dict[str, float]:
    """What metrics.json must flatten to, by pandas: means in percent with the two digits of the tables."""
    percent = trials.groupby("factor_arm")[list(SELECTED.values())].mean() * 100
    cells = {f"backbones.resnet8.{arm}": percent.loc[arm, SELECTED["acc_top1"]] for arm in ("ce", "cam")}
    for arm, weight in (("ce", "0"), ("cam", "1")):
        cells |= {f"loss_weight.{weight}.{name}": percent.loc[arm, column] for name, column in SELECTED.items()}
    return {name: round(value, 2) for name, value in cells.items()} | {"trials.complete": len(trials)}


@pytest.fixture(scope="module")
def two_seeds(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study of two seeds whose results are committed."""
    project = finished_once.copy_to(tmp_path_factory.mktemp("habits") / "project")
    commit(project, "Two seeds")
    return project


@pytest.fixture(scope="module")
def experiment(two_seeds: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A copy with an experiment of one seed in the workspace, and what DVC printed."""
    project = two_seeds.copy_to(tmp_path_factory.mktemp("experiment") / "project")
    return project, project.run("dvc", "exp", "run", "--name", "one-seed", "-S", "seeds=1").stdout


def test_an_experiment_shares_the_store_and_stays_in_params(two_seeds: Project, experiment: tuple[Project, str]) -> None:
    """One seed less trains nothing, and `-S` leaves its value in params.yaml without losing the comments there."""
    (project, printed), before = experiment, trials_of(two_seeds)
    assert "(0 trained now)" in printed
    assert set(trials_of(project).trial_id) == set(before[before.seed == 0].trial_id)
    line = next(line for line in (project.folder / "params.yaml").read_text(encoding="utf-8").splitlines() if line.startswith("seeds:"))
    assert line.split()[:2] == ["seeds:", "1"]
    assert "# overrides the study's own number of repetitions" in line
    assert project.run("git", "diff", "--name-only").stdout.split() == ["dvc.lock", "params.yaml"]


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_the_way_back_of_the_docs_works_after_an_experiment_that_failed(two_seeds: Project, tmp_path: Path, attempt: int) -> None:
    """DVC names the study file that does not exist; params.yaml and what the stage removed are those of the commit again."""
    project = two_seeds.copy_to(tmp_path / "project")
    before = (project.folder / "params.yaml").read_bytes()
    failed = project.run("dvc", "exp", "run", "-S", "study=nope", check=255)
    assert "dependency 'studies/nope.yaml' does not exist" in failed.stderr
    assert b"nope" in (project.folder / "params.yaml").read_bytes()
    (way_back,) = re.findall(r"`(touch [^`]+)`", (ROOT / "docs/dvc.md").read_text(encoding="utf-8"))
    project.run("bash", "-c", way_back)
    assert (project.folder / "params.yaml").read_bytes() == before
    assert "up to date" in project.run("dvc", "status").stdout


def test_metrics_diff_has_a_line_a_cell_in_the_units_of_the_tables(two_seeds: Project, experiment: tuple[Project, str]) -> None:
    """Old and new are the means by pandas, cells that did not change are left out, and no SD or n makes lines of its own."""
    project, _ = experiment
    old, new = expected_metrics(trials_of(two_seeds)), expected_metrics(trials_of(project))
    changes: dict[str, dict[str, float]] = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)["metrics.json"]
    assert {name: (change["old"], change["new"]) for name, change in changes.items()} == {
        name: (pytest.approx(old[name], abs=0.0051), pytest.approx(new[name], abs=0.0051)) for name in old if old[name] != new[name]
    }
    assert changes["trials.complete"]["diff"] == -2
    assert "loss_weight.0.caam_energy" in changes


def test_params_diff_names_the_knob_and_the_field_of_the_study(two_seeds: Project, tmp_path: Path) -> None:
    """A change in params.yaml and one in the study file are a line each, a list of rows is one value."""
    project = two_seeds.copy_to(tmp_path / "project")
    project.set_param("seeds: null", "seeds: 3")
    project.write_study(backbones="resnet8, densenet_bc_10_8")
    file = project.folder / "studies/tiny.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("lr: 0.05", "lr: 0.1"), encoding="utf-8")
    assert json.loads(project.run("dvc", "params", "diff", "--json").stdout) == {
        "params.yaml": {"seeds": {"old": None, "new": 3}},
        "studies/tiny.yaml": {
            "defaults.optimizer.lr": {"old": 0.05, "new": 0.1, "diff": 0.05},
            "tables.backbones.rows.backbone": {"old": "['resnet8']", "new": "['resnet8', 'densenet_bc_10_8']"},
        },
    }


def test_plots_diff_draws_both_revisions_of_every_curve(two_seeds: Project, experiment: tuple[Project, str], tmp_path: Path) -> None:
    """A plot a table: the points are the means of results/history.parquet, and Vega draws a line an arm and revision."""
    project, _ = experiment
    command = ("dvc", "plots", "diff", "--json", "--targets", "dvc.yaml::curves", "-o", str(tmp_path))
    shown = json.loads(project.run(*command).stdout)["data"]
    assert set(shown) == {"curves/backbones.csv", "curves/loss_weight.csv"}
    (plot,) = shown["curves/backbones.csv"]
    points = pd.DataFrame(plot["content"]["data"]["values"]).astype({"epoch": int, "accuracy": float, "n": int})
    assert len(points) == 2 * 2 * 2
    for revision, source, seeds in (("HEAD", two_seeds, 2), ("workspace", project, 1)):
        history = pd.read_parquet(source.folder / "results/history.parquet").merge(trials_of(source), on="trial_id")
        drawn = points[points.rev == revision]
        assert set(drawn.n) == {seeds}
        assert dict(drawn.set_index(["column", "epoch"]).accuracy) == pytest.approx(
            dict(history.groupby(["factor_arm", "epoch"]).metric_val_acc_top1.mean())
        )
    assert lines_drawn(plot["content"]) == {(arm, revision) for arm in ("ce", "cam") for revision in ("HEAD", "workspace")}
    (sweep,) = shown["curves/loss_weight.csv"]
    assert lines_drawn(sweep["content"]) == {(weight, revision) for weight in ("0", "1") for revision in ("HEAD", "workspace")}


def lines_drawn(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """(line, revision) of every line that Vega draws, out of the labels it gives to screen readers."""
    svg = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, vl_version="5.8"))
    labels = [
        dict(part.split(": ", 1) for part in path.attrib["aria-label"].split("; "))
        for group in svg.iter("{http://www.w3.org/2000/svg}g")
        if group.get("class", "").startswith("mark-line")
        for path in group
    ]
    assert len(labels) == len({(label["line"], label["revision"]) for label in labels})
    return {(label["line"], label["revision"]) for label in labels}


def test_exp_show_puts_cells_and_knobs_side_by_side(two_seeds: Project, experiment: tuple[Project, str]) -> None:
    """With the digests of files dropped, a row is an experiment, and a column a cell or a parameter that differs."""
    project, _ = experiment
    digests = "^(plan|results|tables|curves|figures|report|pipeline|stages|data)"
    shown = project.run("dvc", "exp", "show", "--only-changed", "--drop", digests, "--csv").stdout
    rows = {row["Experiment"] or row["rev"]: row for row in csv.DictReader(io.StringIO(shown))}
    assert len(rows) == 3
    old, new = expected_metrics(trials_of(two_seeds)), expected_metrics(trials_of(project))
    changed = {name for name in old if old[name] != new[name]}
    assert set(rows["one-seed"]) == {"Experiment", "rev", "typ", "Created", "params.yaml:seeds"} | changed
    assert rows["one-seed"]["params.yaml:seeds"] == "1"
    base = next(row for row in rows.values() if row["typ"] == "baseline" and row["rev"] != "workspace")
    for name in changed:
        assert float(base[name]) == pytest.approx(old[name], abs=0.0051)
        assert float(rows["one-seed"][name]) == pytest.approx(new[name], abs=0.0051)


def test_results_travel_through_a_remote_without_training(two_seeds: Project, tmp_path: Path) -> None:
    """Push, clone, pull: tables and report are byte-equal, and `dvc repro` runs no stage though the clone has no store."""
    author = two_seeds.copy_to(tmp_path / "author")
    author.run("dvc", "remote", "add", "-q", "-d", "results", str(tmp_path / "remote"))
    author.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qam", "Remote")
    author.run("dvc", "push", "-q")
    author.run("git", "clone", "-q", str(author.folder), str(tmp_path / "reader"))
    reader = Project(tmp_path / "reader")
    reader.run("dvc", "pull", "-q")
    for name in ("tables", "curves", "figures", "report", "metrics.json", "results"):
        assert files_in(reader.folder / name) == files_in(author.folder / name)
    assert "up to date" in reader.run("dvc", "status").stdout
    assert "Running stage" not in reader.run("dvc", "repro").stdout
    assert not (reader.folder / "store").exists()


def test_a_clone_without_store_never_empties_its_tables(two_seeds: Project, tmp_path: Path) -> None:
    """Without the store and the prepared data, planning prepares again, and aggregating refuses instead of publishing empty tables."""
    reader = two_seeds.copy_to(tmp_path / "reader")
    for folder in ("store", "data/prepared"):
        (reader.folder / folder).rename(tmp_path / Path(folder).name)
    before = files_in(reader.folder / "tables")
    assert "4 trials in 2 tables" in reader.run("dvc", "repro", "-f", "-s", "plan").stdout
    done = reader.run("dvc", "repro", "-f", "-s", "aggregate", check=255)
    assert "lacks 4 of the 4 trials" in done.stderr
    assert "Traceback" not in done.stderr
    reader.run("dvc", "checkout", "-q")
    assert files_in(reader.folder / "tables") == before


def files_in(path: Path) -> dict[str, bytes]:
    """Relative name -> content of every file at or below a path."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    assert files
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}
