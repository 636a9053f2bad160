"""A search over a cheap objective: the real engine and the real samplers, and a trainer that only adds up."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
import pytest
import yaml

from pipeline.orchestration.planning import vocabulary
from pipeline.orchestration.search.arms import ArmPlan, SearchPlan
from pipeline.orchestration.search.engine import ArmSearch, Job, Search
from pipeline.orchestration.search.ledger import LedgerRow, ledger_row
from pipeline.orchestration.search.points import Points, read_points
from pipeline.orchestration.search.storage import open_study
from pipeline.store.records import Record
from pipeline.study.config import StudyFile
from pipeline.study.resolve import Resolver

SPACE: dict[str, Any] = {
    "optimizer.lr": {"float": [0.01, 0.3], "log": True},
    "optimizer.weight_decay": {"float": [1e-5, 1e-2], "log": True},
    "loss.cam.weight": {"float": [0.1, 5], "log": True, "when": {"arm": "cam"}},
}


@dataclass
class Lab:
    """A search that can be killed and started again.

    Attributes:
        arms: what is searched.
        storage: of Optuna; outlives every driver.
        store: the records; outlives every driver as well.
        epochs_run: epochs that were run, by trial.
        diverges: points that fail for good.
    """

    arms: list[ArmPlan]
    storage: Any = field(default_factory=optuna.storages.InMemoryStorage)
    store: dict[str, Record] = field(default_factory=dict)
    epochs_run: Counter[str] = field(default_factory=Counter)
    diverges: Callable[[Job], bool] = lambda job: False
    breaks: Callable[[Job], bool] = lambda job: False

    def search(self) -> Search:
        """A fresh driver's view."""
        return Search([ArmSearch(arm, open_study(arm, self.storage), self.store.get) for arm in self.arms])

    def drive(self, *, slots: int = 1, rng: random.Random | None = None, kill_after: int | None = None) -> Search:
        """Run a driver to the end of the search, or until it is killed after so many steps; workers report in random order."""
        rng = rng or random.Random(0)
        search, running, steps = self.search(), [], 0
        while True:
            while len(running) < slots and (job := search.next()) is not None:
                running.append((job, []))
            for arm in search.arms.values():
                assert arm.points.epochs <= arm.plan.budget
            if not running:
                assert search.is_over
                return search
            place = rng.randrange(len(running))
            job, rows = running[place]
            ended = self._step(search, job, rows)
            if ended is not None:
                self.store[job.trial.spec.trial_id] = ended
                running.pop(place)
            steps += 1
            if steps == kill_after:
                return search
            if ended is not None:
                search.finished(job, ended)

    def _step(self, search: Search, job: Job, rows: list[dict[str, Any]]) -> Record | None:
        trial_id, epochs = job.trial.spec.trial_id, job.trial.spec.config["epochs"]
        if self.breaks(job):
            return self._record(job, rows, state="failed", failure="error", reason="ValueError: a bug")
        if rows and self.diverges(job):
            return self._record(job, rows, state="failed", failure="diverged", reason="loss became nan")
        rows.append({"epoch": len(rows) + 1, "metric_val_acc_top1": accuracy(job.trial.spec.config, len(rows) + 1)})
        self.epochs_run[trial_id] += 1
        verdict = search.epoch(job, rows[-1])
        if verdict:
            return self._record(job, rows, state="pruned", reason=verdict)
        return self._record(job, rows, state="complete", reason="") if len(rows) == epochs else None

    def _record(self, job: Job, rows: list[dict[str, Any]], **row: Any) -> Record:
        value = rows[-1]["metric_val_acc_top1"] if rows else None
        took = {"metric_val_acc_top1_last": value, "time_train_s": 1.0 * len(rows), "time_total_s": 36.0 * len(rows)}
        return Record({"trial_id": job.trial.spec.trial_id, "failure": "", "epochs_done": len(rows), "attempt": 1, **took, **row}, rows)

    def points(self) -> dict[str, Points]:
        """What the storage says."""
        return {arm.name: read_points(open_study(arm, self.storage).get_trials(deepcopy=False)) for arm in self.arms}

    def ledger(self) -> list[LedgerRow]:
        """One row an arm."""
        points = self.points()
        return [ledger_row(arm, points[arm.name], self.store) for arm in self.arms]


def accuracy(config: dict[str, Any], epoch: int) -> float:
    """Best at a learning rate of 0.05; rises with the epochs."""
    lr, weight = config["optimizer"]["lr"], config["loss"].get("cam", {}).get("weight", 1.0)
    distance = abs(math.log(lr / 0.05)) + 0.3 * abs(math.log(weight))
    return math.exp(-0.3 * distance) * (1 - 0.5**epoch)


@pytest.fixture(name="make_plan", scope="session")
def make_plan_fixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SearchPlan]:
    """Plan a search in the arms ce and cam, with nothing prepared; keywords replace parts of the section."""
    path = tmp_path_factory.mktemp("studies") / "toy.yaml"

    def make(*, digest: str = "d", **changes: Any) -> SearchPlan:
        study = {
            "study": "toy",
            "defaults": {"dataset": "cluttered_digits", "backbone": "resnet8", "epochs": 4, "loss": {"ce": {}}},
            "arms": {"ce": {}, "cam": {"loss": {"cam": {}}}},
            "search": {"trials": 5, "space": SPACE} | changes,
            "tables": {"t": {"rows": {"backbone": ["resnet8"]}, "columns": {"arm": ["ce", "cam"]}}},
        }
        path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        file = StudyFile(path)
        spec, resolver = file.study.search, Resolver(file, vocabulary())
        assert spec is not None
        arms = [
            ArmPlan("toy", name, spec, resolver, {"name": "cluttered_digits"}, "data", spec.epochs or 4, "last", digest)
            for name in spec.arm_names(file.study.arms)
        ]
        return SearchPlan("toy", arms, [], digest)

    return make


@pytest.fixture(name="make_lab")
def make_lab_fixture(make_plan: Callable[..., SearchPlan]) -> Callable[..., Lab]:
    """A lab over a planned search."""

    def make(**changes: Any) -> Lab:
        return Lab(make_plan(**changes).arms)

    return make
