"""A small project whose stored trials were trained, by their records, with code of another day."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration.adopt import whole
from pipeline.orchestration.planning import Plan, code_of, make_plan
from pipeline.orchestration.preparing import prepare_study
from pipeline.orchestration.run import run_plan
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.identity import make_spec
from pipeline.study.params import DataParams, Params, Resources, StoreParams, Tracking
from pipeline.study.spec import TrialSpec

STUDY = """\
study: tiny
seeds: {seeds}
datasets:
  digits: {{source: cluttered_digits, canvas: 16, num_train: 40, num_val: 10, num_test: 12}}
defaults: {{dataset: digits, backbone: resnet8, epochs: 2, batch_size: 20, optimizer: {{lr: 0.05}}}}
arms:
  ce: {{}}
  cam: {{loss: {{cam: {{weight: 1.0}}}}}}
tables:
  main: {{rows: {{backbone: [resnet8]}}, columns: {{arm: [ce, cam]}}, baseline: ce}}
"""
PARAMS = """\
study: tiny
resources: {executor: serial, device: cpu}
tracking: {uri: null}
store: {url: store, weights: last}
"""
LOOP = "pipeline.training.loop"
Change = Callable[[Record], None]


@dataclass(frozen=True)
class Project:
    """A project folder."""

    root: Path

    @property
    def params(self) -> Params:
        """Trained one after the other, mirrored nowhere."""
        return Params(
            resources=Resources(executor="serial", device="cpu"),
            tracking=Tracking(uri=None),
            store=StoreParams(url=str(self.root / "store"), weights="last"),
            data=DataParams(prepared=str(self.root / "data/prepared"), raw=str(self.root / "data/raw")),
        )

    @property
    def store(self) -> TrialStore:
        """Its trial store, opened anew."""
        return TrialStore(self.root / "store")

    def plan(self, seeds: int = 2) -> Plan:
        """The plan of its study for this many seeds."""
        (self.root / "studies/tiny.yaml").write_text(STUDY.format(seeds=seeds))
        return make_plan(load_study("tiny", self.root / "studies"), self.params)

    def files(self) -> dict[str, bytes]:
        """Every file of the store with its content."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in (self.root / "store").rglob("*") if path.is_file()}

    def age(self, change: Change = lambda record: None, *, recorded: bool = True, key: str = "0" * 16, weights: bool = True) -> None:
        """Turn what is stored of the plan into the work of other code: other code keys, hence other ids, another digest of the loop.

        Everything else in the store is dropped.

        Args:
            change: made to each record before it is stored anew.
            recorded: whether the records tell the code of their modules.
            key: the other code key.
            weights: whether the weights move along.
        """
        old = self.store
        ids = self.plan().trials.keys()
        records = whole({i: record for i, record in old.records().items() if i in ids}, old)
        payloads = {trial_id: old.load_weights(trial_id) for trial_id in records}
        shutil.rmtree(self.root / "store")
        for trial_id, record in records.items():
            spec = older(TrialSpec.from_dict(json.loads(record["spec"])), key)
            code = json.dumps({**code_of(spec.config), LOOP: "0" * 12}, sort_keys=True) if recorded else None
            record |= {"trial_id": spec.trial_id, "cell_id": spec.cell_id, "spec": json.dumps(spec.to_dict(), sort_keys=True), "code": code}
            change(record)
            self.store.append([record])
            if weights:
                self.store.save_weights(spec.trial_id, payloads[trial_id])


def older(spec: TrialSpec, key: str) -> TrialSpec:
    """The same trial with another code key."""
    return make_spec(spec.config, spec.seed, spec.data_digest, key, spec.upstream, plugins=spec.plugins)


def make_trained(root: Path) -> Project:
    """A project with its dataset prepared and its four trials trained."""
    (root / "studies").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS)
    project = Project(root)
    (root / "studies/tiny.yaml").write_text(STUDY.format(seeds=2))
    prepare_study(load_study("tiny", root / "studies"), project.params)
    run_plan(project.plan(), project.params)
    return project


def copy_of(project: Project, root: Path) -> Project:
    """The same project elsewhere."""
    shutil.copytree(project.root, root)
    return Project(root)


def shifted(column: str) -> Callable[[Record], Any]:
    """A change of the last bit of a column of a record."""

    def change(record: Record) -> None:
        record[column] = math.nextafter(record[column], math.inf)

    return change
