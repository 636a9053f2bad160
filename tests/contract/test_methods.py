"""What every registered loss and regularizer promises, alone and together; a new one is held to it by registering its name."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import losses, regularizers
from pipeline.data.image_data import ImageData
from pipeline.models.backbone import Backbone
from pipeline.registry import Registry
from pipeline.study.spec import TrialSpec
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective
from pipeline.trial import run_trial
from tests.training.interruptions import numbers, run_interrupted

TESTS = Path(__file__).parents[1]
REGULARIZERS: dict[str, list[dict[str, Any]]] = {"none": [], **{name: [{"name": name}] for name in regularizers.names()}}


def terms(loss: str) -> dict[str, dict[str, Any]]:
    """The loss alone where it teaches the classifier, else on top of cross-entropy."""
    alone = getattr(losses.registry.get(loss).factory, "trains_classifier", True)
    return {loss: {}} if alone else {"ce": {}, loss: {}}


def why_not(loss: dict[str, Any], components: list[dict[str, Any]]) -> str:
    """Why the two do not fit into one trial, as planning finds it; '' when they do."""
    fits, reason = regularizers.supports(components)
    if fits:
        fits, reason = losses.supports(loss, regularizers.mixing(components))
    assert fits == (not reason), "what does not fit must say why, and what fits must not"
    return reason


@pytest.fixture(scope="session")
def one_batch(make_data: Callable[..., ImageData]) -> ImageData:
    """16 images to train on, large enough for two halvings of the resolution."""
    return make_data(train=16, val=0, test=6, size=(16, 16))


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("loss", losses.names())
def test_every_pair_trains_or_says_why_not(one_batch: ImageData, make_spec: Callable[..., TrialSpec], loss: str, regularizer: str) -> None:
    """One real step of resnet8 with each loss and regularizer leaves finite metrics and changed weights, or planning has a reason."""
    components = REGULARIZERS[regularizer]
    if reason := why_not(terms(loss), components):
        assert reason[0].islower()
        assert any(name in reason for name in (loss, regularizer))
        return
    spec = make_spec(epochs=1, batch_size=16, loss=terms(loss), regularizers=components, digest=one_batch.digest)
    record = run_trial(spec, data=one_batch)
    assert record["state"] == "complete", record["reason"]
    values = {key: value for key, value in record.items() if key.startswith("metric_")}
    assert all(math.isfinite(value) for value in values.values())
    assert {f"metric_train_{term}_last" for term in terms(loss)} <= set(values)
    again = run_trial(spec, data=one_batch)
    assert again["weights_sha256"] == record["weights_sha256"], "two runs of one trial must give the same weights"


@pytest.mark.parametrize("regularizer", [name for name in REGULARIZERS if name != "none"])
def test_each_regularizer_changes_training(one_batch: ImageData, make_spec: Callable[..., TrialSpec], regularizer: str) -> None:
    """Three epochs with a regularizer end in other weights than without: it does something."""
    digests = {
        run_trial(make_spec(epochs=3, batch_size=8, regularizers=components, digest=one_batch.digest), data=one_batch)["weights_sha256"]
        for components in ([], REGULARIZERS[regularizer])
    }
    assert len(digests) == 2


METHODS = [("loss", name) for name in losses.names()] + [("regularizer", name) for name in regularizers.names()]


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=str)
def test_what_a_method_keeps_survives_an_interruption(
    one_batch: ImageData, make_spec: Callable[..., TrialSpec], kind: str, name: str
) -> None:
    """Saved in the midst of an epoch and continued, a trial with any method ends with the same bytes: all of its state is saved."""
    chosen = {"loss": terms(name)} if kind == "loss" else {"regularizers": REGULARIZERS[name]}
    spec = make_spec(epochs=3, batch_size=4, digest=one_batch.digest, **chosen)
    assert numbers(run_interrupted(spec, one_batch, 6, lost=1)) == numbers(run_trial(spec, data=one_batch))


@pytest.mark.parametrize("loss", losses.names())
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_term_is_a_finite_scalar_with_a_gradient(make_net: Callable[..., Backbone], precision: str, loss: str) -> None:
    """Each term is a float32 scalar under autocast too, and trains the body: some of its weights get a gradient that is not zero."""
    from pipeline.batch import Batch, Target

    net, rng = make_net(), torch.Generator().manual_seed(0)
    objective, autocast = Objective({loss: {}}), autocast_for(precision, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        objective.attach(net.classifier, lambda name: 0)
    batch = Batch(torch.randn(12, 1, 9, 8, generator=rng), Target(torch.arange(12) % 3))
    values = losses_of(net, batch, objective, 0, autocast)
    assert set(values) == {"total", loss}
    assert values[loss].shape == ()
    assert values[loss].dtype == torch.float32
    values["total"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert net.body[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", losses.names())
def test_attached_classifiers_keep_exact_class_maps(loss: str) -> None:
    """Whatever a loss does to the classifier, the spatial mean of the CAM plus the bias stays the logit."""
    from pipeline import models
    from pipeline.maps import cam

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.create("resnet8", num_classes=4, in_channels=1).eval()
        Objective({loss: {}}).attach(net.classifier, lambda name: 0)
    image_BCHW = torch.randn(4, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        feature_map_BCHW = net.forward_features(image_BCHW)
        logits_BK = net.forward_head(feature_map_BCHW)
        for k in range(4):
            map_BHW = cam(feature_map_BCHW, net.classifier_weight_KC, torch.full((4,), k))
            bias = 0.0 if net.classifier.bias is None else net.classifier.bias[k]
            torch.testing.assert_close(map_BHW.mean((1, 2)) + bias, logits_BK[:, k], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("registry", [losses.registry, regularizers.registry], ids=lambda registry: registry.kind)
def test_every_method_has_tests_of_its_own(registry: Registry[Any]) -> None:
    """The file that registers a method has a test file of the same name with tests in it."""
    for name in registry.names():
        _, folder, stem = registry.get(name).module.split(".")
        file = TESTS / folder / f"test_{stem}.py"
        assert file.is_file(), f"{registry.kind} {name!r} has no tests: write {file.relative_to(TESTS.parent)}"
        functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        assert any(function.name.startswith("test_") for function in functions), file
