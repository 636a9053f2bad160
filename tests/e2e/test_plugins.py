"""A package outside the project with a method of each kind: the very files of docs/add-your-own-method.md, run for real."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store.trial_store import TrialStore
from tests.e2e.project import ROOT, Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
KINDS = {"losses": "entropy", "regularizers": "pixel_noise", "backbones": "plain_cnn", "datasets": "stripes"}


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.e2e.warm"])


def _ablate(folder: Path, elsewhere: Path, arguments: tuple[str, ...], out: Path) -> None:
    os.chdir(folder)
    sys.path.append(str(elsewhere))
    with out.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["ablate", *arguments]
    from pipeline.cli import main

    main()


def examples() -> dict[str, str]:
    """Path -> text of every file that the document shows in full."""
    text = (ROOT / "docs/add-your-own-method.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


@dataclass(frozen=True)
class WithPackage(Project):
    """A project and a folder of packages elsewhere, which is on PYTHONPATH."""

    elsewhere: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": f"{self.folder}{os.pathsep}{self.elsewhere}"}

    def quickly(self, *arguments: str) -> str:
        """What `ablate` says, in a process of its own that need not import torch first."""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            process = PROCESSES.Process(target=_ablate, args=(self.folder, self.elsewhere, arguments, out))
            process.start()
            process.join()
            text = out.read_text(encoding="utf-8")
        assert process.exitcode == 0, text
        return text

    def plan(self) -> dict[str, int]:
        return json.loads(self.quickly("plan", "--json"))["totals"]

    def trials(self) -> dict[str, str]:
        """Trial id -> arm, by what the loss is."""
        listed = json.loads(self.quickly("trials", "--json"))
        return {entry["trial_id"]: "sharp" if "entropy" in entry["config"]["loss"] else "ce" for entry in listed}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> WithPackage:
    """The document's study, trained one trial after the other; not to be changed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder = make_project(tmp_path_factory.mktemp("plugins") / "project").folder
    for path, text in examples().items():
        file = (folder if path.startswith("studies/") else elsewhere) / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    project = WithPackage(folder, elsewhere)
    project.set_param("study: tiny", "study: mine")
    project.set_param("uri: sqlite:///mlflow.db", "uri: null")
    assert project.plan()["blocked"] == 4
    project.ablate("run")
    return project


@pytest.fixture
def trained(trained_once: WithPackage, tmp_path: Path) -> WithPackage:
    """A copy of project and package, both at another path."""
    shutil.copytree(trained_once.elsewhere, tmp_path / "packages")
    return WithPackage(trained_once.copy_to(tmp_path / "project").folder, tmp_path / "packages")


def test_the_document_has_one_file_of_each_kind() -> None:
    """The examples are found in the document, so that the tests below run them."""
    names = {path for path in examples() if path.startswith("my_package/")}
    assert names == {f"my_package/my_{kind}.py" for kind in ("loss", "regularizer", "backbone", "dataset")}


def test_a_study_of_plugins_only_is_trained_and_listed(trained_once: WithPackage) -> None:
    """Four trials are complete and make a table; listings and the schema show the four methods with their origin."""
    assert trained_once.plan() == {"new": 0, "stored": 4, "shared": 0, "blocked": 0, "failed": 0}
    table = json.loads(trained_once.quickly("table", "main", "--json"))
    assert [cell["n"] for cell in table["cells"]] == [1, 1, 1, 1]
    assert trained_once.quickly("status").startswith("mine: 4 complete")
    listed = json.loads(trained_once.quickly("methods", "--json"))
    for kind, name in KINDS.items():
        (entry,) = [entry for entry in listed[kind] if entry["plugin"]]
        assert (entry["name"], entry["plugin"]) == (name, entry["module"])
        assert entry["purpose"].endswith(".")
    (loss,) = [entry for entry in listed["losses"] if entry["name"] == "entropy"]
    assert loss["options"] == {"temperature": {"type": "float", "default": 1.0, "required": False}}
    assert "+ entropy: Mean entropy" in trained_once.quickly("methods", "losses")
    assert "plugin my_package.my_loss: " in trained_once.quickly("doctor")
    definitions = json.loads(trained_once.quickly("schema", "--study", "mine"))["$defs"]
    assert {"loss entropy", "regularizer pixel_noise", "backbone plain_cnn", "dataset stripes"} <= definitions.keys()


def test_moving_keeps_and_editing_renews(trained: WithPackage) -> None:
    """At another path, then inside plugins/ and with its list in another order, all is stored; an edited loss renews its two trials."""
    before = trained.trials()
    assert trained.plan()["stored"] == 4
    shutil.move(trained.elsewhere / "my_package", trained.folder / "plugins/my_package")
    study = trained.folder / "studies/mine.yaml"
    text = study.read_text(encoding="utf-8")
    names = re.search(r"plugins: \[(.*)\]", text)[1].split(", ")  # type: ignore[index]
    study.write_text(text.replace(", ".join(names), ", ".join(reversed(names))), encoding="utf-8")
    assert trained.trials() == before
    loss = trained.folder / "plugins/my_package/my_loss.py"
    code = loss.read_text(encoding="utf-8")
    loss.write_text(code.replace("return -(", "# negative\n        return -("), encoding="utf-8")
    assert trained.plan()["stored"] == 4
    loss.write_text(code.replace("return -(", "return -2 * ("), encoding="utf-8")
    assert trained.plan() == {"new": 2, "stored": 2, "shared": 0, "blocked": 0, "failed": 0}
    assert {arm for trial_id, arm in trained.trials().items() if trial_id not in before} == {"sharp"}


def test_an_edited_dataset_is_prepared_again(trained: WithPackage) -> None:
    """Other pixels make all trials new; an edit that changes no pixel keeps them."""
    before = trained.trials()
    file = trained.elsewhere / "my_package/my_dataset.py"
    code = file.read_text(encoding="utf-8")
    file.write_text(code.replace("rng = np", "count = 0\n    rng = np"), encoding="utf-8")
    assert trained.plan()["blocked"] == 4
    assert "the code of its plugin changed" in trained.quickly("prepare")
    assert trained.trials() == before
    file.write_text(code.replace("120 *", "90 *"), encoding="utf-8")
    trained.quickly("prepare")
    assert not trained.trials().keys() & before.keys()


def test_dvc_notices_an_edit_in_the_plugins_folder(trained: WithPackage) -> None:
    """With its package in plugins/ and workers of Ray, `dvc repro` trains an edited loss anew; then there is nothing to do."""
    shutil.move(trained.elsewhere / "my_package", trained.folder / "plugins/my_package")
    trained.set_param("executor: serial", "executor: ray")
    trained.run("dvc", "repro", "prepare")
    assert json.loads(trained.run("dvc", "status", "prepare", "--json").stdout) == {}
    loss = trained.folder / "plugins/my_package/my_loss.py"
    loss.write_text(loss.read_text(encoding="utf-8").replace("return -(", "return -2 * ("), encoding="utf-8")
    assert "prepare" in json.loads(trained.run("dvc", "status", "prepare", "--json").stdout)
    assert "(2 trained now)" in trained.run("dvc", "repro", "run").stdout
    assert json.loads(trained.run("dvc", "status", "run", "--json").stdout) == {}
    states = [record["state"] for record in TrialStore(trained.folder / "store").records().values()]
    assert states == ["complete"] * 6
