"""The contract of a training step for every registered loss with every registered regularizer."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import losses, regularizers
from pipeline.batch import Batch, Target
from pipeline.models.backbone import Backbone
from pipeline.registry import Registry
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("regularizer", [None, *regularizers.names()])
@pytest.mark.parametrize("loss", losses.names())
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_step(make_net: Callable[..., Backbone], precision: str, loss: str, regularizer: str | None) -> None:
    """Each pair gives a finite scalar for every term and a finite gradient to every parameter; an update then lowers the total."""
    net, rng = make_net(), torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(12, 1, 9, 8, generator=rng), Target(torch.arange(12) % 3))
    image_BCHW = batch.image_BCHW.clone()
    given = batch
    if regularizer is not None:
        method = regularizers.create(regularizer)
        method.on_model(net)
        batch = method.on_batch(batch, rng)
        assert batch.image_BCHW.shape == image_BCHW.shape
        assert torch.isfinite(batch.image_BCHW).all()
        assert torch.equal(given.image_BCHW, image_BCHW), "a regularizer must not write to the batch it was given"
    objective, autocast = Objective({"ce": {}, loss: {}}), autocast_for(precision, torch.device("cpu"))

    def total() -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return losses_of(net, batch, objective, 0, autocast)

    values = total()
    assert set(values) == {"total", "ce", loss}
    for name, value in values.items():
        assert value.shape == (), name
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value), name
    values["total"].backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(p.grad.abs().sum() > 0 for p in (net.classifier.weight, net.body[1].weight) if p.grad is not None)
    if precision == "float32":
        torch.optim.SGD(net.parameters(), lr=1e-3).step()
        assert total()["total"] < values["total"]


@pytest.mark.parametrize("loss", losses.names())
def test_each_term_reaches_the_feature_map(make_net: Callable[..., Backbone], loss: str) -> None:
    """A term by itself trains the body: some of its weights get a gradient that is not zero."""
    net, rng = make_net(), torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(6, 1, 9, 8, generator=rng), Target(torch.arange(6) % 3))
    losses_of(net, batch, Objective({loss: {}}), 0, autocast_for("float32", torch.device("cpu")))["total"].backward()
    assert net.body[1].weight.grad is not None
    assert net.body[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("registry", [losses.registry, regularizers.registry], ids=lambda registry: registry.kind)
def test_every_method_has_tests_of_its_own(registry: Registry[Any]) -> None:
    """The file that registers a method has a test file of the same name with tests in it."""
    for name in registry.names():
        _, folder, stem = registry.get(name).module.split(".")
        file = TESTS / folder / f"test_{stem}.py"
        assert file.is_file(), f"{registry.kind} {name!r} has no tests: write {file.relative_to(TESTS.parent)}"
        functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        assert any(function.name.startswith("test_") for function in functions), file
