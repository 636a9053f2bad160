"""A throw-away project with studies of any number of trials, and stores filled with records as its trials would leave them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import yaml

from pipeline.orchestration.driver import COMPACT_EVERY
from pipeline.orchestration.execution import Context, Worker, dress
from pipeline.orchestration.planning import Plan, PlannedTrial, make_plan
from pipeline.orchestration.preparing import prepare_study
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.params import Params, load_params
from tests.e2e.project import ROOT, Project, make_project

# Learning rates are the rows, as they cost nothing to plan and are so many different trials.
STUDY = """\
study: {name}
seeds: {seeds}
defaults:
  dataset: {{name: cluttered_digits, canvas: 16, num_train: {images}, num_val: 40, num_test: 60, clutter: 1}}
  backbone: resnet8
  epochs: {epochs}
  batch_size: 32
arms:
  ce: {{}}
  cam: {{loss: {{cam: {{weight: 1.0}}}}}}
tables:
  rates:
    rows: {{optimizer.lr: [{rates}]}}
    columns: {{arm: [ce, cam]}}
    baseline: ce
"""
MIRROR = "sqlite:///mlflow.db"


@dataclass(frozen=True)
class Scratch(Project):
    """A project folder with a copy of the code, as a user has it: compiled modules are kept.

    Attributes:
        also: a folder whose modules its processes find as well, or ''.
    """

    also: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes."""
        inherited = {name: value for name, value in super().environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, (str(self.folder), self.also)))}

    def write(self, name: str, *, rates: int, seeds: int, epochs: int = 2, images: int = 96) -> None:
        """Declare a study of rates x 2 arms x seeds trials."""
        levels = ", ".join(f"{0.01 * (1 + index / 10000):.6g}" for index in range(rates))
        text = STUDY.format(name=name, rates=levels, seeds=seeds, epochs=epochs, images=images)
        (self.folder / f"studies/{name}.yaml").write_text(text, encoding="utf-8")

    def choose(self, study: str, *, store: str, executor: str = "ray", mirrored: bool = False) -> None:
        """Write params.yaml: the repository's own but for this."""
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["study"] = study
        content["resources"] |= {"executor": executor, "device": "cpu", "cpus_per_trial": 1, "max_concurrent": 2}
        content["tracking"]["uri"] = MIRROR if mirrored else None
        content["store"]["url"] = store
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def timed(self, *command: str) -> tuple[float, CompletedProcess[str]]:
        """Seconds that a command takes, and what it said."""
        started = time.perf_counter()
        done = self.run(*command, timeout=1800)
        return time.perf_counter() - started, done

    def ablate_timed(self, *arguments: str) -> tuple[float, CompletedProcess[str]]:
        """Seconds of an `ablate` command, a process of its own."""
        return self.timed(sys.executable, "-m", "pipeline", *arguments)

    def plan(self, study: str) -> tuple[Plan, Params]:
        """The plan of a study, its data prepared if it is not."""
        with contextlib.chdir(self.folder):
            file, params = load_study(study), load_params()
            prepare_study(file, params)
            return make_plan(file, params), params

    def events(self, study: str) -> list[dict[str, Any]]:
        """The event log of a study."""
        lines = (self.folder / f"logs/{study}.events.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def make_scratch(folder: Path) -> Scratch:
    """A fresh project."""
    return Scratch(make_project(folder).folder)


def trained(scratch: Scratch, trial: PlannedTrial, params: Params) -> Record:
    """A trial of the plan, really trained in this process; stored nowhere that counts."""
    prepared = str((scratch.folder / params.data.prepared).absolute())
    worker = Worker(Context(str(scratch.folder / "pattern"), "none", prepared, "cpu", threads=1))
    worker.store.files.remove_folder("segments")
    record = worker.execute(trial, lambda row: None)
    assert record["state"] == "complete", record["reason"]
    return record


def as_of(pattern: Record, trial: PlannedTrial, epochs: int) -> Record:
    """A record as `trial` would leave it: the numbers of another, each metric a little off, and a history of so many epochs."""
    rng = np.random.default_rng(trial.spec.seed + epochs + int(trial.spec.trial_id[:8], 16))
    ids = {"trial_id": trial.spec.trial_id, "cell_id": trial.spec.cell_id, "seed": trial.spec.seed, "epochs_done": epochs}
    metrics = [name for name, value in pattern.items() if name.startswith("metric_") and isinstance(value, float)]
    row = {name: pattern[name] * scale for name, scale in zip(metrics, rng.uniform(0.9, 1.0, len(metrics)).tolist(), strict=True)}
    last = pattern.history[-1]
    by_epoch = {name: (value * rng.uniform(0.9, 1.0, epochs)).tolist() for name, value in last.items() if name.startswith("metric_")}
    history = [{"epoch": epoch + 1, **{name: values[epoch] for name, values in by_epoch.items()}} for epoch in range(epochs)]
    return dress(Record({**pattern, **row, **ids}, history, pattern.panel), trial, {})


@dataclass(frozen=True)
class Fill:
    """What it took to fill a store.

    Attributes:
        append_s, compact_s: seconds of all calls.
        files: number of trials -> number of files of the store, at powers of ten and at the end.
    """

    append_s: float
    compact_s: float
    files: dict[int, int]


def fill(store: TrialStore, trials: list[PlannedTrial], pattern: Record, epochs: int, *, at_once: int = 1) -> Fill:
    """Store a record for each trial as a run does: append after append, segments merged every so many.

    Args:
        at_once: trials of one append; a run has one.
    """
    append_s = compact_s = 0.0
    files: dict[int, int] = {}
    milestones = {10**power for power in range(1, 6)} | {len(trials)}
    stored = 0
    for batch in _batches(trials, at_once):
        started = time.perf_counter()
        store.append([as_of(pattern, trial, epochs) for trial in batch])
        append_s += time.perf_counter() - started
        before, stored = stored, stored + len(batch)
        if stored // (COMPACT_EVERY * at_once) > before // (COMPACT_EVERY * at_once) or stored == len(trials):
            started = time.perf_counter()
            store.compact()
            compact_s += time.perf_counter() - started
        for milestone in milestones:
            if before < milestone <= stored:
                files[stored] = count_files(store)
    return Fill(append_s, compact_s, files)


def count_files(store: TrialStore) -> int:
    """Files of a store in a folder."""
    return sum(path.is_file() for path in Path(store.url).rglob("*"))


def count_bytes(store: TrialStore) -> int:
    """Bytes of a store in a folder."""
    return sum(path.stat().st_size for path in Path(store.url).rglob("*") if path.is_file())


def _batches(trials: list[PlannedTrial], size: int) -> Iterator[list[PlannedTrial]]:
    for first in range(0, len(trials), size):
        yield trials[first : first + size]
