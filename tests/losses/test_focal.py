"""Focal loss against the formula written out and against torchvision's sigmoid form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from pipeline import losses
from pipeline.batch import LossInputs, Target
from pipeline.errors import IncompatibleError
from pipeline.losses.ce import cross_entropy
from pipeline.losses.focal import focal
from tests.losses.feature_batch import (
    LABEL_B,
    LAM_B,
    OTHER_B,
    C,
    K,
    descent,
    features,
    inputs,
    mixed_is_the_mixture,
)

ALPHA = [0.5, 1.0, 0.0, 2.5]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
def test_the_formula(gamma: float) -> None:
    """The mean of -alpha (1 - p)^gamma log p at the label, in numpy's float64."""
    logits_BK = inputs(*features(), LABEL_B).logits_BK.detach()
    p_BK = np.exp(logits_BK.numpy())
    p_BK /= p_BK.sum(1, keepdims=True)
    p_B = p_BK[np.arange(len(LABEL_B)), LABEL_B]
    expected_B = -((1 - p_B) ** gamma) * np.log(p_B)
    assert focal(logits_BK, Target(LABEL_B), gamma).item() == pytest.approx(expected_B.mean(), rel=1e-12)
    weighted = (np.array(ALPHA)[LABEL_B] * expected_B).mean()
    assert focal(logits_BK, Target(LABEL_B), gamma, torch.tensor(ALPHA, dtype=torch.float64)).item() == pytest.approx(weighted, rel=1e-12)


def test_two_classes_are_torchvisions_sigmoid_form() -> None:
    """For two classes the softmax of (0, z) is the sigmoid of z: torchvision's loss, with its alpha as class weights 1 - alpha, alpha."""
    z_B = torch.linspace(-4, 4, 9, dtype=torch.float64)
    label_B = torch.arange(9) % 2
    logits_BK = torch.stack([torch.zeros_like(z_B), z_B], 1)
    expected = sigmoid_focal_loss(z_B, label_B.double(), alpha=0.25, gamma=2, reduction="mean")
    alpha_K = torch.tensor([0.75, 0.25], dtype=torch.float64)
    torch.testing.assert_close(focal(logits_BK, Target(label_B), 2.0, alpha_K), expected)


@pytest.mark.parametrize("target", [Target(LABEL_B), Target(LABEL_B, OTHER_B, LAM_B.float()), Target(LABEL_B, OTHER_B, 0.4, 0.2)])
def test_gamma_zero_is_cross_entropy(target: Target) -> None:
    """Without focus it is cross-entropy for hard, mixed and smoothed labels."""
    logits_BK = inputs(*features(), LABEL_B).logits_BK.float()
    torch.testing.assert_close(focal(logits_BK, target, 0.0), cross_entropy(logits_BK, target))


def test_mixed_labels() -> None:
    """Mixed labels give the mixture of the two losses, smoothed or not."""
    for smoothing in (0.0, 0.2):
        mixed_is_the_mixture(losses.create("focal"), smoothing)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_predictions_have_finite_gradients(gamma: float) -> None:
    """Where p rounds to 1 or to 0 the loss and its gradient stay finite, also for gamma below 1."""
    logits_BK = torch.tensor([[200.0, 0.0], [0.0, 200.0], [0.0, 0.0]], requires_grad=True)
    value = focal(logits_BK, Target(torch.tensor([0, 0, 1])), gamma)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits_BK.grad).all()


def test_gradient() -> None:
    """The gradient is that of finite differences."""
    feature_BC, weight_KC = features()
    loss = losses.create("focal", gamma=1.5)
    assert torch.autograd.gradcheck(lambda f, w: loss(inputs(f, w, LABEL_B)), (feature_BC, weight_KC))


def test_class_weights_come_from_attach() -> None:
    """alpha counts once the loss is attached, and must have one weight a class."""
    given = inputs(*features(), LABEL_B)
    loss = losses.create("focal", gamma=0.0, alpha=[1.0, 0.0, 0.0, 0.0])
    loss.attach(nn.Linear(C, K))
    only_class_0 = F.cross_entropy(given.logits_BK, LABEL_B, reduction="none")[LABEL_B == 0].sum() / len(LABEL_B)
    torch.testing.assert_close(loss(given), only_class_0)
    with pytest.raises(IncompatibleError, match=r"loss\.focal\.alpha must be one weight a class: got 4 for 3 classes"):
        loss.attach(nn.Linear(C, 3))


def test_precision_and_descent() -> None:
    """bfloat16 logits are computed in float32, and a few steps lower the loss."""
    logits_BK = inputs(*features(), LABEL_B).logits_BK.bfloat16()
    nothing = torch.full((1, 1, 1, 1), float("nan"))
    value = losses.create("focal")(LossInputs(nothing, logits_BK, nothing, Target(LABEL_B)))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, focal(logits_BK.float(), Target(LABEL_B), 2.0))
    first, last = descent(losses.create("focal"))
    assert last < 0.95 * first


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"alpha": []}, {"alpha": [0.0, 0.0]}, {"alpha": [1.0, -1.0]}])
def test_bad_options(options: dict[str, object]) -> None:
    """Options out of range are named with what was given."""
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        losses.create("focal", **options)
