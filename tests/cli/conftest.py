"""A small project in a folder of its own, and the `ablate` command run in it, in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore

PARAMS = """\
study: tiny
resources: {executor: serial, device: cpu}
tracking: {uri: null}
store: {url: store}
"""
STUDY = """\
study: tiny
seeds: 1
datasets:
  digits: {source: cluttered_digits, canvas: 16, num_train: 40, num_val: 10, num_test: 10}
defaults:
  dataset: digits
  backbone: resnet8
  loss: {ce: {}}
  regularizers: none
  epochs: 1
  batch_size: 20
  optimizer: {name: sgd, lr: 0.05}
arms:
  ce: {}
  cam: {loss: {cam: {weight: 1.0}}}
tables:
  main:
    rows: {regularizers: [none, cutout]}
    columns: {arm: [ce, cam]}
    baseline: ce
"""


@dataclass
class Result:
    """What a command left behind: exit status and both streams."""

    code: int
    out: str
    err: str


@dataclass
class Project:
    """A project folder, which is the working directory.

    Attributes:
        root: the folder.
        ablate: runs `ablate` with these arguments.
    """

    root: Path
    ablate: Callable[..., Result]

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace what stands once in a file."""
        path = self.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def stored(self) -> dict[str, bytes]:
        """Every file of the store with its content."""
        root = self.root / "store"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(name="template", scope="session")
def template_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its dataset prepared and one record in its store, made once."""
    from pipeline.orchestration.preparing import prepare_study
    from pipeline.study.config import load_study
    from pipeline.study.params import DataParams, Params

    root = tmp_path_factory.mktemp("template")
    (root / "studies").mkdir()
    (root / "params.yaml").write_text(PARAMS)
    (root / "studies" / "tiny.yaml").write_text(STUDY)
    params = Params(data=DataParams(prepared=str(root / "data" / "prepared"), raw=str(root / "data" / "raw")))
    prepare_study(load_study("tiny", root / "studies"), params)
    old = {
        "trial_id": "0123456789abcdef",
        "state": "complete",
        "failure": "",
        "reason": "",
        "seed": 0,
        "attempt": 1,
        "metric_test_acc_top1_last": 0.5,
    }
    TrialStore(root / "store").append([Record(old, [{"epoch": 1, "metric_train_loss": 1.0}])])
    return root


@pytest.fixture(name="project")
def project_fixture(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    """A fresh copy of the project, entered."""
    from pipeline.cli import main

    root = tmp_path / "project"
    shutil.copytree(template, root)
    monkeypatch.chdir(root)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def ablate(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        streams = capsys.readouterr()
        code = caught.value.code
        return Result(code if isinstance(code, int) else 0, streams.out, streams.err)

    return Project(root, ablate)
