"""The parts that several losses share."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline import losses
from pipeline.errors import ConfigError
from pipeline.losses.terms import unit_length
from pipeline.maps import at_least_float32
from tests.losses.feature_batch import features


def test_unit_length_is_torchs_normalize_away_from_zero() -> None:
    """Rows get length one as by `F.normalize`, value and gradient, however short they are."""
    feature_BC, _ = features()
    for scale in (1.0, 1e-9):
        row_BC = (scale * feature_BC.detach()).requires_grad_()
        got, expected = unit_length(row_BC), F.normalize(row_BC, dim=1, eps=0)
        torch.testing.assert_close(got, expected)
        weight_BC = torch.arange(got.numel(), dtype=got.dtype).view_as(got)
        torch.testing.assert_close(*(torch.autograd.grad((weight_BC * x).sum(), row_BC)[0] for x in (got, expected)))


def test_a_row_of_zeros_stays_zero_with_a_tame_gradient() -> None:
    """A zero row gives zeros, and its gradient is what came in: no division by a tiny number."""
    row_NC = torch.zeros(2, 3, requires_grad=True)
    unit_NC = unit_length(row_NC)
    unit_NC.backward(torch.full((2, 3), 5.0))
    assert unit_NC.eq(0).all()
    assert row_NC.grad.tolist() == [[5.0] * 3] * 2


@pytest.mark.parametrize(
    ("given", "kept"), [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_precision_is_raised_and_never_lowered(given: str, kept: str) -> None:
    """Half precisions become float32, float64 stays."""
    assert at_least_float32(torch.zeros(2, dtype=getattr(torch, given))).dtype == getattr(torch, kept)


@pytest.mark.parametrize("name", ["supcon", "triplet"])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without pytorch-metric-learning the loss says what to install; the others do not need it."""
    imported = builtins.__import__

    def blocked(module: str, *rest: Any, **more: Any) -> Any:
        if module.startswith("pytorch_metric_learning"):
            raise ModuleNotFoundError("blocked", name=module)
        return imported(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ConfigError, match=rf"loss '{name}' needs pytorch-metric-learning.*pip install pytorch-metric-learning"):
        losses.create(name)
    losses.create("arcface")
