"""OLE: nuclear norms of the classes against that of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline import losses
from pipeline.losses.ole import nuclear_norm, ole
from tests.losses.feature_batch import LABEL_B, B, C, descent, features, inputs, under_autocast_as_in_float32


def loops(feature_BC: Tensor, label_B: Tensor, delta: float) -> float:
    """The formula with numpy's nuclear norm, class by class."""
    rows, labels = feature_BC.detach().numpy(), label_B.numpy()
    classes = sum(max(delta, np.linalg.norm(rows[labels == k], "nuc")) for k in np.unique(labels))
    return float((classes - np.linalg.norm(rows, "nuc")) / len(rows))


@pytest.mark.parametrize("delta", [0.0, 1.0, 4.0])
def test_the_formula(delta: float) -> None:
    """The value is numpy's, with classes of one and of several images and one that the batch lacks."""
    feature_BC, weight_KC = features()
    for label_B in (LABEL_B, torch.arange(B), torch.zeros(B, dtype=torch.long), LABEL_B.flip(0)):
        value = losses.create("ole", delta=delta)(inputs(feature_BC, weight_KC, label_B))
        assert value.item() == pytest.approx(loops(feature_BC, label_B, delta), rel=1e-10, abs=1e-12)


def test_gradient() -> None:
    """The gradient is that of finite differences, and the authors' U V^T of each class less that of the batch."""
    feature_BC, _ = features()
    assert torch.autograd.gradcheck(lambda f: ole(f, LABEL_B, 1.0), feature_BC)
    (gradient_BC,) = torch.autograd.grad(ole(feature_BC, LABEL_B, 0.0), feature_BC)
    rows, expected = feature_BC.detach().numpy(), np.zeros((B, C))
    for part, sign in [(LABEL_B.numpy() == k, 1) for k in (0, 1, 3)] + [(np.full(B, True), -1)]:
        u, _, vt = np.linalg.svd(rows[part], full_matrices=False)
        expected[part] += sign * u @ vt / B
    np.testing.assert_allclose(gradient_BC.numpy(), expected, atol=1e-10)


def test_orthogonal_classes_cost_nothing() -> None:
    """Classes in orthogonal subspaces give 0 without delta, however many images they have."""
    feature_BC = torch.zeros(6, 4, dtype=torch.float64)
    feature_BC[:3, :2] = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    feature_BC[3:, 2:] = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label_B = torch.tensor([0, 0, 0, 1, 1, 1])
    assert ole(feature_BC, label_B, 0.0).item() == pytest.approx(0, abs=1e-12)
    assert ole(feature_BC, torch.tensor([0, 1, 0, 1, 0, 1]), 0.0) > 0.1


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_it_is_never_negative(seed: int, batch: int, classes: int) -> None:
    """The nuclear norm is a norm, so the parts together are at least as large as the whole."""
    rng = torch.Generator().manual_seed(seed)
    feature_BC = torch.randn(batch, C, generator=rng, dtype=torch.float64)
    label_B = torch.randint(classes, (batch,), generator=rng)
    value = ole(feature_BC, label_B, 0.0)
    assert value >= -1e-12
    order_B = torch.randperm(batch, generator=rng)
    torch.testing.assert_close(ole(feature_BC[order_B], label_B[order_B], 0.0), value)


def test_degenerate_features_have_the_shortest_subgradient() -> None:
    """Features of zeros get no gradient, equal rows none across their common direction; nothing is NaN where singular values coincide."""
    zeros_BC = torch.zeros(4, C, requires_grad=True)
    ole(zeros_BC, torch.tensor([0, 0, 1, 1]), 0.0).backward()
    assert zeros_BC.grad.eq(0).all()
    equal_BC = torch.ones(4, C, requires_grad=True)
    nuclear_norm(equal_BC).backward()
    torch.testing.assert_close(equal_BC.grad, torch.full((4, C), 1 / (4 * C) ** 0.5))
    twin_BC = torch.eye(4, C, requires_grad=True)
    nuclear_norm(twin_BC).backward()
    torch.testing.assert_close(twin_BC.grad, torch.eye(4, C))


def test_a_small_class_is_left_in_peace() -> None:
    """A class whose nuclear norm is below delta gets no gradient of its own: only that of the batch, which spreads it."""
    feature_BC = torch.tensor([[0.3, 0.0], [0.0, 0.2]], dtype=torch.float64, requires_grad=True)
    ole(feature_BC, torch.tensor([0, 1]), 1.0).backward()
    torch.testing.assert_close(feature_BC.grad, -torch.eye(2, dtype=torch.float64) / 2)


def test_precision_and_descent() -> None:
    """bfloat16 features under autocast are computed in float32, and steps along the gradient lower the loss."""
    under_autocast_as_in_float32("ole")
    first, last = descent(losses.create("ole"), lr=0.5, steps=60)
    assert last < 0.8 * first


def test_what_it_fits_with() -> None:
    """It needs one label an image and does not teach the classifier."""
    assert losses.supports(["ce", "cam", "ole"]) == (True, "")
    assert losses.supports(["ce", "ole"], ["cutmix"]) == (False, "ole needs one label an image, but cutmix mixes labels")
    assert not losses.registry.get("ole").factory.trains_classifier


def test_bad_options() -> None:
    """A negative bound is named with what was given."""
    with pytest.raises(ValueError, match=r"delta must be >= 0, got -1\.0"):
        losses.create("ole", delta=-1.0)
