"""A whole search in this process: a real dataset of 196 images, a real store, a real database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.errors import ConfigError, DataError, PipelineError, StoreError
from pipeline.orchestration.planning import WAITS_FOR_SEARCH, count, make_plan
from pipeline.orchestration.preparing import prepare_study
from pipeline.orchestration.search.arms import plan_search
from pipeline.orchestration.search.run import SearchOutcome, run_search
from pipeline.orchestration.search.storage import open_storage
from pipeline.orchestration.search.winners import read_best, write_no_search
from pipeline.store.claims import Claims
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import StudyFile, load_study
from pipeline.study.params import Params, load_params
from tests.orchestration.postgres import free_port, postgres_server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    params = {"study": "toy", "resources": {"executor": "serial"}, "tracking": {"uri": None}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return tmp_path


@pytest.fixture
def declare(place: Path) -> Callable[..., tuple[StudyFile, Params]]:
    """Declare a study with a search and prepare its data; keywords replace parts of the search."""

    def make(*, prepare: bool = True, num_val: int = 40, storage: str = "sqlite:///search.db", **changes: Any) -> tuple[StudyFile, Params]:
        dataset = {"name": "cluttered_digits", "canvas": 16, "num_train": 96, "num_val": num_val, "num_test": 60, "clutter": 1}
        space = {"optimizer.lr": {"float": [0.02, 0.1], "log": True}, "loss.cam.weight": {"float": [0.5, 2], "when": {"arm": "cam"}}}
        tables = {
            name: {"tuned": name == "tuned", "rows": {"backbone": ["resnet8"]}, "columns": {"arm": ["ce", "cam"]}, "baseline": "ce"}
            for name in ("plain", "tuned")
        }
        study = {
            "study": "toy",
            "seeds": 2,
            "defaults": {"dataset": dataset, "backbone": "resnet8", "epochs": 2, "batch_size": 32},
            "arms": {"ce": {}, "cam": {"loss": {"cam": {}}}},
            "search": {"trials": 2, "space": space} | changes,
            "tables": tables,
        }
        (place / "studies/toy.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        params = load_params()
        params = params.model_copy(update={"search": params.search.model_copy(update={"storage": storage})})
        file = load_study("toy")
        if prepare:
            prepare_study(file, params)
        return file, params

    return make


def search(file: StudyFile, params: Params) -> SearchOutcome:
    outcome = run_search(file, params)
    outcome.raise_unless_done()
    return outcome


def test_a_search_feeds_its_tables_and_can_be_extended(place: Path, declare: Any) -> None:
    """Points are stored trials, winners make the tuned table, nothing is trained twice, and one more trial an arm trains two points."""
    file, params = declare()
    waiting = make_plan(file, params)
    assert set(waiting.blocked["tuned"]) == {WAITS_FOR_SEARCH}
    assert count(waiting, {})["tables"]["tuned"]["blocked"] == 4
    outcome = search(file, params)
    assert outcome.trained == 2 * 2 * 2
    records = TrialStore("store").records()
    assert len(records) == 4
    ledger = json.loads((place / "search/ledger.json").read_text())
    assert [row["epochs"] for row in ledger["arms"]] == [row["budget_epochs"] for row in ledger["arms"]] == [4, 4]
    assert outcome.best is not None
    for arm, winner in outcome.best.arms.items():
        points = ledger["points"][arm]
        assert winner.value == max(point["values"][0] for point in points)
        assert records[winner.trial_id]["metric_val_acc_top1_last"] == winner.value
        assert records[winner.trial_id]["name"].startswith(f"search · {arm} · optimizer.lr=")
    plan = make_plan(file, params)
    (tuned,) = [table for table in plan.tables if table["name"] == "tuned"]
    for cell in tuned["cells"]:
        winner = outcome.best.arms[cell["arm"]]
        trial = plan.trials[cell["trials"][0]["trial_id"]]
        assert trial.spec.trial_id == winner.trial_id  # seed 0 of the winner is the point itself
        assert trial.spec.config["optimizer"]["lr"] == winner.fields["optimizer.lr"]
        assert trial.name.startswith("tuned · ")
    assert count(plan, records)["tables"]["tuned"] == {"new": 2, "stored": 2, "shared": 0, "blocked": 0, "failed": 0}
    assert {path.name for path in (place / "search").iterdir()} >= {"ledger.md", "ledger.csv", "best.yaml", "history.svg", "importance.svg"}

    again = search(file, params)
    assert again.trained == 0
    assert again.best == outcome.best
    assert len(TrialStore("store").records()) == 4

    file, params = declare(trials=3)
    assert set(make_plan(file, params).blocked) == {"tuned"}
    more = search(file, params)
    assert more.trained == 2 * 2
    assert [(row.points, row.epochs) for row in more.rows] == [(3, 6), (3, 6)]

    # The database is lost: the store is the truth, so the same points are proposed and none is trained.
    (place / "search.db").unlink()
    rebuilt = search(file, params)
    assert rebuilt.trained == 0
    assert [row.stored for row in rebuilt.rows] == [3, 3]
    assert rebuilt.best == more.best


def test_what_makes_points_comparable_is_in_the_digest(declare: Any) -> None:
    """Another space, metric, sampler, pruner, seed or number of epochs is another search; more trials are the same one, extended."""
    file, params = declare()
    first = plan_search(file, params)
    for changes in ({"sampler": "random"}, {"pruner": "asha"}, {"seed": 1}, {"seed_index": 1}, {"epochs": 3}, {"metric": "loss"}):
        other = plan_search(*declare(**changes))
        assert {arm.digest for arm in other.arms}.isdisjoint(arm.digest for arm in first.arms)
    more = plan_search(*declare(trials=9))
    assert [arm.digest for arm in more.arms] == [arm.digest for arm in first.arms]
    assert more.digest != first.digest
    cam_only = {"optimizer.lr": {"float": [0.02, 0.1], "log": True}, "loss.cam.weight": {"float": [0.5, 3], "when": {"arm": "cam"}}}
    other = plan_search(*declare(space=cam_only))
    assert other.arms[0].digest == first.arms[0].digest  # the arm ce has no part in the weight
    assert other.arms[1].digest != first.arms[1].digest


def test_a_search_needs_data_and_a_validation_split(declare: Any) -> None:
    """What is missing is said before anything runs."""
    with pytest.raises(DataError, match="not prepared"):
        plan_search(*declare(prepare=False))
    with pytest.raises(ConfigError, match=r"toy\.yaml:\d+: search: dataset 'cluttered_digits' has no validation split"):
        plan_search(*declare(num_val=0))


def test_winners_of_another_search_do_not_count(place: Path, declare: Any) -> None:
    """A best.yaml of another digest or another study leaves the table waiting; a damaged one is named."""
    file, params = declare()
    write_no_search("toy")
    assert "tuned" in make_plan(file, params).blocked
    best = {"study": "toy", "digest": "0" * 16, "arms": {"ce": {"trial_id": "x", "metric": "m", "value": 0.5, "fields": {}}}}
    (place / "search/best.yaml").write_text(yaml.safe_dump(best))
    assert read_best(place / "search") is not None
    assert "tuned" in make_plan(file, params).blocked
    (place / "search/best.yaml").write_text("study: toy\narms: 3\n")
    with pytest.raises(ConfigError, match=r"(?s)best\.yaml cannot be used.*Run `ablate search`"):
        make_plan(file, params)


def test_one_driver_at_a_time(declare: Any) -> None:
    """While another process has the search, this one says so instead of taking its running points for left over ones."""
    file, params = declare()
    other = Claims(TrialStore("store"), "another-run", 60.0)
    assert other.take(f"search-toy-{plan_search(file, params).digest}") is not None
    with pytest.raises(PipelineError, match="running already"):
        run_search(file, params)
    assert TrialStore("store").records() == {}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("search.db", "is no database"),
        ("mysql://host/name", "allowed: sqlite"),
        ("sqlite://", "is no database"),
        ("postgresql://user:secret@127.0.0.1:1/none", "cannot be used"),
        ("sqlite:///missing/folder/search.db", "cannot be used"),
    ],
)
def test_databases_that_cannot_be_used_are_named(place: Path, url: str, words: str) -> None:
    """The address is said without its password, with what to do."""
    with pytest.raises(PipelineError, match=words) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_a_full_or_damaged_database_is_no_traceback(place: Path, declare: Any) -> None:
    """A file that is no database gives a message that says where trained points are."""
    file, params = declare()
    (place / "search.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"cannot be used.*trained points are in the trial store"):
        run_search(file, params)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of our own."""
    with postgres_server() as address:
        yield address


def test_postgresql_holds_a_search(declare: Any, postgres: str) -> None:
    """The same search in PostgreSQL: exact values come back, a second run trains nothing, the ledger is that of sqlite."""
    file, params = declare(trials=1, storage=postgres)
    first = search(file, params)
    assert [row.epochs for row in first.rows] == [2, 2]
    assert search(file, params).trained == 0
    in_file = search(*declare(trials=1))
    assert in_file.trained == 0  # the same draws, so the same stored trials
    assert in_file.best == first.best


def test_the_dashboard_reads_the_database(place: Path, declare: Any) -> None:
    """optuna-dashboard on loopback lists one study an arm, with trial ids in the attributes of its trials."""
    dashboard = shutil.which("optuna-dashboard", path=f"{Path(sys.executable).parent}")
    if dashboard is None:
        pytest.skip("optuna-dashboard is not installed")
    file, params = declare(trials=1)
    outcome = search(file, params)
    port = free_port()
    command = [dashboard, "sqlite:///search.db", "--host", "127.0.0.1", "--port", str(port)]
    with (place / "dashboard.log").open("w") as log:
        server = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, env={**os.environ, "HOME": str(place)})
    try:
        studies = _get(server, f"http://127.0.0.1:{port}/api/studies", place)["study_summaries"]
        assert {study["study_name"] for study in studies} == {arm.study_name for arm in outcome.plan.arms}
        trials = _get(server, f"http://127.0.0.1:{port}/api/studies/{studies[0]['study_id']}", place)["trials"]
        assert {attr["key"] for attr in trials[0]["user_attrs"]} >= {"trial_id", "arm", "source", "epochs"}
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            process.kill()
        server.wait()


def _get(server: subprocess.Popen[bytes], url: str, place: Path) -> Any:
    for _ in range(300):
        assert server.poll() is None, (place / "dashboard.log").read_text()
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.2)
    raise AssertionError((place / "dashboard.log").read_text())
