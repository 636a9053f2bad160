"""Every record tells the study and the commit that it was trained for and at, and is otherwise the same as without."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.analysis.collect import collect
from pipeline.orchestration import execution
from pipeline.orchestration.execution import Context, Worker
from pipeline.orchestration.planning import PlannedTrial, write_plan
from pipeline.orchestration.run import run_plan
from pipeline.store.records import checkout_words
from tests.orchestration.aged import Project, copy_of, make_trained

ORIGIN = {"env_study": "tiny", "env_git_commit": "0123abc", "env_git_dirty": True}
GIT = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]


def origin_of(record: Any) -> dict[str, Any]:
    """What a record tells of study and commit."""
    return {key: value for key, value in record.items() if key.startswith(("env_git_", "env_study"))}


@pytest.fixture(name="trained", scope="module")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with four trials that were trained outside of any repository; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
        return make_trained(folder / "project")


@pytest.fixture(name="project")
def project_fixture(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, the working directory, in a repository of its own."""
    project = copy_of(trained, tmp_path / "project")
    monkeypatch.chdir(project.root)
    (project.root / ".gitignore").write_text("/store/\n/logs/\n/data/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *command], check=True)
    return project


def head() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def test_new_trials_tell_their_commit_and_stored_ones_stay(project: Project) -> None:
    """Trials without a commit are not trained again; new ones carry study and commit; a later commit trains nothing and changes none."""
    before = project.store.records()
    assert [origin_of(record) for record in before.values()] == [{"env_study": "tiny"}] * 4
    plan = project.plan(seeds=3)
    first = head()
    assert run_plan(plan, project.params).started == 2
    records = project.store.records()
    assert {trial_id: records[trial_id] for trial_id in before} == before
    new = records.keys() - before.keys()
    told = {"env_study": "tiny", "env_git_commit": first, "env_git_dirty": True}  # three seeds in the study file are not committed
    assert [origin_of(records[trial_id]) for trial_id in new] == [told] * 2
    subprocess.run([*GIT, "commit", "-qam", "Three seeds"], check=True)
    assert head() != first
    assert project.plan(seeds=3).trials.keys() == plan.trials.keys() == records.keys()
    assert run_plan(project.plan(seeds=3), project.params).started == 0
    assert project.store.records() == records


def test_results_hold_both_kinds_of_records(project: Project, tmp_path: Path) -> None:
    """A row of an earlier version has no value where a later one tells its commit; Parquet keeps texts and truth values."""
    plan = project.plan(seeds=3)
    run_plan(plan, project.params)
    project.store.compact()
    write_plan(plan, tmp_path / "plan")
    trials = collect(tmp_path / "plan/trials.parquet", project.store, {}).trials
    pq.write_table(trials, tmp_path / "trials.parquet")
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    told = [(row["env_git_commit"], row["env_git_dirty"]) for row in rows]
    assert sorted(told, key=str) == sorted([(head(), True)] * 2 + [(None, None)] * 4, key=str)


@pytest.mark.parametrize("fails", [False, True])
def test_worker_asks_no_git(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """A worker writes what the driver told it into complete and failed records, wherever it runs, and no other column differs for it."""

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", broken)
    if fails:
        monkeypatch.setattr(execution, "run_trial", broken)
    with_origin, without = (run_one(trained, tmp_path / name, origin) for name, origin in (("a", ORIGIN), ("b", {})))
    assert with_origin["state"] == without["state"] == ("failed" if fails else "complete")
    assert origin_of(with_origin) == ORIGIN
    assert origin_of(without) == {}
    assert with_origin.keys() - without.keys() == ORIGIN.keys()


def run_one(project: Project, store: Path, origin: dict[str, Any]) -> Any:
    """The record of one trial, as it is read from an empty store that it was run into."""
    trial: PlannedTrial = next(iter(project.plan().trials.values()))
    worker = Worker(Context(str(store), "none", str(project.root / "data/prepared"), "cpu", threads=1, origin=origin))
    worker.execute(trial, lambda row: None)
    return worker.store.records()[trial.spec.trial_id]


@pytest.mark.parametrize(
    ("dirty", "words"),
    [(False, "as committed"), (True, "with changes that were not committed"), (None, "whether files were changed is not known")],
)
def test_words_of_a_checkout(dirty: bool | None, words: str) -> None:
    """The commit in full, and what is known of changes."""
    assert checkout_words("0123abc", dirty).replace("; ", ", ") == f"0123abc, {words}"
