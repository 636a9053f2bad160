"""The MLflow mirror against real sqlite databases: counts of runs, their content, and what happens when MLflow is away."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline.errors import ConfigError
from pipeline.orchestration.mirror.inputs import DataView
from pipeline.orchestration.mirror.points import final_points, flatten, metric_name
from pipeline.orchestration.mirror.runs import Mirror
from pipeline.orchestration.mirror.tracker import NullTracker, TableView, Tracker, TrialView
from pipeline.orchestration.mirror.uri import redact, resolve_uri, run_url
from pipeline.orchestration.mirror.views import KIND, NOTE, VIEW

COMMIT = "mlflow.source.git.commit"


def view(seed: int, tables: tuple[str, ...] = ("backbones",)) -> TrialView:
    params = {"epochs": 3, "loss": {"cam": {"weight": 1.0}}, "regularizers": [{"name": "cutout", "size": 4}]}
    return TrialView(f"id{seed}", f"resnet8 · cam · seed {seed}", tables, {"study": "quick", "arm": "cam"}, params)


def record(seed: int, **columns: Any) -> dict[str, Any]:
    return {
        "trial_id": f"id{seed}",
        "state": "complete",
        "reason": "",
        "metric_test_acc_top1_last": 0.9 + seed / 1000,
        "metric_test_acc_top1_best_val": None,
        "metric_val_loss_last": math.nan,
        "time_train_s": 12.5,
        "mem_peak_bytes": 2**30,
        "env_host": "somewhere",
    } | columns


def history(epochs: int = 3, offset: float = 0.0) -> list[dict[str, Any]]:
    rows = [{"epoch": e, "metric_train_loss": offset + 1 / e, "metric_val_acc_top1": 0.5 + e / 10} for e in range(1, epochs + 1)]
    return [{"trial_id": "x", "metric_lr": 0.1, "time_epoch_s": 1.5, **row} for row in rows]


@pytest.fixture(name="empty_database", scope="module")
def empty_database_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables only: making them takes seconds, copying the file does not."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(name="uri")
def uri_fixture(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def client_and_runs(uri: str, kind: str = "trial", view_type: int = ViewType.ACTIVE_ONLY) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("quick")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", view_type))


def quietly(uri: str, act: Callable[[Tracker], object]) -> None:
    """Act on a tracker and demand that it had nothing to complain about."""
    lines: list[str] = []
    with Tracker(uri, "quick", log=lines.append) as tracker:
        act(tracker)
    assert lines == []


def train(tracker: Tracker, seed: int, rows: list[dict[str, Any]] | None = None, **columns: Any) -> None:
    rows = history() if rows is None else rows
    tracker.trial_started(view(seed))
    for row in rows:
        tracker.epoch(f"id{seed}", row["epoch"], row)
    tracker.trial_finished(view(seed), record(seed, **columns), rows)


def test_trial_becomes_one_finished_run_with_its_tags_parameters_and_final_metrics(uri: str) -> None:
    """What a reader of the UI sees of a trial is its record."""
    quietly(uri, lambda tracker: train(tracker, 1))
    _, (run,) = client_and_runs(uri)
    assert (run.info.run_name, run.info.status) == ("resnet8 · cam · seed 1", "FINISHED")
    expected = {"kind": "trial", "trial_id": "id1", "study": "quick", "arm": "cam", "tables": "backbones", "state": "complete"}
    assert run.data.tags.items() >= expected.items()
    assert "reason" not in run.data.tags
    assert run.data.params == {"epochs": "3", "loss.cam.weight": "1.0", "regularizers.0.name": "cutout", "regularizers.0.size": "4"}
    final = {"test_acc_top1_last": 0.901, "time_train_s": 12.5, "mem_peak_bytes": 2**30}
    latest = {"train/loss": 1 / 3, "val/acc_top1": 0.8, "lr": 0.1, "time/epoch_s": 1.5}
    assert run.data.metrics == pytest.approx(final | latest)


def test_epochs_are_readable_while_the_trial_runs_and_appear_once(uri: str) -> None:
    """Buffered epochs are flushed in the background, non-finite values are left out, the finish adds only what is missing."""
    with Tracker(uri, "quick", flush_every_s=0.05, log=lambda line: None) as tracker:
        tracker.trial_started(view(1))
        for row in [*history(2), {"epoch": 3, "metric_train_loss": math.inf}]:
            tracker.epoch("id1", row["epoch"], row)
        run_id = tracker.run_ids()["id1"]
        client = MlflowClient(tracking_uri=uri)
        assert [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")] == [(1, 1.0), (2, 0.5)]
        assert client.get_run(run_id).info.status == "RUNNING"
        tracker.trial_finished(view(1), record(1), history(3))
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [m.step for m in client.get_metric_history(run_id, "val/acc_top1")] == [1, 2, 3]


def test_buffer_is_written_without_anybody_waiting(uri: str) -> None:
    """The interval alone brings epochs to MLflow."""
    with Tracker(uri, "quick", flush_every_s=0.05, log=lambda line: None) as tracker:
        tracker.trial_started(view(1))
        run_id = tracker.run_ids()["id1"]
        tracker.epoch("id1", 1, {"metric_train_loss": 2.0})
        client, until = MlflowClient(tracking_uri=uri), time.monotonic() + 20
        while not client.get_metric_history(run_id, "train/loss") and time.monotonic() < until:
            time.sleep(0.05)
        assert [m.value for m in client.get_metric_history(run_id, "train/loss")] == [2.0]


def test_long_history_and_many_parameters_fit_into_the_limits_of_a_call(uri: str) -> None:
    """MLflow takes 1000 entities a call, 100 of them parameters; nothing is lost beyond that."""
    wide = TrialView("id1", "wide", (), {f"factor_{i}": str(i) for i in range(50)}, {f"p{i}": i for i in range(250)})
    quietly(uri, lambda tracker: tracker.trial_finished(wide, record(1), history(600)))
    client, (run,) = client_and_runs(uri)
    assert run.data.params == {f"p{i}": str(i) for i in range(250)}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 601))


def test_second_pass_adds_no_run_and_no_point(uri: str) -> None:
    """Training the same trials again under another tracker updates their runs in place."""
    for _ in range(2):
        quietly(uri, lambda tracker: [train(tracker, seed) for seed in range(3)])
    client, runs = client_and_runs(uri, view_type=ViewType.ALL)
    assert sorted(run.data.tags["trial_id"] for run in runs) == ["id0", "id1", "id2"]
    for run in runs:
        for key in run.data.metrics:
            steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), key


def test_failed_trial_keeps_its_reason_until_a_retry_succeeds(uri: str) -> None:
    """A failure is FAILED with its reason; the retry continues the same run and clears it."""
    quietly(uri, lambda tracker: train(tracker, 1, history(2), state="failed", reason="worker lost"))
    _, (failed,) = client_and_runs(uri)
    assert (failed.info.status, failed.data.tags["reason"], failed.data.tags["state"]) == ("FAILED", "worker lost", "failed")
    quietly(uri, lambda tracker: train(tracker, 1))
    _, (done,) = client_and_runs(uri)
    assert (done.info.run_id, done.info.status) == (failed.info.run_id, "FINISHED")
    assert "reason" not in done.data.tags


@pytest.mark.parametrize("second", [history(3, offset=5.0), history(1)], ids=["other values", "fewer epochs"])
def test_curve_of_an_abandoned_attempt_never_mixes_with_the_record(uri: str, second: list[dict[str, Any]]) -> None:
    """When an earlier attempt left points that the record contradicts, one clean run takes the place of the old one."""
    quietly(uri, lambda tracker: train(tracker, 1, history(2), state="failed", reason="worker lost"))
    quietly(uri, lambda tracker: train(tracker, 1, second))
    client, (run,) = client_and_runs(uri)
    points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert points == [(row["epoch"], row["metric_train_loss"]) for row in second]
    assert run.info.status == "FINISHED"


def test_buffered_epochs_of_an_abandoned_attempt_are_dropped(uri: str) -> None:
    """Epochs beyond the end of the recorded attempt are not shown, written already or not."""

    def retried(tracker: Tracker) -> None:
        tracker.trial_started(view(1))
        for epoch in range(1, 30):
            tracker.epoch("id1", epoch, {"metric_train_loss": 9.0, "metric_only_live": 1.0})
        tracker.trial_finished(view(1), record(1), history(2))

    quietly(uri, retried)
    client, (run,) = client_and_runs(uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(1, 1.0), (2, 0.5)]
    assert {m.step for m in client.get_metric_history(run.info.run_id, "only/live")} <= {1, 2}


def test_close_ends_unfinished_trials_as_killed_and_a_later_run_takes_them_up(uri: str) -> None:
    """Ctrl-C leaves no run that claims to be running."""
    tracker = Tracker(uri, "quick", log=lambda line: None)
    train(tracker, 1)
    tracker.trial_started(view(2))
    tracker.epoch("id2", 1, {"metric_train_loss": 1.0})
    tracker.close("KILLED")
    _, runs = client_and_runs(uri)
    assert {run.data.tags["trial_id"]: run.info.status for run in runs} == {"id1": "FINISHED", "id2": "KILLED"}
    (killed,) = (run for run in runs if run.info.status == "KILLED")
    assert (killed.data.tags["reason"], killed.data.metrics) == ("interrupted", {"train/loss": 1.0})
    quietly(uri, lambda tracker: train(tracker, 2))
    _, runs = client_and_runs(uri)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


def test_exception_inside_the_block_closes_as_killed(uri: str) -> None:
    """The context manager tells an interrupted study from a finished one."""

    def interrupted() -> None:
        with Tracker(uri, "quick", log=lambda line: None) as tracker:
            tracker.trial_started(view(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    _, (run,) = client_and_runs(uri)
    assert (run.info.status, run.data.tags["reason"]) == ("KILLED", "interrupted")


def test_sync_creates_what_is_missing_and_otherwise_only_changes_tags(uri: str) -> None:
    """A sync of known trials reads no history, is fast, and touches a run only when its tables changed."""
    quietly(uri, lambda tracker: tracker.sync((view(seed), record(seed), history()) for seed in range(50)))
    _, before = client_and_runs(uri)
    assert len(before) == 50
    assert all(run.data.metrics["val/acc_top1"] == pytest.approx(0.8) for run in before)
    assert all(12_500 <= run.info.end_time - run.info.start_time < 60_000 for run in before)

    def unread() -> list[dict[str, Any]]:
        raise AssertionError("the history of a known trial is read")

    def again(tracker: Tracker) -> None:
        assert tracker.wait(60)
        started = time.monotonic()
        tracker.sync(
            (view(seed, ("backbones", "loss_weight") if seed == 7 else ("backbones",)), record(seed), unread) for seed in range(50)
        )
        assert tracker.wait(60)
        assert time.monotonic() - started < 1

    quietly(uri, again)
    _, after = client_and_runs(uri, view_type=ViewType.ALL)
    changed = [new.data.tags["tables"] for old, new in zip(before, after, strict=True) if old.to_dictionary() != new.to_dictionary()]
    assert changed == ["backbones, loss_weight"]


def test_sync_repairs_a_run_that_differs_from_its_record(uri: str) -> None:
    """A run that a killed driver left open, or whose numbers are old, is made equal to the store."""
    quietly(uri, lambda tracker: train(tracker, 2))

    def killed_driver(tracker: Tracker) -> None:
        tracker.trial_started(view(1))

    quietly(uri, killed_driver)
    new = record(2, metric_test_acc_top1_last=0.5)
    quietly(uri, lambda tracker: tracker.sync([(view(1), record(1), history()), (view(2), new, history())]))
    _, runs = client_and_runs(uri)
    assert {run.data.tags["trial_id"]: run.data.metrics["test_acc_top1_last"] for run in runs} == {"id1": 0.901, "id2": 0.5}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all("reason" not in run.data.tags for run in runs)


def test_sync_makes_no_run_of_a_trial_that_was_not_trained(uri: str) -> None:
    """Skipped and planned trials have nothing to show."""
    items = [(view(1), record(1, state="skipped", reason="no map"), []), (view(2), record(2, state="planned"), [])]
    quietly(uri, lambda tracker: tracker.sync(items))
    assert client_and_runs(uri)[1] == []


def test_running_trial_is_not_overwritten_by_its_stored_failure(uri: str) -> None:
    """The news of a retry wins over the record of the attempt before it, whatever the order of the calls."""
    with Tracker(uri, "quick", log=lambda line: None) as tracker:
        tracker.sync([(view(1), record(1, state="failed", reason="worker lost"), history(1))])
        tracker.trial_started(view(1))
        tracker.sync([(view(1), record(1, state="failed", reason="worker lost"), history(1))])
        assert tracker.wait(60)
        _, (run,) = client_and_runs(uri)
        assert (run.info.status, run.data.tags["state"]) == ("RUNNING", "running")


def test_mirror_is_rebuilt_from_the_store_after_the_database_was_deleted(uri: str, tmp_path: Path) -> None:
    """A driver that finds no database makes one, with every stored trial, and says nothing that is not asked for."""
    quietly(uri, lambda tracker: train(tracker, 1))
    (tmp_path / "mlflow.db").unlink()
    script = """
import sys
from pipeline.orchestration.mirror.tracker import Tracker, TrialView
with Tracker("sqlite:///mlflow.db", "quick", log=print) as tracker:
    tracker.sync((TrialView(f"id{i}", f"seed {i}", ("t",), {}, {}), {"state": "complete", "metric_x": i / 4}, []) for i in range(4))
    print(len(tracker.run_ids()))
"""
    # In a process of its own, as in practice: MLflow remembers for each process which databases it has made.
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("4\n", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_older_of_two_runs_of_one_trial_is_kept_up_to_date(uri: str) -> None:
    """Runs that a race doubled in the past do not multiply."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("quick")
    newer, older = (client.create_run(experiment, start_ms, {"kind": "trial", "trial_id": "id1"}).info.run_id for start_ms in (2000, 1000))
    lines: list[str] = []
    location = client.get_experiment(experiment).artifact_location
    with Tracker(uri, "quick", artifact_location=location, log=lines.append) as tracker:
        tracker.sync([(view(1), record(1), history())])
        assert tracker.run_ids() == {"id1": older}
    assert client.get_run(older).info.status == "FINISHED"
    assert client.get_run(newer).data.metrics == {}
    assert [line for line in lines if "oldest" in line] == lines != []


def test_deleted_experiment_is_restored(uri: str) -> None:
    """An experiment that was removed in the UI does not switch the mirror off."""
    quietly(uri, lambda tracker: train(tracker, 1))
    client, (run,) = client_and_runs(uri)
    client.delete_experiment(run.info.experiment_id)
    lines: list[str] = []
    with Tracker(uri, "quick", log=lines.append) as tracker:
        train(tracker, 2)
    assert len(client_and_runs(uri)[1]) == 2
    assert len(lines) == 1
    assert "restored" in lines[0]


def test_table_has_one_run_with_files_and_replaced_metrics(uri: str, tmp_path: Path) -> None:
    """A second aggregation updates the run of the table; of a cell that is gone nothing stays."""
    page, figure = tmp_path / "backbones.md", tmp_path / "backbones.accuracy.svg"
    figure.write_text("<svg/>")
    found = []
    for text, metrics in [("old", {"resnet8/cam": 0.9}), ("new", {"resnet8/cam": 0.8}), ("new", {"resnet8/ce": 0.7, "broken": math.nan})]:
        page.write_text(text)
        write = TableView("quick", "backbones", "Table 2", "mean over 3 seeds", metrics, artifacts={"tables": [page], "figures": [figure]})
        quietly(uri, lambda tracker, write=write: tracker.table(write))
        client, (run,) = client_and_runs(uri, "table")
        assert run.data.metrics == {key: value for key, value in metrics.items() if value == value}
        assert Path(client.download_artifacts(run.info.run_id, "tables/backbones.md", str(tmp_path))).read_text() == text
        found.append(run)
    assert (run.info.run_name, run.info.status) == ("table: backbones", "FINISHED")
    assert run.data.tags["mlflow.note.content"] == "**Table 2**\n\nmean over 3 seeds"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/backbones.accuracy.svg"]
    assert found[0].info.run_id == found[1].info.run_id
    assert (tmp_path / "mlartifacts" / run.info.run_id).is_dir()


def test_dataset_is_an_input_of_the_run_once(uri: str) -> None:
    """Name, digest, source and a profile of each split; a run of before gets it later, a second pass adds nothing."""
    data = DataView("digits", "d" * 64, {"name": "digits", "train": "a"}, (24, 24, 1), {"train": (3, 4), "test": (2, 2)})
    quietly(uri, lambda tracker: train(tracker, 1))
    for _ in range(2):
        quietly(uri, lambda tracker: tracker.sync([(replace(view(1), data=data), record(1), history())]))
        _, (run,) = client_and_runs(uri)
        found = {given.tags[0].value: given.dataset for given in run.inputs.dataset_inputs}
        assert {context: dataset.name for context, dataset in found.items()} == {
            "train": "digits/train", "validation": "digits/val", "test": "digits/test",
        }  # fmt: skip
    profile = json.loads(found["train"].profile)
    assert profile == {"digest": "d" * 64, "images": 7, "classes": 2, "images_per_class": [3, 4]}
    assert json.loads(found["validation"].profile) == {"digest": "d" * 64}
    assert json.loads(found["test"].source) == {"name": "digits", "train": "a"}
    assert "[-1, 24, 24, 1]" in json.loads(found["test"].schema)["mlflow_tensorspec"]["features"]
    assert run.data.metrics["val/acc_top1"] == pytest.approx(0.8)


def test_load_of_the_machine_is_shown_under_system_metrics_and_may_differ(uri: str) -> None:
    """Columns system_* become system/*; another attempt with other loads is no contradiction."""
    found = []
    for load in (50.0, 70.0):
        rows = [{**row, "system_cpu_percent": load, "system_memory_bytes": 2**30} for row in history()]
        quietly(uri, lambda tracker, rows=rows: train(tracker, 1, rows))
        client, (run,) = client_and_runs(uri)
        found.append(run.info.run_id)
        points = client.get_metric_history(run.info.run_id, "system/cpu_percent")
        assert len({m.timestamp for m in points}) == 3  # they are drawn over time
        assert [(m.step, m.value) for m in points] == [(1, 50.0), (2, 50.0), (3, 50.0)]
    assert run.data.metrics["system/memory_bytes"] == 2**30
    assert found[0] == found[1]


def test_run_that_is_made_afterwards_has_the_time_of_the_trial(uri: str) -> None:
    """When it ended and how long it took stand in the record; the date is no metric."""
    quietly(uri, lambda tracker: tracker.sync([(view(1), record(1, time_finished_ns=10**18, time_total_s=20.0), history())]))
    _, (run,) = client_and_runs(uri)
    assert (run.info.start_time, run.info.end_time) == (10**12 - 20_000, 10**12)
    curve = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "train/loss")
    assert [m.timestamp - run.info.start_time for m in curve] == [6_666, 13_333, 20_000]
    assert "time_finished_ns" not in run.data.metrics


def test_experiment_opens_with_views_of_its_runs_and_keeps_the_words_of_its_users(uri: str) -> None:
    """The views follow the runs; a description that somebody wrote stays, ours is kept up to date."""
    quietly(uri, lambda tracker: train(tracker, 1))
    client, (run,) = client_and_runs(uri)
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags[KIND] == "custom_model_development"
    assert "test_acc_top1_last" in tags[VIEW + "trials"]
    assert "backbones" in tags[NOTE]
    client.set_experiment_tag(run.info.experiment_id, NOTE, "my words")
    client.set_experiment_tag(run.info.experiment_id, KIND, "genai_development")
    client.delete_experiment_tag(run.info.experiment_id, VIEW + "cells")
    quietly(uri, lambda tracker: train(tracker, 2))
    tags = client.get_experiment(run.info.experiment_id).tags
    assert (tags[NOTE], tags[KIND]) == ("my words", "genai_development")
    assert VIEW + "cells" in tags


def test_columns_of_the_run_table_are_what_the_tables_show(uri: str) -> None:
    """Metrics that cells are made of come before the usual one; a metric that no trial has is no column."""
    with Tracker(uri, "quick", log=lambda line: None) as tracker:
        train(tracker, 1, metric_test_caam_energy_last=0.3)
        tracker.table(TableView("quick", "t", "T", "", {"a": 1.0}, ["test_caam_energy_last", "test_nothing_last"]))
        experiment = tracker.experiment_id()
    state = json.loads(json.loads(MlflowClient(tracking_uri=uri).get_experiment(experiment).tags[VIEW + "cells"])["state"])
    assert state["selectedColumns"] == ["metrics.`test_caam_energy_last`", "metrics.`test_acc_top1_last`"]


def test_tracker_tells_where_its_runs_are(uri: str) -> None:
    """Experiment and number of runs made; addresses for a database, for a server, never with a password."""
    with Tracker(uri, "quick", log=lambda line: None) as tracker:
        train(tracker, 1)
        run_id, experiment = tracker.run_ids()["id1"], tracker.experiment_id()
        assert tracker.made() == 1
    assert MlflowClient(tracking_uri=uri).get_run(run_id).info.experiment_id == experiment
    assert run_url(uri, experiment, run_id) == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run_id}"
    assert run_url("https://me:secret@host:8080/mlflow/", "7", "r") == "https://host:8080/mlflow/#/experiments/7/runs/r"
    assert run_url("postgresql://me:secret@host/db", None, "r") == "http://127.0.0.1:5000/#/runs/r"
    with Tracker("http://127.0.0.1:9", "quick", log=lambda line: None) as away:
        assert away.experiment_id() is None


def test_missing_file_of_a_table_is_named_and_left_out(uri: str, tmp_path: Path) -> None:
    """One figure that was not drawn costs neither the table nor the mirror."""
    lines: list[str] = []
    with Tracker(uri, "quick", log=lines.append) as tracker:
        tracker.table(TableView("quick", "t", "T", "", {"a": 1.0}, artifacts={"figures": [tmp_path / "none.svg"]}))
    assert len(lines) == 1
    assert "none.svg" in lines[0]
    assert client_and_runs(uri, "table")[1][0].data.metrics == {"a": 1.0}


def test_trial_carries_the_commit_it_was_trained_at(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is a tag of running trials, by the checkout, and of stored ones, by their record; absent where neither tells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    quietly(uri, lambda tracker: train(tracker, 1))
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    stored = {3: record(3), 4: record(4, env_git_commit="0123abc")}
    quietly(uri, lambda tracker: [train(tracker, 2), tracker.sync([(view(seed), row, []) for seed, row in stored.items()])])
    assert commits_of(uri) == {"id1": None, "id2": head, "id3": None, "id4": "0123abc"}


def test_commit_of_the_record_outlives_the_database(uri: str, empty_database: Path, tmp_path: Path) -> None:
    """A mirror made anew has the same tags; one with a missing or another tag is corrected, without a new run."""
    row = record(1, env_git_commit="0123abc")
    quietly(uri, lambda tracker: train(tracker, 1, env_git_commit="0123abc"))
    shutil.copy(empty_database, tmp_path / "anew.db")
    anew = f"sqlite:///{tmp_path / 'anew.db'}"
    quietly(anew, lambda tracker: tracker.sync([(view(1), row, history())]))
    assert commits_of(uri) == commits_of(anew) == {"id1": "0123abc"}
    client, (run,) = client_and_runs(uri)
    for spoil in (lambda: client.set_tag(run.info.run_id, COMMIT, "f00"), lambda: client.delete_tag(run.info.run_id, COMMIT)):
        spoil()
        quietly(uri, lambda tracker: tracker.sync([(view(1), row, history())]))
        assert commits_of(uri) == {"id1": "0123abc"}
        assert [each.info.run_id for each in client_and_runs(uri)[1]] == [run.info.run_id]


def test_run_made_clean_keeps_the_commit_that_its_record_lacks(uri: str) -> None:
    """Records of earlier versions do not tell their commit: the tag of the run moves to the clean one; that of a record counts more."""
    for wanted, columns in (("0123abc", {}), ("4567def", {"env_git_commit": "4567def"})):
        quietly(uri, lambda tracker: train(tracker, 1, env_git_commit="0123abc"))
        other = [{**row, "metric_train_loss": 7.0 + len(columns)} for row in history()]
        quietly(uri, lambda tracker, other=other, columns=columns: tracker.trial_finished(view(1), record(1, **columns), other))
        assert commits_of(uri) == {"id1": wanted}


def commits_of(uri: str) -> dict[str, str | None]:
    """Trial id -> commit that its run is tagged with."""
    return {run.data.tags["trial_id"]: run.data.tags.get(COMMIT) for run in client_and_runs(uri)[1]}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///tmp/mlruns", "plain files"),
        ("mlruns", "no scheme"),
        ("sqllite:///mlflow.db", "Did you mean 'sqlite'"),
        ("ftp://me:secret@host/x", "'ftp'"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite://", "no database file"),
        ("sqlite:///:memory:", "no database file"),
    ],
)
def test_wrong_uri_is_an_error_that_says_what_is_allowed(uri: str, said: str) -> None:
    """The user learns what was wrong, what is allowed and an example, and never reads a password."""
    with pytest.raises(ConfigError) as caught:
        Tracker(uri, "quick", log=lambda line: None)
    message = str(caught.value)
    assert said in message
    assert "sqlite:///mlflow.db" in message
    assert "secret" not in message


def test_relative_database_is_made_absolute_and_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database does not depend on the directory a later process starts in."""
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri("sqlite:///a/../b.db?timeout=9") == f"sqlite:///{tmp_path}/b.db?timeout=9"
    assert resolve_uri(f"sqlite:///{tmp_path}/x.db") == f"sqlite:///{tmp_path}/x.db"
    assert resolve_uri("postgresql+psycopg://me@host/db") == "postgresql+psycopg://me@host/db"


def test_credentials_are_never_shown() -> None:
    """Neither in an address nor where an error repeats the password."""
    uri = "postgresql://me:p%40ss/w@host/db?sslpassword=hush"
    shown = redact(f"could not reach {uri} as me with p@ss/w", uri)
    assert shown == "could not reach postgresql://***@host/db?sslpassword=*** as me with ***"
    assert redact("https://token@host/x") == "https://***@host/x"
    assert redact("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"


def test_server_that_is_down_costs_one_warning_and_no_time() -> None:
    """A study without its tracking server runs as if tracking were off."""
    lines: list[str] = []
    started = time.monotonic()
    with Tracker("http://me:secret@127.0.0.1:9", "quick", log=lines.append) as tracker:
        for seed in range(20):
            train(tracker, seed)
        tracker.sync([(view(99), record(99), history())])
        tracker.table(TableView("quick", "t", "T", "", {}))
        assert tracker.run_ids() == {}
        assert not tracker.wait(1)
    assert time.monotonic() - started < 15
    assert len(lines) == 1
    assert lines[0].startswith("warning: mlflow is off")
    assert "safe in the store" in lines[0]
    assert "secret" not in lines[0]


def test_passing_trouble_is_retried_and_lasting_trouble_switches_off_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two failures in a row are forgiven; when a call keeps failing, the rest is dropped with one warning."""
    monkeypatch.setattr("pipeline.orchestration.mirror.tracker._RETRY_AFTER_S", (0.0, 0.0, 0.0))
    real, calls = Mirror.started, []

    def unsteady(mirror: Mirror, started: TrialView) -> None:
        calls.append(started.trial_id)
        if len(calls) < 3 or started.trial_id == "id2":
            raise OSError("database is locked")
        real(mirror, started)

    monkeypatch.setattr(Mirror, "started", unsteady)
    lines: list[str] = []
    with Tracker(uri, "quick", log=lines.append) as tracker:
        train(tracker, 1)
        assert tracker.wait(60)
        assert lines == []
        train(tracker, 2)
        assert not tracker.wait(60)
        train(tracker, 3)
    assert calls == ["id1"] * 3 + ["id2"] * 3
    assert len(lines) == 1
    assert "database is locked" in lines[0]
    assert [run.data.tags["trial_id"] for run in client_and_runs(uri)[1]] == ["id1"]


def test_stalled_mirror_stalls_nobody(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls return at once while MLflow hangs, and close gives up in time, with a warning."""
    hanging, release = threading.Event(), threading.Event()

    def hang(mirror: Mirror, started: TrialView) -> None:
        hanging.set()
        release.wait(60)

    monkeypatch.setattr(Mirror, "started", hang)
    lines: list[str] = []
    tracker = Tracker(uri, "quick", log=lines.append)
    tracker.trial_started(view(1))
    assert hanging.wait(60)
    started = time.monotonic()
    for epoch in range(1000):
        tracker.epoch("id1", epoch, {"metric_train_loss": 1.0})
    tracker.close(timeout_s=0.2)
    assert time.monotonic() - started < 2
    assert len(lines) == 1
    assert "not written within 0.2 s" in lines[0]
    release.set()
    tracker._thread.join(60)
    assert len(lines) == 1


def test_null_tracker_is_a_twin() -> None:
    """Whoever calls a tracker needs no case distinction."""
    names = [name for name in vars(Tracker) if not name.startswith("_")]
    assert sorted(names) == sorted(name for name in vars(NullTracker) if not name.startswith("_"))
    for name in names:
        assert inspect.signature(getattr(Tracker, name)) == inspect.signature(getattr(NullTracker, name)), name
    with NullTracker() as tracker:
        tracker.trial_started(view(1))
        tracker.trial_finished(view(1), record(1), history())
        assert (tracker.run_ids(), tracker.experiment_id(), tracker.made()) == ({}, None, 0)
        assert tracker.wait()


def test_mlflow_is_imported_only_by_a_tracker_that_needs_it() -> None:
    """Planning and a study without tracking do not pay for MLflow."""
    modules = "pipeline.orchestration.mirror.tracker as t, pipeline.orchestration.mirror.ui"
    code = f"import sys, {modules}; t.NullTracker(); print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "False\n"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("metric_train_loss", "train/loss"),
        ("metric_val_acc_top1", "val/acc_top1"),
        ("val/acc_top1", "val/acc_top1"),
        ("metric_lr", "lr"),
        ("metric_train_a+b", "train/a_b"),
        ("metric_val_", "val"),
    ],
)
def test_epoch_metrics_are_named_split_slash_metric(key: str, name: str) -> None:
    """MLflow groups charts by the part before the slash."""
    assert metric_name(key) == name


def test_final_metrics_keep_their_names_and_drop_what_is_no_number() -> None:
    """Only finite metric_, time_ and mem_ columns are metrics."""
    columns = {"metric_a_last": 1, "metric_b": None, "metric_c": math.inf, "metric_d": True, "time_train_s": 2.0, "seed": 3}
    assert final_points(columns) == {("a_last", 0): 1.0, ("time_train_s", 0): 2.0}


def test_configuration_is_flattened_to_dotted_keys() -> None:
    """Nested options can be filtered and compared one by one."""
    nested = {
        "a": {"b": {"c": 0.1}},
        "list": [0.5, 0.75],
        "parts": [{"name": "x"}],
        "none": None,
        "yes": True,
        "empty": {},
        "s": "x" * 9000,
    }
    flat = flatten(nested)
    assert len(flat.pop("s")) == 6000
    assert flat == {"a.b.c": "0.1", "list": "[0.5, 0.75]", "parts.0.name": "x", "none": "null", "yes": "true", "empty": "{}"}
    assert flatten({}) == {}
