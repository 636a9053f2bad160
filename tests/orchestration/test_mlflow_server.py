"""The mirror through `mlflow server` over PostgreSQL, and what is asked of both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from pipeline.errors import ConfigError, PipelineError
from pipeline.orchestration.mirror.check import PublishedRuns, run_problems
from pipeline.orchestration.mirror.content import trial_content
from pipeline.orchestration.mirror.inputs import DataView
from pipeline.orchestration.mirror.tracker import TableView, Tracker, TrialView
from pipeline.orchestration.mirror.uri import run_url
from pipeline.orchestration.mirror.views import VIEW
from tests.orchestration.mlflow_server import mlflow_server
from tests.orchestration.postgres import postgres_server

DATA = DataView("digits", "d" * 64, {"name": "digits"}, (24, 24, 1), {"train": (3, 4), "val": (1, 1), "test": (2, 2)})


@pytest.fixture(name="postgres", scope="module")
def postgres_fixture() -> Iterator[str]:
    """A PostgreSQL of our own."""
    with postgres_server() as address:
        yield address


def trials_of(count: int) -> list[tuple[TrialView, dict[str, Any], list[dict[str, float]]]]:
    """Trials as the mirror takes them: what is shown, record, history."""
    tags = {"arm": "cam", "cell": "resnet8 · cam"}
    return [
        (
            TrialView(f"id{seed}", f"resnet8 · cam · seed {seed}", ("backbones",), tags, {"epochs": 2}, DATA),
            {"state": "complete", "metric_test_acc_top1_last": 0.9 + seed / 100, "time_finished_ns": 10**18},
            [{"epoch": 1, "metric_train_loss": 1.0, "system_cpu_percent": 99.0}, {"epoch": 2, "metric_train_loss": 0.5}],
        )
        for seed in range(count)
    ]


def problems(uri: str, run_ids: Mapping[str, str], compared: int = 0) -> dict[str, str]:
    """Trial id -> what is wrong with its run; the first ones are compared with what they should say."""
    trials = {view.trial_id: trial_content(view, record, history[-1]) for view, record, history in trials_of(compared)}
    found = run_problems(uri, PublishedRuns("quick", run_ids, trials))
    return {problem.where.partition("(trial ")[2].rstrip(")"): problem.message.partition(". ")[0] for problem in found}


def mirror(uri: str, files: Path, trials: int = 3) -> tuple[dict[str, str], str | None, int]:
    """Mirror trials and a table; run ids, experiment, and how many runs were made."""
    lines: list[str] = []
    page = files / "backbones.md"
    page.write_text("| backbone | cam |")
    with Tracker(uri, "quick", log=lines.append) as tracker:
        tracker.sync(trials_of(trials))
        cells = [{"cell": "resnet8 / cam", "mean ± sd": "91.00 ± 1.00"}]
        tracker.table(TableView("quick", "backbones", "Table 2", "three seeds", {"resnet8/cam/mean": 0.91}, (), cells, {"tables": [page]}))
        assert tracker.wait(120), lines
        found = tracker.run_ids(), tracker.experiment_id(), tracker.made()
    assert lines == []
    return found


def test_server_over_postgresql_shows_trials_and_tables(postgres: str, tmp_path: Path) -> None:
    """Runs, curves, inputs, views and files come back through the server; a second pass adds nothing; deleted runs are told apart."""
    with mlflow_server(postgres, tmp_path / "artifacts") as address:
        runs, experiment, made = mirror(address, tmp_path)
        assert made == 4
        client = MlflowClient(tracking_uri=address)
        trial = client.get_run(runs["id1"])
        assert (trial.info.run_name, trial.info.status, trial.info.end_time) == ("resnet8 · cam · seed 1", "FINISHED", 10**12)
        assert trial.data.metrics == {"test_acc_top1_last": 0.91, "train/loss": 0.5, "system/cpu_percent": 99.0}
        assert [(m.step, m.value) for m in client.get_metric_history(runs["id1"], "train/loss")] == [(1, 1.0), (2, 0.5)]
        inputs = {given.dataset.name: given for given in trial.inputs.dataset_inputs}
        assert set(inputs) == {"digits/train", "digits/val", "digits/test"}
        assert {given.dataset.digest for given in inputs.values()} == {"d" * 36}
        assert {tag.value for tag in inputs["digits/test"].tags} == {"test"}
        (table,) = client.search_runs([str(experiment)], "tags.kind = 'table'")
        assert table.data.metrics == {"resnet8/cam/mean": 0.91}
        downloaded = client.download_artifacts(table.info.run_id, "tables/backbones.md", str(tmp_path / "down"))
        assert Path(downloaded).read_text() == "| backbone | cam |"
        assert {key for key in client.get_experiment(str(experiment)).tags if key.startswith(VIEW)} == {
            VIEW + key for key in ("trials", "cells", "tables")
        }
        assert run_url(address, experiment, runs["id1"]) == f"{address}/#/experiments/{experiment}/runs/{runs['id1']}"

        assert problems(address, runs, compared=3) == {}
        client.delete_run(runs["id2"])
        client.set_tag(runs["id1"], "arm", "another")
        asked = runs | {"lost": "0" * 32}
        named = {"id1": "tag arm is 'another' but 'cam' from the store", "id2": "deleted in MLflow", "lost": "not found in MLflow"}
        assert problems(address, asked, compared=3) == named
        again, _, made = mirror(address, tmp_path)
        assert made == 1
        assert again.keys() == runs.keys()
        assert {trial for trial in runs if runs[trial] != again[trial]} == {"id2"}
        assert len(client.search_runs([str(experiment)], run_view_type=ViewType.ACTIVE_ONLY)) == 4
    # The same database without the server in between.
    assert problems(postgres, asked, compared=3) == {key: said for key, said in named.items() if key != "id1"}


def test_more_runs_than_one_search_takes_are_all_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long list is asked for in parts, none of it twice and none left out."""
    monkeypatch.setattr("pipeline.orchestration.mirror.check._A_CALL", 2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs, _, _ = mirror(uri, tmp_path, trials=5)
    MlflowClient(tracking_uri=uri).delete_run(runs["id4"])
    assert problems(uri, runs, compared=5) == {"id4": "deleted in MLflow"}
    MlflowClient(tracking_uri=uri).delete_experiment("1")
    assert problems(uri, runs) == dict.fromkeys(runs, "deleted in MLflow")


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/runs"])
def test_mlflow_that_is_away_is_one_message_and_no_wait(uri: str) -> None:
    """Nobody waits for a server that is down, and no password is printed."""
    started = time.monotonic()
    with pytest.raises(PipelineError, match="does not answer") as caught:
        problems(uri, {"id": "a" * 32})
    assert time.monotonic() - started < 10
    assert "secret" not in str(caught.value)


def test_database_that_is_gone_is_not_made_by_looking(tmp_path: Path) -> None:
    """The message says how to make it again."""
    with pytest.raises(PipelineError, match=r"no MLflow database at .*ablate mlflow rebuild"):
        problems(f"sqlite:///{tmp_path}/mlflow.db", {"id": "a" * 32})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="allowed: sqlite"):
        problems("file:///tmp/mlruns", {})
