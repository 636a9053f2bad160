"""Center loss: its value, its gradient, and centers that follow the paper's rule."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import losses
from pipeline.losses.center import CenterLoss, moved
from tests.losses.feature_batch import LABEL_B, B, C, K, descent, features, inputs, under_autocast_as_in_float32


def made(alpha: float = 0.5) -> CenterLoss:
    """An attached loss with centers that are not zero, in float64."""
    loss = losses.create("center", alpha=alpha)
    loss.attach(nn.Linear(C, K))
    loss.center_KC = torch.randn(K, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return loss


def test_value_and_rule_by_loops() -> None:
    """Loss and centers over three calls equal the paper's formulas written as loops; a class without images keeps its center."""
    loss = made()
    center = loss.center_KC.numpy().copy()
    for seed in range(3):
        feature_BC, weight_KC = features(seed)
        rows = feature_BC.detach().numpy()
        expected = np.mean([0.5 * ((rows[i] - center[LABEL_B[i]]) ** 2).sum() for i in range(B)])
        before = center.copy()
        for k in range(K):
            own = rows[LABEL_B.numpy() == k]
            center[k] -= 0.5 * (before[k] - own).sum(0) / (1 + len(own))
        assert loss(inputs(feature_BC, weight_KC, LABEL_B)).item() == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(loss.center_KC.numpy(), center, rtol=1e-12)
    assert np.array_equal(center[2], made().center_KC[2].numpy())


def test_centers_move_only_with_gradients_on() -> None:
    """Without gradients the loss looks and touches nothing; with them the centers move, by a new tensor without history."""
    loss = made()
    before_KC = loss.center_KC
    given = inputs(*features(), LABEL_B)
    with torch.no_grad():
        loss(given)
    assert loss.center_KC is before_KC
    kept_KC = before_KC.clone()
    loss(given)
    assert not torch.equal(loss.center_KC, kept_KC)
    assert torch.equal(before_KC, kept_KC)
    assert not loss.center_KC.requires_grad
    assert list(loss.parameters()) == []


def test_gradient() -> None:
    """The gradient is (x - c) / B, with the centers held still, also when backward comes after they moved."""
    loss, (feature_BC, weight_KC) = made(), features()
    center_KC = loss.center_KC
    (gradient_BC,) = torch.autograd.grad(loss(inputs(feature_BC, weight_KC, LABEL_B)), feature_BC)
    torch.testing.assert_close(gradient_BC, (feature_BC.detach() - center_KC[LABEL_B]) / B)
    still = made(alpha=0.0)
    assert torch.autograd.gradcheck(lambda f: still(inputs(f, weight_KC, LABEL_B)), feature_BC)


def test_centers_converge_to_the_class_means() -> None:
    """Over many batches of the same features each center reaches the mean of its class."""
    feature_BC = features()[0].detach()
    center_KC = torch.zeros(K, C, dtype=torch.float64)
    for _ in range(200):
        center_KC = moved(center_KC, feature_BC, LABEL_B, 0.5)
    for k in (0, 1, 3):
        torch.testing.assert_close(center_KC[k], feature_BC[k == LABEL_B].mean(0))
    assert center_KC[2].eq(0).all()


def test_attach_leaves_the_classifier_alone() -> None:
    """Centers start at zero, one a class; the classifier and its saved state are untouched."""
    classifier = nn.Linear(C, K)
    state = copy.deepcopy(classifier.state_dict())
    loss = losses.create("center")
    loss.attach(classifier)
    assert loss.center_KC.shape == (K, C)
    assert loss.center_KC.eq(0).all()
    assert {name: value.tolist() for name, value in classifier.state_dict().items()} == {n: v.tolist() for n, v in state.items()}


def test_precision_and_descent() -> None:
    """bfloat16 features are computed in float32, and a few steps lower the loss."""
    under_autocast_as_in_float32("center")
    first, last = descent(losses.create("center"), lr=1.0)
    assert last < 0.5 * first


def test_what_it_fits_with() -> None:
    """It needs one label an image, trains no classifier and changes none."""
    assert losses.supports(["ce", "center"]) == (True, "")
    assert losses.supports(["ce", "cam", "center", "arcface"]) == (True, "")
    assert losses.supports(["ce", "center"], ["mixup"]) == (False, "center needs one label an image, but mixup mixes labels")
    assert not CenterLoss.trains_classifier


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_bad_options(alpha: float) -> None:
    """The rate of the centers is a share."""
    with pytest.raises(ValueError, match=rf"alpha must be in \[0, 1\], got {alpha}"):
        losses.create("center", alpha=alpha)
