"""Networks of stored trials: what is built from the record, and what is exported, computes what was measured while training."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline import losses, regularizers
from pipeline.data.image_data import ImageData
from pipeline.errors import ConfigError, PipelineError
from pipeline.orchestration.registered.exporting import Evaluated, export, trained_network
from pipeline.store.records import Record
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Optimizer
from pipeline.trial import NullSink, run_trial
from tests.conftest import SpecFactory

CHANGED_CLASSIFIERS = [name for name in losses.names() if getattr(losses.registry.get(name).factory, "changes_classifier", False)]


class Keeping(NullSink):
    """Keeps the weights as the store would."""

    def __init__(self, weights: str) -> None:
        self.weights, self.payload = weights, b""

    def save_weights(self, state: dict[str, Tensor]) -> None:
        self.payload = save(state)


def train(spec: TrialSpec, data: ImageData, weights: str = "last") -> tuple[Record, bytes]:
    sink = Keeping(weights)
    return run_trial(spec, data=data, sink=sink), sink.payload


def images(data: ImageData, split: str) -> Tensor:
    return torch.tensor(data.split(split).image_NHWC)


def check_measured(network: Any, data: ImageData, record: Record, rule: str) -> None:
    """Accuracy and mean cross-entropy of the test split are those of the record, to the last bit."""
    label_N = torch.tensor(data.split("test").label_N)
    with torch.no_grad():
        logits_NK = network(images(data, "test"))
    assert logits_NK.dtype == torch.float32
    assert float((logits_NK.argmax(1) == label_N).double().mean()) == record[f"metric_test_acc_top1_{rule}"]
    assert float(F.cross_entropy(logits_NK, label_N, reduction="none").double().sum()) / len(label_N) == record[f"metric_test_loss_{rule}"]


@pytest.mark.parametrize("name", regularizers.names())
def test_network_with_any_regularizer_computes_what_was_measured(name: str, make_spec: SpecFactory, tiny_data: ImageData) -> None:
    """What a regularizer does to the layers is done again."""
    spec = make_spec(regularizers=[{"name": name}], epochs=1)
    record, payload = train(spec, tiny_data)
    check_measured(trained_network(spec, tiny_data, payload), tiny_data, record, "last")


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
@pytest.mark.parametrize("name", CHANGED_CLASSIFIERS)
def test_network_with_a_changed_classifier_computes_what_was_measured(
    name: str, precision: str, make_spec: SpecFactory, tiny_data: ImageData
) -> None:
    """Normalised rows and derived biases act as in training, under autocast too."""
    spec = make_spec(loss={name: {"weight": 1.0}}, precision=precision, epochs=1)
    record, payload = train(spec, tiny_data)
    check_measured(trained_network(spec, tiny_data, payload), tiny_data, record, "last")


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, "last"),
        ({"epochs": 4, "optimizer": Optimizer(lr=0.5)}, "best"),
        ({"loss": {"arcface": {"weight": 1.0}}}, "last"),
        ({"loss": {"lgm": {"weight": 1.0}}, "precision": "bfloat16"}, "last"),
        ({"loss": {"ce": {}, "cam": {"weight": 1.0, "stages": [-2]}}, "ema": 0.9}, "last"),
        ({"regularizers": [{"name": "shake_drop"}]}, "last"),
    ],
    ids=["plain", "best epoch", "arcface", "lgm in bfloat16", "stages and ema", "shake_drop"],
)
def test_exported_network_computes_what_was_measured(
    changes: dict[str, Any], weights: str, make_spec: SpecFactory, tiny_data: ImageData, tmp_path: Path
) -> None:
    """The file alone gives the accuracy and the loss of the record, and other numbers of images give rows of the same logits."""
    spec = make_spec(**changes)
    record, payload = train(spec, tiny_data, weights)
    assert weights == "last" or record["best_val_epoch"] < record["epochs_done"]
    export(trained_network(spec, tiny_data, payload), images(tiny_data, "val")[:2], tmp_path / "net.pt2")
    written = torch.export.load(tmp_path / "net.pt2").module()
    check_measured(written, tiny_data, record, "last" if weights == "last" else "best_val")
    with torch.no_grad():
        torch.testing.assert_close(written(images(tiny_data, "test")[3:4])[0], written(images(tiny_data, "test"))[3])


def test_file_holds_no_pickle(make_spec: SpecFactory, tiny_data: ImageData, tmp_path: Path) -> None:
    """Graph and tables are JSON, weights plain bytes; no member is a zip of `torch.save` or begins as a pickle does."""
    spec = make_spec(epochs=1)
    _, payload = train(spec, tiny_data)
    export(trained_network(spec, tiny_data, payload), images(tiny_data, "val")[:2], tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        others = [name for name in archive.namelist() if "/weights/weight_" not in name and "/constants/" not in name]
        assert any(name.endswith("model.json") for name in others)
        assert [name for name in others if archive.read(name).startswith((b"PK", b"\x80"))] == []
        tables = [archive.read(name).decode() for name in archive.namelist() if name.endswith("config.json")]
    assert tables
    assert not any('"use_pickle": true' in table for table in tables)


def test_building_draws_nothing_from_the_global_generator(make_spec: SpecFactory, tiny_data: ImageData) -> None:
    """Whoever registers a model in the middle of something else changes no random number of it."""
    spec = make_spec(epochs=1, loss={"center": {"weight": 0.1}, "ce": {}})
    _, payload = train(spec, tiny_data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20261)
        before = torch.get_rng_state()
        trained_network(spec, tiny_data, payload)
        assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_network_are_refused(make_spec: SpecFactory, tiny_data: ImageData) -> None:
    """The message names what does not fit."""
    spec = make_spec(epochs=1)
    _, payload = train(spec, tiny_data)
    state = load(payload)
    state["classifier.weight"] = state["classifier.weight"][:2]
    with pytest.raises(ConfigError, match=r"do not fit the network: .*classifier\.weight"):
        trained_network(spec, tiny_data, save(state))


class Branching(nn.Module):
    """What it computes depends on the values in the image."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.mean((2, 3)) if image_BCHW.sum() > 0 else image_BCHW.amax((2, 3))


class Noisy(nn.Module):
    """Says something else each time."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return torch.rand_like(image_BCHW.mean((2, 3)))


@pytest.mark.parametrize(("model", "message"), [(Branching(), "cannot be exported"), (Noisy(), "gives other logits")])
def test_network_that_cannot_be_exported_is_refused(model: nn.Module, message: str, tiny_data: ImageData, tmp_path: Path) -> None:
    """One line says why, instead of a model that computes something else."""
    with pytest.raises(PipelineError, match=message) as caught:
        export(Evaluated(model, tiny_data, "auto"), images(tiny_data, "val")[:2], tmp_path / "net.pt2")
    assert "\n" not in str(caught.value)
