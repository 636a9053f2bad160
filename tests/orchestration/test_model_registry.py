"""The best model of a cell: who is chosen, what is registered, and what is loaded from it elsewhere. With real training and MLflow."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.models import Model
from safetensors.torch import save

from pipeline.errors import ConfigError, PipelineError, StoreError, UnknownNameError
from pipeline.orchestration.planning import Plan, make_plan, open_data
from pipeline.orchestration.preparing import prepare_study
from pipeline.orchestration.registered.choice import Choice, choose, weights_rule
from pipeline.orchestration.registered.exporting import trained_network
from pipeline.orchestration.registered.registry import Registered, register_cell
from pipeline.orchestration.run import run_plan
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.params import Params, Tracking
from pipeline.trial import weights_digest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow complains of its own type hints while it is imported
    import mlflow.pyfunc  # noqa: F401

STUDY = """\
study: tiny
seeds: 2
datasets:
  digits: {source: cluttered_digits, canvas: 16, num_train: 96, num_val: 30, num_test: 120, clutter: 0}
defaults: {dataset: digits, backbone: resnet8, epochs: 3, batch_size: 16, optimizer: {lr: 0.05}}
arms:
  ce: {}
  cam: {loss: {cam: {weight: 1.0}}}
tables:
  main: {rows: {backbone: [resnet8]}, columns: {arm: [ce, cam]}, baseline: ce}
  energy: {rows: {loss.cam.weight: [1]}, columns: {metric: [acc_top1, caam_energy]}}
"""
PARAMS = """\
study: tiny
resources: {executor: serial, device: cpu}
tracking: {uri: "sqlite:///mlflow.db"}
store: {url: store, weights: last}
"""
ELSEWHERE = """\
import json, sys
import mlflow
import numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(images))
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("pipeline", "timm", "torchdistill"))))
"""


@dataclass(frozen=True)
class Project:
    """A project folder, which is the working directory."""

    root: Path
    params: Params

    @property
    def store(self) -> TrialStore:
        """Its store, opened anew."""
        return TrialStore(self.root / "store")

    @property
    def client(self) -> MlflowClient:
        """Its MLflow."""
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def uri(self) -> str:
        """Of its MLflow."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def plan(self) -> Plan:
        """Of its study."""
        return make_plan(load_study("tiny", self.root / "studies"), self.params)

    def register(self, *, records: Mapping[str, Record] | None = None, table: str = "main", **cell: str) -> Registered:
        """Register, with nothing to complain about."""
        lines: list[str] = []
        records = self.store.records() if records is None else records
        done = register_cell(self.plan(), records, self.params, table, **cell, log=lines.append)
        assert lines == []
        return done


def params_in(root: Path, **store: Any) -> Params:
    return Params.model_validate(
        {
            "study": "tiny",
            "resources": {"executor": "serial", "device": "cpu"},
            "tracking": {"uri": f"sqlite:///{root / 'mlflow.db'}"},
            "store": {"url": str(root / "store"), "weights": "last", **store},
            "data": {"prepared": str(root / "data/prepared"), "raw": str(root / "data/raw")},
        }
    )


def untracked(params: Params) -> Params:
    return params.model_copy(update={"tracking": Tracking(uri=None)})


@pytest.fixture(name="trained", scope="module")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with four trained trials, their weights, and a database with MLflow's tables only; not to be changed."""
    root = tmp_path_factory.mktemp("trained") / "project"
    (root / "studies").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS)
    (root / "studies/tiny.yaml").write_text(STUDY)
    project = Project(root, params_in(root))
    prepare_study(load_study("tiny", root / "studies"), project.params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run_plan(project.plan(), untracked(project.params), log=lambda line: None).complete == 4
    project.client.search_experiments()  # makes the tables: it takes seconds, copying the file does not
    return project


@pytest.fixture(name="project")
def project_fixture(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, entered."""
    root = tmp_path / "project"
    shutil.copytree(trained.root, root)
    monkeypatch.chdir(root)
    return Project(root, params_in(root))


def test_model_loaded_elsewhere_is_the_trained_network(project: Project) -> None:
    """In another process, without this package: logits of the test split bit for bit, so accuracy and loss are those of the record."""
    done = project.register(row="resnet8", column="cam")
    trial, record = project.plan().trials[done.choice.trial_id], project.store.records()[done.choice.trial_id]
    data = open_data(trial.spec, Path(project.params.data.prepared))
    np.save("images.npy", data.split("test").image_NHWC)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"MLFLOW_TRACKING_URI": project.uri}
    command = [sys.executable, "-I", "-W", "error::UserWarning:__main__", "-c", ELSEWHERE, done.uri, "images.npy", "logits.npy"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []
    logits_NK, label_N = np.load("logits.npy"), data.split("test").label_N
    network = trained_network(trial.spec, data, project.store.load_weights(done.choice.trial_id))
    with torch.no_grad():
        np.testing.assert_array_equal(logits_NK, network(torch.tensor(data.split("test").image_NHWC)).numpy())
    assert float((logits_NK.argmax(1) == label_N).mean()) == record["metric_test_acc_top1_last"] == done.metrics["test_acc_top1_last"]
    nll = torch.nn.functional.cross_entropy(torch.tensor(logits_NK), torch.tensor(label_N), reduction="none").double().sum()
    assert float(nll) / len(label_N) == record["metric_test_loss_last"]


def test_model_says_where_it_comes_from(project: Project) -> None:
    """Signature, input example, requirements and metadata; linked to the run of its trial."""
    run_id = project.register(table="energy", column="acc_top1").run_id
    project.client.set_tag(run_id, "mlflow.source.git.commit", "0123abc")  # as for a trial that was mirrored while it was trained
    done = project.register(row="resnet8", column="cam")
    assert done.run_id == run_id
    record = project.store.records()[done.choice.trial_id]
    version = project.client.get_model_version_by_alias("tiny.main.resnet8.cam", "best")
    assert (str(version.version), version.run_id) == (done.version, done.run_id)
    run = project.client.get_run(done.run_id)
    assert run.data.tags["trial_id"] == done.choice.trial_id
    model_id = version.source.removeprefix("models:/")
    assert model_id in [output.model_id for output in run.outputs.model_outputs]
    assert run.info.status == "FINISHED"
    model = project.client.get_logged_model(model_id)
    assert (model.status, model.source_run_id, model.params["backbone.name"]) == ("READY", done.run_id, "resnet8")
    folder = Path(model.artifact_location.removeprefix("file://"))
    described = Model.load(str(folder))
    assert json.loads(described.signature.inputs.to_json())[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 16, 16, 1]}
    assert json.loads(described.signature.outputs.to_json())[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 10]}
    assert described.load_input_example(str(folder)).shape == (2, 16, 16, 1)
    assert [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()] == ["mlflow", "torch", "numpy"]
    facts = described.metadata
    trial = project.plan().trials[done.choice.trial_id]
    assert facts.items() >= {
        "study": "tiny", "table": "main", "row": "resnet8", "column": "cam", "trial_id": done.choice.trial_id, "weights": "last",
        "data_digest": trial.spec.data_digest, "code_key": trial.spec.code_key, "seed": trial.spec.seed, "trained_on": "cpu",
        "chosen_by": "metric_val_acc_top1_last", "chosen_value": record["metric_val_acc_top1_last"],
    }.items()  # fmt: skip
    assert facts["metrics"]["test_acc_top1_last"] == record["metric_test_acc_top1_last"]
    assert facts["commit"] == "0123abc"
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {"", ".py", ".pt2", ".json", ".yaml", ".txt"}


def test_same_trial_is_registered_once_and_the_alias_follows_the_best(project: Project) -> None:
    """A second call adds nothing; a better trial is a new version; the first one comes back without a third."""
    first, again = project.register(column="ce"), project.register(column="ce")
    assert (first.is_new, again.is_new, again.version) == (True, False, first.version)
    records = project.store.records()
    (other,) = (
        entry["trial_id"]
        for cell in project.plan().tables[0]["cells"]
        for entry in cell["trials"]
        if cell["column"] == "ce" and entry["trial_id"] != first.choice.trial_id
    )
    records[other]["metric_val_acc_top1_last"] = 1.0
    better = project.register(records=records, column="ce")
    assert (better.is_new, better.choice.trial_id) == (True, other)
    name = first.choice.model_name
    assert project.client.get_model_version_by_alias(name, "best").tags["trial_id"] == other
    back = project.register(column="ce")
    assert (back.is_new, back.version) == (False, first.version)
    assert project.client.get_model_version_by_alias(name, "best").tags["trial_id"] == first.choice.trial_id
    assert len(project.client.search_model_versions(f"name = '{name}'")) == 2
    experiment = project.client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert len(project.client.search_logged_models([experiment.experiment_id])) == 2


def test_foreign_model_of_the_same_name_is_left_alone(project: Project) -> None:
    """Somebody's own model is no place for a version."""
    project.client.create_registered_model("tiny.main.resnet8.ce", {"owner": "somebody"})
    with pytest.raises(ConfigError, match=r"is not of this cell.*somebody"):
        project.register(column="ce")
    assert project.client.search_model_versions("name = 'tiny.main.resnet8.ce'") == []


def test_wanting_weights_later_trains_nothing_again_but_a_new_store_does(project: Project) -> None:
    """What the message about missing weights says is so."""
    shutil.rmtree(project.root / "store/weights")
    plan = project.plan()
    with pytest.raises(ConfigError, match=r"`store\.weights` was none .* not trained again .* `ablate run --study tiny --trial") as caught:
        project.register(column="ce")
    assert run_plan(plan, untracked(project.params), log=lambda line: None).started == 0
    only = str(caught.value).rpartition("--study tiny")[2].replace("--trial", "").rstrip("`.").split()
    fresh = params_in(project.root, url=str(project.root / "another"))
    run_plan(plan, untracked(fresh), only=only, log=lambda line: None)
    records = TrialStore(project.root / "another").records()
    assert set(records) == set(only)
    done = register_cell(plan, records, fresh, "main", row="resnet8", column="ce", log=lambda line: None)
    assert (
        records[done.choice.trial_id]["metric_test_acc_top1_last"]
        == project.store.records()[done.choice.trial_id]["metric_test_acc_top1_last"]
    )


def test_tracking_must_be_on(project: Project) -> None:
    """Nothing is looked at before that is said."""
    with pytest.raises(ConfigError, match=r"tracking\.uri is null in params\.yaml"):
        register_cell(project.plan(), {}, untracked(project.params), "nothing", log=lambda line: None)


def test_dead_server_is_one_message(project: Project) -> None:
    """Within seconds and without a traceback."""
    params = project.params.model_copy(update={"tracking": Tracking(uri="http://127.0.0.1:9")})
    with pytest.raises(PipelineError, match="could not be written to MLflow"):
        register_cell(project.plan(), project.store.records(), params, "main", column="ce", log=lambda line: None)


def test_what_mlflow_refuses_is_one_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that MLflow does not take comes out as one line."""
    monkeypatch.setattr(Choice, "model_name", property(lambda self: "a/b"))
    with pytest.raises(PipelineError, match="did not register the model: Invalid") as caught:
        project.register(column="ce")
    assert "\n" not in str(caught.value)


Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="ablate")
def ablate_fixture(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ablate:
    """Runs `ablate mlflow register` in the project; gives exit status and both streams."""
    from pipeline.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", "mlflow", "register", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code if isinstance(caught.value.code, int) else 0, out, err

    return run


def test_command_registers_and_says_what(ablate: Ablate) -> None:
    """For people: version, what decided, how to load it; a second time it says so; for programs the same as JSON."""
    code, out, err = ablate("main")
    assert (code, err) == (0, "")
    assert "registered as version 1 of tiny.main.resnet8." in out
    assert "chosen by metric_val_acc_top1_last = " in out
    assert "mlflow.pyfunc.load_model('models:/tiny.main.resnet8." in out
    assert "is already version 1" in ablate("main")[1]
    code, out, _ = ablate("energy", "--column", "caam_energy", "--json")
    answer = json.loads(out)
    assert (code, answer["model"], answer["choice"]["metric"]) == (0, "tiny.energy.1.caam_energy", "metric_val_caam_energy_last")
    assert answer["uri"] == "models:/tiny.energy.1.caam_energy@best"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mian"], "Unknown table 'mian' in study tiny. Did you mean 'main'?"),
        (["main", "--row", "resnet9"], "Unknown row 'resnet9' in table main. Did you mean 'resnet8'?"),
        (["main", "--column", "cma"], "Unknown column 'cma' in table main."),
        (
            ["energy"],
            "The columns of table 'energy' show different metrics: none is the best. Name one by --column: acc_top1, caam_energy.",
        ),
    ],
)
def test_wrong_names_are_one_message(ablate: Ablate, arguments: list[str], message: str) -> None:
    """Exit status 2, the nearest name, no traceback."""
    code, out, err = ablate(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


# Choosing alone: a plan and records made by hand.


class Weights:
    """A store that holds weights of these trials."""

    url = "store"

    def __init__(self, having: set[str]) -> None:
        self.having = having

    def has_weights(self, trial_id: str) -> bool:
        return trial_id in self.having


def planned(cells: Mapping[tuple[str, str], int], *, metric: str = "metric_test_acc_top1_last", selection: str = "last") -> Plan:
    """A plan of one table 't' with these cells and their numbers of seeds; a trial's id is 'row/column/seed'."""
    entries = [
        {
            "row": row,
            "column": column,
            "metric": metric,
            "trials": [{"seed": seed, "trial_id": f"{row}/{column}/{seed}", "reason": ""} for seed in range(seeds)],
        }
        for (row, column), seeds in cells.items()
    ]
    return Plan(
        "s",
        {e["trial_id"]: _Named(e["trial_id"]) for cell in entries for e in cell["trials"]},
        [{"name": "t", "selection": selection, "cells": entries}],
        [],
    )  # type: ignore[misc]


@dataclass(frozen=True)
class _Named:
    name: str


def measured(values: Mapping[str, float], metric: str = "metric_val_acc_top1_last", **others: float) -> dict[str, Record]:
    return {trial_id: Record({"trial_id": trial_id, "state": "complete", metric: value, **others}) for trial_id, value in values.items()}


@given(
    val=st.lists(st.integers(0, 5).map(lambda n: n / 5), min_size=6, max_size=6),
    test=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    having=st.sets(st.integers(0, 5)),
)
def test_choice_is_the_best_on_validation_whatever_the_test_images_say(val: list[float], test: list[float], having: set[int]) -> None:
    """Against brute force: the first cell with the highest mean, in it the first of the best with weights."""
    ids = [f"{row}/c/{seed}" for row in "ab" for seed in range(3)]
    records = measured(dict(zip(ids, val, strict=True)))
    for trial_id, value in zip(ids, test, strict=True):
        records[trial_id]["metric_test_acc_top1_last"] = value
    row = "a" if math.fsum(val[:3]) / 3 >= math.fsum(val[3:]) / 3 else "b"
    mine = [at for at in range(6) if ids[at].startswith(row) and at in having]
    act = lambda: choose(planned({("a", "c"): 3, ("b", "c"): 3}), records, Weights({ids[at] for at in having}), "t")  # type: ignore[arg-type]  # noqa: E731
    if not mine:
        with pytest.raises(ConfigError, match="has its weights"):
            act()
        return
    best = max(mine, key=lambda at: (val[at], -at))
    choice = act()
    assert (choice.row, choice.trial_id, choice.value) == (row, ids[best], val[best])
    assert bool(choice.notes) == (max(val[at] for at in range(6) if ids[at].startswith(row)) > val[best])


@pytest.mark.parametrize(
    ("metric", "selection", "decisive", "best"),
    [
        ("metric_test_acc_top1_best_val", "best_val", "metric_val_acc_top1_best_val", 1),
        ("metric_test_acc_top1_best_test", "best_test", "metric_val_acc_top1_best_val", 1),
        ("metric_test_loss_last", "last", "metric_val_loss_last", 0),
        ("metric_test_ece_last", "last", "metric_val_acc_top1_last", 1),
        ("metric_test_caam_energy_last", "last", "metric_val_caam_energy_last", 1),
        ("metric_val_acc_top5_last", "last", "metric_val_acc_top5_last", 1),
        ("metric_train_loss_last", "last", "metric_val_loss_last", 0),
    ],
)
def test_each_metric_has_its_validation_twin_and_direction(metric: str, selection: str, decisive: str, best: int) -> None:
    """Never a test column; the smaller loss wins; what only test images measure is decided by accuracy."""
    records = measured({"a/c/0": 0.25, "a/c/1": 0.5}, decisive)
    choice = choose(planned({("a", "c"): 2}, metric=metric, selection=selection), records, Weights({"a/c/0", "a/c/1"}), "t")  # type: ignore[arg-type]
    assert (choice.metric, choice.trial_id) == (decisive, f"a/c/{best}")


@pytest.mark.parametrize(("metric", "best"), [("acc_top1", "b"), ("loss", "a")])
def test_best_cell_goes_by_the_mean_and_the_direction_of_the_metric(metric: str, best: str) -> None:
    """The cell with the single highest value does not win by it."""
    values = {"a/c/0": 0.1, "a/c/1": 0.8, "b/c/0": 0.6, "b/c/1": 0.6}
    plan = planned({("a", "c"): 2, ("b", "c"): 2}, metric=f"metric_test_{metric}_last")
    store: Any = Weights({*values})
    assert choose(plan, measured(values, f"metric_val_{metric}_last"), store, "t").row == best


def test_cell_with_a_missing_seed_has_no_mean_but_can_be_named() -> None:
    """No average over a partial set; asked for by name, its best complete trial is taken and the gap is told."""
    plan = planned({("a", "c"): 2, ("b", "c"): 2})
    records = measured({"a/c/0": 0.9, "b/c/0": 0.1, "b/c/1": 0.2})
    records["a/c/1"] = Record({"trial_id": "a/c/1", "state": "failed"})
    store: Any = Weights({*records})
    choice = choose(plan, records, store, "t")
    assert (choice.row, choice.notes) == ("b", ("1 cell without a mean passed over, the first because seed 1 of a / c is failed",))
    choice = choose(plan, records, store, "t", row="a")
    assert (choice.trial_id, choice.notes) == ("a/c/0", ("seed 1 of a / c is failed",))
    with pytest.raises(ConfigError, match=r"No cell has all its seeds, so none is the best: seed 0 of a / c is not trained yet"):
        choose(plan, {}, store, "t")
    with pytest.raises(ConfigError, match=r"No model of a / c in table 't' can be chosen: seed 0 of a / c is not trained yet"):
        choose(plan, {}, store, "t", row="a", column="c")


def test_without_validation_images_nothing_is_chosen() -> None:
    """Not even where there is one seed only: nobody should think that it was chosen."""
    records = measured({"a/c/0": 0.9}, "metric_test_acc_top1_last")
    with pytest.raises(ConfigError, match="has no metric_val_acc_top1_last, as without validation images, and test images never choose"):
        choose(planned({("a", "c"): 1}), records, Weights({"a/c/0"}), "t")  # type: ignore[arg-type]


def test_skipped_and_blocked_cells_are_said() -> None:
    """The reason of the plan comes through."""
    plan = planned({("a", "c"): 1})
    plan.tables[0]["cells"][0]["trials"][0]["reason"] = "two methods exclude each other"
    with pytest.raises(ConfigError, match="a / c is skipped, two methods exclude each other"):
        choose(plan, {}, Weights(set()), "t", row="a")  # type: ignore[arg-type]
    blocked = Plan("s", {}, [{"name": "t", "selection": "last", "cells": []}], [], {"t": ["the table waits for the search"]})
    with pytest.raises(ConfigError, match="Table 't' has no trials yet: the table waits for the search"):
        choose(blocked, {}, Weights(set()), "t")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        choose(blocked, {}, Weights(set()), "u")  # type: ignore[arg-type]


def test_of_several_metrics_at_one_place_the_first_decides() -> None:
    """Such cells are the same trials."""
    plan = planned({("a", "c"): 2})
    (cell,) = plan.tables[0]["cells"]
    plan.tables[0]["cells"].append({**cell, "metric": "metric_test_loss_last"})
    records = measured({"a/c/0": 0.5, "a/c/1": 0.6}, metric_val_loss_last=1.0)
    assert choose(plan, records, Weights({*records}), "t").trial_id == "a/c/1"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "name"),
    [("cutout(size=6)", "s.t.cutout(size=6).c"), ("a/b: 1%", "s.t.a_b_1_.c"), ("loss.cam.weight=3", "s.t.loss.cam.weight=3.c")],
)
def test_model_names_are_legal(row: str, name: str) -> None:
    """No slash, colon, space, quote or percent sign."""
    assert Choice("s", "t", row, "c", "id", "m", 0.5).model_name == name


def test_weights_are_told_by_their_digest() -> None:
    """Of the last epoch, of the best one, or of neither."""
    state = {"classifier.weight": torch.ones(2, 3)}
    record = {"trial_id": "x", "weights_sha256": weights_digest(state), "best_val_epoch": 2, "epochs_done": 3}
    assert weights_rule(record, save(state)) == "last"
    other = save({"classifier.weight": torch.zeros(2, 3)})
    assert weights_rule(record, other) == "best_val"
    for change in ({"best_val_epoch": 3}, {"best_val_epoch": None}, {"weights_sha256": None}):
        with pytest.raises(StoreError, match="are not those of its record"):
            weights_rule(record | change, other)
    with pytest.raises(StoreError, match="cannot be read"):
        weights_rule(record, b"nonsense")
