"""`ablate verify` and MLflow, on real sqlite databases: what was altered or deleted there is named, and a rebuild mends it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline.orchestration.mirror.check import MOST
from pipeline.orchestration.mirror.rebuild import Rebuilt, rebuild
from pipeline.orchestration.planning import read_plan
from pipeline.orchestration.verify import verify
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params, Tracking
from pipeline.study.project import PLAN
from tests.orchestration.published import PARAMS, edit_json, make_published, mirror_published

TRIALS, TABLES = 27, 2
KEY, EPOCH_KEY, LAST_EPOCH = "test_acc_top1_last", "test/acc_top1", 4


def tracked(root: Path) -> Params:
    return PARAMS.model_copy(update={"tracking": Tracking(uri=f"sqlite:///{root}/mlflow.db")})


@pytest.fixture(scope="module")
def mirrored_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that is published and mirrored; not to be changed."""
    root = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_published(root)
        assert mirror_published(tracked(root)) == Rebuilt(TRIALS, TABLES, TRIALS + TABLES)
    return root


class Study:
    """A copy of the study, which is the working directory, and what one may do to its MLflow."""

    def __init__(self, root: Path) -> None:
        self.root, self.params = root, tracked(root)
        self.client = MlflowClient(tracking_uri=self.params.tracking.uri)
        self.outcomes: dict[str, Any] = json.loads((root / "results/outcomes.json").read_text())["trials"]

    def told(self, **options: Any) -> list[str]:
        return [str(problem) for problem in verify(self.params, **options).problems]

    def rebuild(self) -> Rebuilt:
        return mirror_published(self.params)

    def trial(self, state: str = "complete") -> tuple[str, Run]:
        """The first trial in a state, and its run."""
        trial_id = next(trial_id for trial_id, entry in self.outcomes.items() if entry["state"] == state)
        return trial_id, self.client.get_run(self.outcomes[trial_id]["run_id"])

    def table(self, name: str = "methods") -> Run:
        (run,) = self.client.search_runs(self.experiments(), f"tags.table = '{name}'")
        return run

    def experiments(self) -> list[str]:
        return [experiment.experiment_id for experiment in self.client.search_experiments()]

    def run_names(self) -> list[str]:
        return sorted(str(run.info.run_name) for run in self.client.search_runs(self.experiments()))

    def execute(self, statement: str, *values: Any) -> None:
        """Change the database behind MLflow's back."""
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db")) as connection:
            done = connection.execute(statement, values)
            assert done.rowcount > 0
            connection.commit()


Tamper = Callable[[Study, Run], None]


@pytest.fixture
def study(mirrored_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    root = tmp_path / "study"
    shutil.copytree(mirrored_once, root)
    monkeypatch.chdir(root)
    study = Study(root)
    for column, table in (("artifact_location", "experiments"), ("artifact_uri", "runs")):  # absolute
        study.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", str(mirrored_once), str(root))  # ours
    return study


def test_what_was_mirrored_holds_also_after_a_rebuild(study: Study) -> None:
    """Trials, a diverged one among them, and tables: nothing differs, nothing is made twice, and all of them were looked at."""
    for _ in range(2):
        verdict = verify(study.params, mlflow=True)
        assert verdict.problems == []
        assert verdict.checked["runs"] == TRIALS + TABLES
        assert not any("Runs" in notice or "MLflow" in notice for notice in verdict.notices)
        assert study.rebuild() == Rebuilt(TRIALS, TABLES, 0)


def test_what_others_add_to_runs_is_no_problem(study: Study) -> None:
    """Tags, parameters and metrics of one's own, a tag of MLflow's; a rebuild leaves them where they are."""
    _, run = study.trial()
    for each in (run, study.table()):
        study.client.set_tag(each.info.run_id, "looked at", "yes")
        study.client.log_param(each.info.run_id, "mine", "1")
        study.client.set_tag(each.info.run_id, "mlflow.user", "somebody")
    study.client.log_metric(run.info.run_id, "mine", 0.5)
    assert study.told() == []
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, 0)
    assert study.client.get_run(run.info.run_id).data.metrics["mine"] == 0.5


def log(key: str, value: float, step: int = 0, *, later_ms: int = 0) -> Tamper:
    def tamper(study: Study, run: Run) -> None:
        now = max((m.timestamp for m in study.client.get_metric_history(run.info.run_id, key)), default=0)
        study.client.log_metric(run.info.run_id, key, value, now + 1 + later_ms, step)

    return tamper


def tag(key: str, value: str) -> Tamper:
    return lambda study, run: study.client.set_tag(run.info.run_id, key, value)


def untag(key: str) -> Tamper:
    return lambda study, run: study.client.delete_tag(run.info.run_id, key)


def ended(status: str) -> Tamper:
    return lambda study, run: study.client.set_terminated(run.info.run_id, status)


def sql(*statements: str) -> Tamper:
    def tamper(study: Study, run: Run) -> None:
        for statement in statements:
            study.execute(statement, run.info.run_id)

    return tamper


NO_METRIC = ("DELETE FROM latest_metrics WHERE key = '{0}' AND run_uuid = ?", "DELETE FROM metrics WHERE key = '{0}' AND run_uuid = ?")
YEAR_MS = 365 * 86_400_000


OF_A_TRIAL: dict[str, tuple[Tamper, str, bool]] = {  # what is done, what is said of it, whether it takes another run
    "metric": (log(KEY, 0.123), rf"metric {KEY} is 0\.123 but 0\.9\d+ from the store\.", True),
    "metric at a later step": (log(KEY, 0.123, 7), rf"metric {KEY} is 0\.123 but 0\.9\d+ from the store\.", True),
    "ninth digit": (
        lambda study, run: log(KEY, run.data.metrics[KEY] * (1 + 1e-9))(study, run),
        rf"metric {KEY} is (0\.9\d+) but (?!\1)0\.9\d+ from the store\.",
        True,
    ),
    "time": (log("time_train_s", 1.5), r"metric time_train_s is 1\.5 but 1\d\.\d+ from the store\.", True),
    "last epoch": (log(EPOCH_KEY, 0.123, LAST_EPOCH), rf"metric {EPOCH_KEY} is 0\.123 but 0\.\d+ from the store\.", True),
    "one epoch more": (log(EPOCH_KEY, 0.123, LAST_EPOCH + 1), rf"metric {EPOCH_KEY} is 0\.123 but 0\.\d+ from the store\.", True),
    "no metric": (sql(*(each.format(KEY) for each in NO_METRIC)), rf"metric {KEY} is missing: 0\.9\d+ from the store\.", False),
    "no last epoch": (
        sql(*(each.format(EPOCH_KEY) for each in NO_METRIC)),
        rf"metric {EPOCH_KEY} is missing: 0\.\d+ from the store\.",
        False,
    ),
    "parameter": (
        sql("UPDATE params SET value = '999' WHERE key = 'epochs' AND run_uuid = ?"),
        r"parameter epochs is '999' but '4' from the store\.",
        True,
    ),
    "no parameter": (
        sql("DELETE FROM params WHERE key = 'optimizer.lr' AND run_uuid = ?"),
        r"parameter optimizer\.lr is missing: '0\.05' from the store\.",
        False,
    ),
    "tag": (tag("arm", "other"), r"tag arm is 'other' but '\w+' from the store\.", False),
    "no tag": (untag("seed"), r"tag seed is missing: '\d' from the store\.", False),
    "name": (tag("mlflow.runName", "best"), r"tag mlflow\.runName is 'best' but 'resnet8 · .+' from the store\.", False),
    "long name": (
        tag("mlflow.runName", "best " * 20),
        r'tag mlflow\.runName: line 1 is "best .+" but "resnet8 · .+" from the store\.',
        False,
    ),
    "state": (tag("state", "failed"), r"tag state is 'failed' but 'complete' from the store\.", False),
    "reason": (tag("reason", "none"), r"tag reason is 'none' but should not be there\.", False),
    "status": (ended("FAILED"), r"status is 'FAILED' but 'FINISHED' from the store\.", False),
    "dataset": (sql("DELETE FROM inputs WHERE destination_id = ?"), r"dataset [0-9a-f]{36} is not among its inputs\.", False),
}


def test_altered_runs_of_trials_are_named_and_mended(study: Study) -> None:
    """Run, trial, key, what MLflow has, what it should be and the command, which brings all of it back."""
    names, said = study.run_names(), dict[str, tuple[str, str]]()
    trials = [trial_id for trial_id, entry in study.outcomes.items() if entry["state"] == "complete"]
    for trial_id, (tamper, message, takes_another) in zip(trials, OF_A_TRIAL.values(), strict=False):
        run = study.client.get_run(study.outcomes[trial_id]["run_id"])
        tamper(study, run)
        command = ", then `dvc repro -sf run && dvc repro`, makes the run again" if takes_another else " mends it"
        said[f"run {run.info.run_id} (trial {trial_id})"] = message, f" `ablate mlflow rebuild`{command}"
    lines = study.told()
    assert len(lines) == len(OF_A_TRIAL) < len(trials)
    for line in lines:
        where, _, message = line.partition(": ")
        pattern, command = said.pop(where)
        assert re.fullmatch(pattern + re.escape(command), message)
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, sum(takes_another for _, _, takes_another in OF_A_TRIAL.values()))
    assert study.told() == []
    assert study.run_names() == names


def test_what_tables_say_in_runs_of_trials_is_compared(study: Study) -> None:
    """The row, the printed mean and the mirror's description; a description of the user's own is none of ours. A rebuild mends it."""
    runs = (study.client.get_run(entry["run_id"]) for entry in study.outcomes.values())
    run = next(run for run in runs if any(key.startswith("mean.") for key in run.data.tags))
    row = next(key for key in run.data.tags if key.startswith("row."))
    mean = next(key for key in run.data.tags if key.startswith("mean."))
    study.client.set_tag(run.info.run_id, row, "another")
    study.client.set_tag(run.info.run_id, mean, "99.99 ± 0.01 %")
    assert len(lines := study.told()) == 2
    assert all(run.info.run_id in line and "`ablate mlflow rebuild` mends it" in line for line in lines)
    assert row in lines[0] + lines[1]
    assert "99.99 ± 0.01 %" in lines[0] + lines[1]
    assert study.rebuild().made == 0
    study.client.set_tag(run.info.run_id, "mlflow.note.content", "my own words")
    assert study.told() == []


def test_runs_made_again_are_not_told_as_a_wrong_description(study: Study) -> None:
    """The descriptions of tables link to the new runs then, the results still name the old ones: the line on the run says what to do."""
    _, run = study.trial()
    study.client.delete_run(run.info.run_id)
    assert rebuild(read_plan(PLAN), TrialStore("store").records(), study.params, lambda line: None).made == 1
    (line,) = study.told()
    assert "deleted in MLflow" in line
    assert line.endswith("`ablate mlflow rebuild`, then `dvc repro -sf run && dvc repro`, makes the run again")


def test_altered_runs_of_tables_are_named_and_mended_in_place(study: Study) -> None:
    """Each value of a cell counts, the description and the title; the run stays the same one."""
    run = study.table()
    tampers = {
        log("cutout/cam/test accuracy/mean", 0.99): r"metric cutout/cam/test accuracy/mean is 0\.99 but 0\.9\d+ from the store\.",
        sql(*(each.format("mixup/cam/test accuracy/delta_mean") for each in NO_METRIC)): (
            r"metric mixup/cam/test accuracy/delta_mean is missing: -?\d\S+ from the store\."
        ),
        tag("title", "Other"): r"tag title is 'Other' but '.+' from the store\.",
        tag("mlflow.note.content", "All is significant."): r'tag mlflow\.note\.content: line 1 is "All is significant\." but ".+',
        ended("FAILED"): r"status is 'FAILED' but 'FINISHED' from the store\.",
    }
    for tamper in tampers:
        tamper(study, run)
    lines = study.told()
    assert len(lines) == len(tampers)
    for line, message in zip(lines, tampers.values(), strict=True):
        assert re.fullmatch(rf"run {run.info.run_id} \(table methods\): {message} `ablate mlflow rebuild` mends it", line)
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, 0)
    assert study.told() == []
    assert study.table().info.run_id == run.info.run_id


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        pytest.param(log("cutout/cam/test accuracy/mean", 0.99, 3), "cutout/cam/test accuracy/mean is 0.99 but 0.9", id="step"),
        pytest.param(
            log("cutout/cam/test accuracy/mean", 0.99, later_ms=YEAR_MS), "cutout/cam/test accuracy/mean is 0.99 but 0.9", id="time"
        ),
        pytest.param(log("cutout/made up/mean", 0.99), "cutout/made up/mean is 0.99 but should not be there.", id="made up"),
    ],
)
def test_a_run_of_a_table_with_what_no_later_value_covers_is_made_again(study: Study, tamper: Tamper, said: str) -> None:
    """A cell that there is not, a mean at a later step or of next year: only a clean run is right."""
    run = study.table()
    tamper(study, run)
    (line,) = study.told()
    assert line.startswith(f"run {run.info.run_id} (table methods): metric {said}")
    assert line.endswith("`ablate mlflow rebuild` mends it")
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, 1)
    assert study.told() == []


def test_deleted_runs_are_named_wherever_they_stand(study: Study) -> None:
    """Of a cell, of a diverged trial that is behind no number, of a table; also where nothing of the run is left."""
    complete, run = study.trial()
    diverged, failed = study.trial("failed")
    table, gone = study.table(), study.table("loss_weight")
    for each in (run, failed, table):
        study.client.delete_run(each.info.run_id)
    for where in ("run_uuid", "destination_id"):
        for name in {"run_uuid": ("metrics", "latest_metrics", "params", "tags", "runs"), "destination_id": ()}[where]:
            with contextlib.suppress(AssertionError):
                study.execute(f"DELETE FROM {name} WHERE {where} = ?", gone.info.run_id)  # names are ours
    lines = {line.split(":")[0]: line for line in study.told()}
    assert len(lines) == 4
    first = lines[f"run {run.info.run_id} (trial {complete})"]
    assert "deleted in MLflow. It is behind " in first
    assert first.endswith("`ablate mlflow rebuild`, then `dvc repro -sf run && dvc repro`, makes the run again")
    assert lines[f"run {failed.info.run_id} (trial {diverged})"].partition(": ")[2].startswith("deleted in MLflow. `ablate mlflow rebuild`")
    said = f"its run was deleted in MLflow (run {table.info.run_id}). `ablate mlflow rebuild` makes it again"
    assert lines["table methods"] == f"table methods: {said}"
    assert lines["table loss_weight"] == "table loss_weight: has no run in MLflow. `ablate mlflow rebuild` makes it again"
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, 4)
    assert study.told() == []


def test_a_run_that_is_altered_throughout_takes_few_lines(study: Study) -> None:
    """The first differences are told one by one, the rest are counted."""
    _, run = study.trial()
    study.execute("UPDATE params SET value = 'x' WHERE run_uuid = ?", run.info.run_id)
    lines = study.told()
    assert len(lines) == MOST + 1
    assert f"{len(run.data.params) - MOST} more values differ. `ablate mlflow rebuild`, then" in lines[-1]


def test_another_database_is_said_once(study: Study) -> None:
    """Not a line a run where none of them is there; the command makes them all."""
    Path("mlflow.db").unlink()
    shutil.rmtree("mlartifacts")
    other = PARAMS.model_copy(update={"tracking": Tracking(uri="sqlite:///other.db")})
    (line,) = [str(problem) for problem in verify(other).problems]
    assert line.startswith("runs: not compared, as there is no MLflow database at ")
    MlflowClient(tracking_uri="sqlite:///other.db").search_runs(["0"], run_view_type=ViewType.ALL)
    study.params = other
    lines = study.told()
    assert len(lines) == 1 + TABLES
    assert lines[0].startswith(f"study tiny: not one of its {TRIALS} runs of trials is in MLflow at sqlite:///")
    assert lines[0].endswith("`ablate mlflow rebuild`, then `dvc repro -sf run && dvc repro`, makes them again")
    assert study.rebuild() == Rebuilt(TRIALS, TABLES, TRIALS + TABLES)
    assert study.told() == []


def test_a_record_that_was_altered_is_not_told_of_mlflow_as_well(study: Study) -> None:
    """The store is what is wrong then: neither the trial's run, nor those of its tables, are to be written from it."""
    document = json.loads((study.root / "tables/methods.json").read_text())
    trial_id = next(cell["trial_ids"][0] for cell in document["cells"] if cell["mean"])
    row = dict(TrialStore("store").records()[trial_id]) | {"metric_test_acc_top1_last": 0.999}
    TrialStore("store").append([Record(row, TrialStore("store").history(trial_id))])
    problems = verify(study.params).problems
    assert {problem.kind for problem in problems} == {"record", "cell", "file"}


def test_without_tracking_it_is_silent(study: Study) -> None:
    """Switched off now, or switched off when the study was run: a notice, and a problem for who asks for MLflow."""
    assert "Runs were not compared, as tracking.uri is null in params.yaml." in verify(PARAMS).notices
    assert [str(p) for p in verify(PARAMS, mlflow=True).problems] == ["runs: not compared, as tracking.uri is null in params.yaml."]

    def without_runs(document: dict[str, Any]) -> None:
        for entry in document["trials"].values():
            entry["run_id"] = None

    edit_json(study.root / "results/outcomes.json", without_runs)
    verdict = verify(study.params)
    assert [problem for problem in verdict.problems if problem.kind == "mlflow"] == []
    assert "Runs were not compared, as the study was run without tracking." in verdict.notices


def test_trials_that_were_not_mirrored_are_counted(study: Study) -> None:
    """MLflow went away in the middle of a run: what it never had is no problem, but is said."""
    trial_id, _ = study.trial("failed")
    edit_json(study.root / "results/outcomes.json", lambda document: document["trials"][trial_id].update(run_id=None))
    notices = verify(study.params).notices
    assert "1 trial had no run in MLflow when the study was run; none was looked for." in notices


def test_a_server_that_is_away_is_a_notice_and_a_problem_for_who_asks(study: Study) -> None:
    """It may be down for good reasons; its runs are not lost."""
    params = PARAMS.model_copy(update={"tracking": Tracking(uri="http://127.0.0.1:9")})
    verdict = verify(params)
    assert verdict.problems == []
    (notice,) = [notice for notice in verdict.notices if notice.startswith("Runs were not compared, as ")]
    (problem,) = map(str, verify(params, mlflow=True).problems)
    assert problem == notice.replace("Runs were not compared", "runs: not compared")


@pytest.mark.parametrize(
    ("uri", "why"),
    [("http://127.0.0.1:9", "MLflow at http://127.0.0.1:9 does not answer"), ("sqlite:///no.db", "cannot be read as an SQLite database")],
)
def test_mlflow_that_cannot_be_asked_is_one_clean_line(study: Study, uri: str, why: str) -> None:
    """A server that is away, a file that is no database: where, what to do, and nothing of the libraries underneath."""
    Path("no.db").write_text("no database\n" * 100)
    params = PARAMS.model_copy(update={"tracking": Tracking(uri=uri)})
    (problem,) = map(str, verify(params, mlflow=uri.startswith("http") or None).problems)  # a database that is here must be readable
    assert why in problem
    assert "tracking.uri" in problem
    for noise in ("\n", "urllib3", "HTTPConnection", "Max retries", "Errno", "Background"):
        assert noise not in problem
