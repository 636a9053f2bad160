"""Supervised contrastive loss against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import losses
from tests.losses.feature_batch import LABEL_B, B, C, descent, features, inputs, under_autocast_as_in_float32


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_formula(temperature: float) -> None:
    """The value is the paper's L_out, in loops; the anchor whose class has no second image does not count."""
    label_B = torch.tensor([0, 1, 3, 3, 1, 0, 2])
    feature_BC, weight_KC = features()
    unit = feature_BC.detach().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    expected = []
    for i in range(B):
        positives = [p for p in range(B) if p != i and label_B[p] == label_B[i]]
        total = sum(np.exp(unit[i] @ unit[a] / temperature) for a in range(B) if a != i)
        if positives:
            expected.append(-np.mean([unit[i] @ unit[p] / temperature - np.log(total) for p in positives]))
    assert len(expected) == 6
    value = losses.create("supcon", temperature=temperature)(inputs(feature_BC, weight_KC, label_B))
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-10)


def test_gradient_and_scale() -> None:
    """The gradient is that of finite differences, and the length of a feature does not matter."""
    feature_BC, weight_KC = features()
    loss = losses.create("supcon", temperature=0.5)
    assert torch.autograd.gradcheck(lambda f: loss(inputs(f, weight_KC, LABEL_B)), feature_BC)
    length_B1 = torch.linspace(0.1, 9, B, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(inputs(length_B1 * feature_BC, weight_KC, LABEL_B)), loss(inputs(feature_BC, weight_KC, LABEL_B)))


@pytest.mark.parametrize("label_B", [torch.arange(B), torch.zeros(B, dtype=torch.long)], ids=["no positives", "no negatives"])
def test_a_batch_without_pairs_gives_zero(label_B: torch.Tensor) -> None:
    """Without a positive or without a negative pair the loss is 0, with a zero gradient."""
    feature_BC, weight_KC = features()
    value = losses.create("supcon")(inputs(feature_BC, weight_KC, label_B))
    value.backward()
    assert value == 0
    assert feature_BC.grad.eq(0).all()


def test_features_of_zeros() -> None:
    """A dead feature gives a finite loss and a moderate gradient."""
    feature_BC = features()[0].detach().float()
    feature_BC[0] = 0
    feature_BC.requires_grad_()
    value = losses.create("supcon")(inputs(feature_BC, torch.zeros(4, C), LABEL_B))
    value.backward()
    assert torch.isfinite(value)
    assert feature_BC.grad.abs().max() < 100


def test_precision_and_descent() -> None:
    """bfloat16 features under autocast are computed in float32, and a few steps lower the loss."""
    under_autocast_as_in_float32("supcon")
    first, last = descent(losses.create("supcon"), lr=0.5)
    assert last < 0.8 * first


def test_what_it_fits_with() -> None:
    """It needs one label an image and does not teach the classifier."""
    assert losses.supports(["ce", "cam", "supcon"]) == (True, "")
    assert losses.supports(["ce", "supcon"], ["mixup"]) == (False, "supcon needs one label an image, but mixup mixes labels")
    assert not losses.registry.get("supcon").factory.trains_classifier


def test_bad_options() -> None:
    """A temperature must be positive."""
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0\.0"):
        losses.create("supcon", temperature=0.0)
