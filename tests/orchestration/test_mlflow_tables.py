"""Tables in MLflow: their metrics and descriptions, and a rebuild of everything from store and files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline.analysis.tables import Average, TableResult, build_table
from pipeline.errors import PipelineError
from pipeline.orchestration.driver import view_of
from pipeline.orchestration.mirror.mirrored import remembered_runs
from pipeline.orchestration.mirror.points import legal_metrics
from pipeline.orchestration.mirror.rebuild import Rebuilt, rebuild
from pipeline.orchestration.mirror.tables import cell_tags, table_cells, table_metrics, table_note, table_numbers
from pipeline.orchestration.mirror.views import NOTE, WRITTEN
from pipeline.orchestration.planning import Plan, PlannedTrial
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params, StoreParams, Tracking
from pipeline.study.spec import TrialSpec

ARMS, SEEDS = {"ce": 0.90, "cam": 0.92}, (0, 1, 2)


def planned(arm: str, seed: int) -> PlannedTrial:
    """A trial of the table."""
    config = {"dataset": {"name": "digits", "train": "a.parquet"}, "backbone": {"name": "resnet8"}, "epochs": 1}
    spec = TrialSpec(f"{arm}{seed}", f"cell-{arm}", config, seed, "digest", "code")
    return PlannedTrial(
        spec, f"resnet8 · {arm} · seed {seed}", ("backbones",), arm, {"arm": arm, "backbone": "resnet8", "loss.cam.weight": None}
    )


def stored(arm: str, seed: int) -> Record:
    """Its record."""
    row = {"trial_id": f"{arm}{seed}", "state": "complete", "reason": "", "failure": "", "seed": seed, "time_train_s": 2.0}
    accuracy = {"metric_test_acc_top1_last": ARMS[arm] + seed * (0.01 if arm == "ce" else 0.02)}
    return Record(row | accuracy, [{"epoch": 1, "metric_train_loss": 1.0}])


def specification() -> dict[str, Any]:
    """The table as the planner writes it."""
    cells = [
        {
            "row": "resnet8",
            "column": arm,
            "metric": "metric_test_acc_top1_last",
            "arm": arm,
            "cell_id": f"cell-{arm}",
            "row_levels": {"backbone": "resnet8"},
            "column_levels": {"arm": arm},
            "trials": [{"seed": seed, "trial_id": f"{arm}{seed}", "state": "planned", "reason": ""} for seed in SEEDS],
        }
        for arm in ARMS
    ]
    axes = {"row_fields": ["backbone"], "rows": ["resnet8"], "column_fields": ["arm"], "columns": list(ARMS), "column_kind": "level"}
    return {"name": "backbones", "title": "A table", "baseline": "ce", "selection": "last", "seeds": list(SEEDS), "cells": cells, **axes}


def results() -> pa.Table:
    """results/trials.parquet."""
    return pa.Table.from_pylist([dict(stored(arm, seed)) for arm in ARMS for seed in SEEDS])


@pytest.fixture(name="table")
def table_fixture() -> TableResult:
    """The table, filled."""
    return build_table(specification(), results(), study="quick")


def test_metrics_of_a_table_are_those_of_its_cells(table: TableResult) -> None:
    """By hand: mean 0.94, SD 0.02 and n of cam, mean difference 0.03 to ce; the baseline has no difference."""
    metrics = table_metrics(table)
    assert metrics["resnet8/cam/mean"] == pytest.approx(0.94)
    assert metrics["resnet8/cam/sd"] == pytest.approx(0.02)
    assert metrics["resnet8/cam/n"] == metrics["resnet8/cam/delta_n"] == 3
    assert metrics["resnet8/cam/delta_mean"] == pytest.approx(0.03)
    assert metrics["resnet8/cam/delta_sd"] == pytest.approx(0.01)
    assert 0 < metrics["resnet8/cam/p"] <= 1
    assert {name.rpartition("/")[2] for name in metrics if name.startswith("resnet8/ce/")} == {"n", "mean", "sd"}


def test_several_metrics_of_a_cell_do_not_collide(table: TableResult) -> None:
    """Names carry the words of the metric, and its protocol where the words are the same."""
    columns = ["metric_test_acc_top1_last", "metric_test_loss_last", "metric_test_loss_best_val"]
    cells = tuple(replace(cell, metric=column, mean=float(place)) for cell in table.cells for place, column in enumerate(columns))
    metrics = table_metrics(replace(table, cells=cells))
    assert metrics["resnet8/cam/test accuracy/mean"] == 0
    assert metrics["resnet8/cam/test loss last/mean"] == 1
    assert metrics["resnet8/cam/test loss best_val/mean"] == 2
    assert len([name for name in metrics if name.endswith("cam/n") or ("cam/" in name and name.endswith("/n"))]) == 3


def test_a_difference_that_is_not_known_is_no_metric(table: TableResult) -> None:
    """Missing numbers are left out, whatever the difference is made of."""
    bare = replace(table.cells[1], delta=SimpleNamespace(mean=None, sd=None, n=0), mean=None, sd=None)
    assert table_metrics(replace(table, cells=(bare,))) == {"resnet8/cam/n": 3, "resnet8/cam/delta_n": 0}


def test_names_that_mlflow_would_merge_are_numbered() -> None:
    """MLflow allows few characters; no cell is lost to another."""
    assert legal_metrics({"a+b/mean": 1.0, "a*b/mean": 2.0, "c": float("nan")}) == {"a_b/mean": 1.0, "a_b/mean 2": 2.0}


def test_cells_are_rows_of_printed_numbers(table: TableResult) -> None:
    """What the UI shows as a table."""
    rows = table_cells(table)
    assert [list(row)[:2] for row in rows] == [["cell", "mean ± sd"]] * 2
    assert (rows[1]["cell"], rows[1]["mean ± sd"], rows[1]["Δ to baseline"], rows[1]["n"]) == ("resnet8 / cam", "94.00 ± 2.00", "+3.00", 3)
    assert rows[1]["trials"] == "cam0 cam1 cam2"


def test_note_of_a_table_leads_to_its_trials_while_links_fit(table: TableResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter always, links as long as there is room."""
    note = table_note(table, {"cam1": "r1"}, "7")
    assert "tags.tables LIKE '%backbones%'" in note
    assert "| resnet8 / cam | [seed 1](#/experiments/7/runs/r1) |" in note
    assert "[seed" not in table_note(table, {"cam1": "r1"}, None)
    monkeypatch.setattr("pipeline.orchestration.mirror.tables._ROOM", 50)
    assert "[seed" not in table_note(table, {"cam1": "r1"}, "7")


def by_weight() -> TableResult:
    """A table with columns of metrics that shares the trials of the other one; the last seed of its second row is missing."""
    spec = specification()
    entries = {arm: cell["trials"] for arm, cell in zip(ARMS, spec["cells"], strict=True)}
    entries["cam"][-1] |= {"trial_id": "lost"}
    cells = [
        {**spec["cells"][0], "row": row, "column": "acc_top1", "arm": None, "column_levels": {"metric": "acc_top1"}, "trials": entries[arm]}
        for row, arm in (("0", "ce"), ("1", "cam"))
    ]
    axes = {"row_fields": ["loss.cam.weight"], "rows": ["0", "1"], "column_fields": ["metric"], "columns": ["acc_top1"]}
    spec |= {"name": "weights", "baseline": None, "cells": cells, "column_kind": "metric", **axes}
    lost = pa.Table.from_pylist([{**stored("cam", 2), "trial_id": "lost", "state": "failed", "reason": "diverged"}])
    return build_table(spec, pa.concat_tables([results(), lost.select(results().column_names)]), study="quick")


def test_trials_are_found_by_the_words_of_each_of_their_tables(table: TableResult) -> None:
    """By hand: a trial of two tables has the row of both, a column where columns are levels, and what its cell prints."""
    tags = cell_tags([table, by_weight()])
    assert set(tags) == {*(f"{arm}{seed}" for arm in ARMS for seed in SEEDS), "lost"}
    shared = {key: value for key, value in tags["ce1"].items() if key != NOTE}
    expected = {"row.backbones": "resnet8", "column.backbones": "ce", "row.weights": "0", "mean.test_acc_top1_last": "91.00 ± 1.00 %"}
    assert shared == expected
    assert tags["lost"].keys() == {"row.weights", NOTE}  # a cell that lacks a seed has no mean
    note = tags["ce1"][NOTE]
    assert "| backbones | resnet8 / ce | test accuracy (%) | 91.00 | mean 91.00 %, sample SD 1.00 %, n = 3 |" in note
    assert "| weights | 0 / acc_top1 | test accuracy (%) | 91.00 | mean 91.00 %, sample SD 1.00 %, n = 3 |" in note
    assert "`report/trials/ce1.html`" in note
    assert note.endswith(WRITTEN)
    assert "| weights | 1 / acc_top1 | test accuracy (%) | failed | no mean, as a seed is missing |" in tags["lost"][NOTE]


def test_places_of_one_trial_in_one_table_are_all_named(table: TableResult) -> None:
    """Two rows that come to the same configuration."""
    twice = replace(table, cells=(*table.cells, replace(table.cells[1], row="a|b")))
    tags = cell_tags([twice])["cam0"]
    assert (tags["row.backbones"], tags["column.backbones"]) == ("resnet8, a|b", "cam")
    assert "| backbones | a\\|b / cam |" in tags[NOTE]


def test_numbers_of_a_table_are_its_averages_or_its_cells(table: TableResult) -> None:
    """One line of means ± sample SD, whatever the style of the table, as one list shows several tables."""
    assert table_numbers(table) == "test accuracy (%), mean ± SD – resnet8 / ce: 91.00 ± 1.00, resnet8 / cam: 94.00 ± 2.00"
    assert table_numbers(by_weight()) == "test accuracy (%), mean ± SD – 0: 91.00 ± 1.00"
    assert table_numbers(replace(table, style={**table.style, "decimals": 1, "spread": "se"})) == table_numbers(table)
    mean = Average("cam", "metric_test_acc_top1_last", 0.94, 0.02, 3)
    assert table_numbers(replace(table, averages=(mean,))) == "test accuracy (%), mean ± SD over rows – cam: 94.00 ± 2.00"
    assert table_numbers(replace(table, cells=())) == ""


def test_mirror_keeps_places_up_to_date_and_words_of_the_user(project: Params) -> None:
    """A trial that a table drops loses its tags; a description that somebody wrote stays."""
    run(project)
    client, runs = all_runs(project)
    ids = {each.data.tags["trial_id"]: each.info.run_id for each in runs if "trial_id" in each.data.tags}
    assert client.get_run(ids["cam0"]).data.tags["mean.test_acc_top1_last"] == "94.00 ± 2.00 %"
    (shown,) = (each.data.tags["numbers"] for each in runs if each.data.tags["kind"] == "table")
    assert shown.startswith("test accuracy (%), mean ± SD – resnet8 / ce: 91.00 ± 1.00")
    client.set_tag(ids["ce0"], NOTE, "mine")
    client.set_tag(ids["ce0"], "row.backbones", "altered")
    document = {"study": "quick", "datasets": [], "tables": [specification()]}
    document["tables"][0]["seeds"] = [0, 1]
    for cell in document["tables"][0]["cells"]:
        cell["trials"] = cell["trials"][:2]
    Path("plan/tables.json").write_text(json.dumps(document))
    run(project)
    tags = {trial_id: client.get_run(run_id).data.tags for trial_id, run_id in ids.items()}
    assert (tags["ce0"][NOTE], tags["ce0"]["row.backbones"]) == ("mine", "resnet8")
    assert tags["cam0"]["mean.test_acc_top1_last"] == "93.00 ± 1.41 %"
    assert "n = 2 |" in tags["cam0"][NOTE]
    assert not {key for key in tags["cam2"] if key.startswith(("row.", "column.", "mean."))}


@pytest.fixture(name="empty_database", scope="module")
def empty_database_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables only: making them takes seconds, copying the file does not."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(name="project")
def project_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Params:
    """A study that was run and published, and nothing in MLflow."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, "mlflow.db")
    TrialStore(str(tmp_path / "store")).append([stored(arm, seed) for arm in ARMS for seed in SEEDS])
    for folder in ("plan", "results", "tables", "figures"):
        Path(folder).mkdir()
    Path("plan/tables.json").write_text(json.dumps({"study": "quick", "datasets": [], "tables": [specification()]}))
    pq.write_table(results(), "results/trials.parquet")
    for suffix in ("md", "tex", "html", "csv", "json"):
        Path(f"tables/backbones.{suffix}").write_text(suffix)
    Path("figures/backbones.accuracy.svg").write_text("<svg/>")
    Path("figures/other.accuracy.svg").write_text("<svg/>")
    return Params(tracking=Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db"), store=StoreParams(url="store"))


def run(params: Params) -> Rebuilt:
    """Rebuild, with nothing to complain about."""
    trials = {trial.spec.trial_id: trial for trial in (planned(arm, seed) for arm in ARMS for seed in SEEDS)}
    lines: list[str] = []
    done = rebuild(Plan("quick", trials, [specification()], []), TrialStore("store").records(), params, lines.append)
    assert lines == []
    return done


def all_runs(params: Params, view: int = ViewType.ACTIVE_ONLY) -> tuple[MlflowClient, list[Run]]:
    """Runs of the study."""
    client = MlflowClient(tracking_uri=params.tracking.uri)
    experiment = client.get_experiment_by_name("quick")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id], run_view_type=view))


def test_rebuild_makes_what_is_missing_and_nothing_twice(project: Params) -> None:
    """From nothing; again; after runs were deleted in the UI and files from the artifact store."""
    assert run(project) == Rebuilt(6, 1, 7)
    assert run(project) == Rebuilt(6, 1, 0)
    client, runs = all_runs(project)
    assert len(runs) == 7
    (table,) = (each for each in runs if each.data.tags["kind"] == "table")
    assert {file.path for file in client.list_artifacts(table.info.run_id)} == {"cells.json", "tables", "figures"}
    assert [file.path for file in client.list_artifacts(table.info.run_id, "figures")] == ["figures/backbones.accuracy.svg"]
    assert len(client.list_artifacts(table.info.run_id, "tables")) == 5
    shown = json.loads(Path(client.download_artifacts(table.info.run_id, "cells.json")).read_text())
    assert shown["columns"][0] == "cell"
    assert shown["data"][1][:2] == ["resnet8 / cam", "94.00 ± 2.00"]
    assert json.loads(table.data.tags["mlflow.loggedArtifacts"]) == [{"path": "cells.json", "type": "table"}]

    client.delete_run(table.info.run_id)
    client.delete_run(next(each.info.run_id for each in runs if each.data.tags.get("trial_id") == "cam1"))
    shutil.rmtree("mlartifacts")
    assert run(project) == Rebuilt(6, 1, 2)
    client, runs = all_runs(project)
    assert sorted(each.data.tags.get("trial_id", "") for each in runs) == ["", "cam0", "cam1", "cam2", "ce0", "ce1", "ce2"]
    (table,) = (each for each in runs if each.data.tags["kind"] == "table")
    assert len(client.list_artifacts(table.info.run_id, "tables")) == 5
    # A run with nothing to do hands out the ids of the runs that are there now.
    assert remembered_runs(project.tracking, "quick", TrialStore("store").records()) == {
        each.data.tags["trial_id"]: each.info.run_id for each in runs if each.data.tags["kind"] == "trial"
    }


def test_rebuild_of_a_study_that_is_not_published_shows_its_trials(project: Params) -> None:
    """The tables on disk are another study's: they are not shown under this one's name."""
    Path("plan/tables.json").write_text(json.dumps({"study": "other", "datasets": [], "tables": [specification()]}))
    done = run(project)
    assert done == Rebuilt(6, 0, 6)
    assert "`dvc repro` writes them" in done.line()


@pytest.mark.parametrize("uri", [None, "http://127.0.0.1:9"])
def test_rebuild_without_mlflow_is_an_error(project: Params, uri: str | None) -> None:
    """Nobody is told that nothing was mirrored successfully."""
    away = project.model_copy(update={"tracking": Tracking(uri=uri)})
    with pytest.raises(PipelineError, match=r"tracking\.uri is null|could not be brought up to date"):
        rebuild(Plan("quick", {}, [], []), {}, away, lambda line: None)


def test_view_of_a_trial_has_what_readers_filter_by(tmp_path: Path) -> None:
    """Cell, seed, levels; a dataset that is not prepared is named without its size."""
    view = view_of(planned("cam", 2), "quick", tmp_path)
    expected = {"study": "quick", "cell": "resnet8 · cam", "cell_id": "cell-cam", "seed": "2", "arm": "cam", "backbone": "resnet8"}
    assert view.tags == expected
    assert view.data is not None
    assert (view.data.name, view.data.digest, view.data.shape) == ("digits", "digest", ())
    assert view.data.source == {"name": "digits", "train": "a.parquet"}
