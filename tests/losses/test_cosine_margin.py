"""AM-Softmax, ArcFace and SphereFace against their formulas and against pytorch-metric-learning."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import losses
from pipeline.batch import LossInputs, Target
from pipeline.training.objective import Objective
from tests.losses.feature_batch import (
    LABEL_B,
    B,
    C,
    K,
    attached,
    descent,
    features,
    inputs,
    maps_are_exact,
    mixed_is_the_mixture,
    under_autocast_as_in_float32,
)

FAMILY = ["am_softmax", "arcface", "sphereface"]
FULL: dict[str, dict[str, Any]] = {"am_softmax": {}, "arcface": {}, "sphereface": {"softening": 0.0, "softening_start": 0.0}}


def label_cosine(name: str, theta: float) -> float:
    """The papers' formulas of the angle, with the margin in full and the default options."""
    if name == "am_softmax":
        return math.cos(theta) - 0.35
    if name == "arcface":
        return math.cos(theta + 0.5) if theta <= math.pi - 0.5 else math.cos(theta) - 0.5 * math.sin(0.5)
    j = min(int(4 * theta / math.pi), 3)
    return (-1) ** j * math.cos(4 * theta) - 2 * j


@pytest.mark.parametrize("name", FAMILY)
def test_the_formula(name: str) -> None:
    """The loss equals the softmax with the label's logit replaced, written with angles and loops in float64."""
    feature_BC, weight_KC = features()
    rows, weights = feature_BC.detach().numpy(), weight_KC.detach().numpy()
    expected = []
    for row, label in zip(rows, LABEL_B.tolist(), strict=True):
        theta_K = [math.acos(row @ w / np.linalg.norm(row) / np.linalg.norm(w)) for w in weights]
        scale = {"am_softmax": 30.0, "arcface": 30.0, "sphereface": np.linalg.norm(row)}[name]
        logits = [scale * (label_cosine(name, t) if k == label else math.cos(t)) for k, t in enumerate(theta_K)]
        expected.append(np.log(np.exp(logits).sum()) - logits[label])
    value = losses.create(name, **FULL[name])(inputs(feature_BC, weight_KC, LABEL_B))
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside the library
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("name", FAMILY)
def test_is_the_librarys(name: str, scale: float) -> None:
    """Value and gradients for features and weights equal pytorch-metric-learning's loss with our weights, at narrow and wide angles."""
    from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SphereFaceLoss

    feature_BC, weight_KC = features(1, batch=64, scale=scale)
    label_B = torch.arange(64) % K
    oracle = {
        "am_softmax": lambda: CosFaceLoss(K, C, margin=0.35, scale=30),
        "arcface": lambda: ArcFaceLoss(K, C, margin=math.degrees(0.5), scale=30),
        "sphereface": lambda: SphereFaceLoss(K, C, margin=4, scale=1),
    }[name]()
    oracle.W.data = weight_KC.detach().T.clone()
    # The library takes its rows as they are for SphereFace's scale only, so it gets normalised ones everywhere through `attach`.
    value = losses.create(name, **FULL[name])(inputs(feature_BC, F.normalize(weight_KC, dim=1), label_B))
    expected = oracle(feature_BC, label_B)
    torch.testing.assert_close(value, expected)
    feature_grad_BC, weight_grad_KC = torch.autograd.grad(value, (feature_BC, weight_KC))
    expected_BC, expected_CK = torch.autograd.grad(expected, (feature_BC, oracle.W))
    torch.testing.assert_close(feature_grad_BC, expected_BC)
    torch.testing.assert_close(weight_grad_KC, expected_CK.T)


@pytest.mark.parametrize("name", FAMILY)
def test_gradient(name: str) -> None:
    """The gradient for features and classifier is that of finite differences."""
    # A copy for each call: SphereFace counts its steps.
    loss = losses.create(name)
    call = lambda f, w: copy.copy(loss)(inputs(f, w, LABEL_B))  # noqa: E731
    assert torch.autograd.gradcheck(call, features())


@given(theta=st.floats(0, math.pi), step=st.floats(1e-3, 1))
@pytest.mark.parametrize("name", FAMILY)
def test_the_label_is_never_favoured_and_falls_with_the_angle(name: str, theta: float, step: float) -> None:
    """For every angle the label's cosine lies at or below the true one, and it falls as the angle grows."""
    loss = losses.create(name, **FULL[name])
    near, far = (loss.label_cosine(torch.tensor([math.cos(t)], dtype=torch.float64)).item() for t in (theta, min(theta + step, math.pi)))
    assert near <= math.cos(theta) + 1e-9
    assert far <= near + 1e-9


@pytest.mark.parametrize("name", FAMILY)
def test_no_margin_is_the_softmax_of_the_cosine(name: str) -> None:
    """Without margin it is cross-entropy of scaled cosines."""
    options = {"am_softmax": {"margin": 0.0}, "arcface": {"margin": 0.0}, "sphereface": {"margin": 1}}[name]
    feature_BC, weight_KC = features()
    scale = feature_BC.norm(dim=1, keepdim=True) if name == "sphereface" else 30.0
    expected = F.cross_entropy(scale * F.normalize(feature_BC) @ F.normalize(weight_KC).T, LABEL_B)
    torch.testing.assert_close(losses.create(name, **options)(inputs(feature_BC, weight_KC, LABEL_B)), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", FAMILY)
def test_mixed_labels(name: str, smoothing: float) -> None:
    """Mixed labels give the mixture of two losses, each with the margin on its own label."""
    options = {"softening_start": 5.0} if name == "sphereface" else {}  # constant, since the oracle calls it many times
    mixed_is_the_mixture(losses.create(name, **options), smoothing)


@pytest.mark.parametrize("name", FAMILY)
def test_features_of_zeros_and_features_on_the_class(name: str) -> None:
    """A dead feature, one on its class and one opposite to it give a finite loss and a finite, moderate gradient."""
    weight_KC = F.normalize(features()[1].detach().float(), dim=1)
    feature_BC = torch.stack([torch.zeros(C), 3 * weight_KC[0], -3 * weight_KC[0]]).requires_grad_()
    value = losses.create(name, **FULL[name])(inputs(feature_BC, weight_KC, torch.tensor([0, 0, 0])))
    value.backward()
    assert torch.isfinite(value)
    assert feature_BC.grad.abs().max() < 100


@pytest.mark.parametrize("name", FAMILY)
def test_the_attached_classifier_ranks_as_the_cosine(name: str) -> None:
    """After `attach` rows have unit length and there is no bias, so plain logits rank the classes as the cosine; maps stay exact."""
    _, net = attached(name)
    assert net.classifier.bias is None
    torch.testing.assert_close(net.classifier_weight_KC.norm(dim=1), torch.ones(K))
    feature_BC = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    original_KC = net.classifier.parametrizations.weight.original
    cos_BK = F.cosine_similarity(feature_BC[:, None], original_KC[None], dim=2)
    torch.testing.assert_close(net.classifier(feature_BC), feature_BC.norm(dim=1, keepdim=True) * cos_BK)
    assert torch.equal(net.classifier(feature_BC).argsort(1), cos_BK.argsort(1))
    maps_are_exact(net)


def test_the_state_that_is_saved() -> None:
    """The saved state has the trained weight under its new key and no bias; a fresh network takes it after the same `attach`."""
    _, net = attached("arcface")
    state = net.state_dict()
    assert {key for key in state if key.startswith("classifier")} == {"classifier.parametrizations.weight.original"}
    with torch.no_grad():
        state = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    _, fresh = attached("arcface")
    fresh.load_state_dict(state)
    image_BCHW = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    copied = copy.deepcopy(fresh)
    assert torch.equal(copied(image_BCHW), fresh(image_BCHW))
    assert not torch.equal(net(image_BCHW), fresh(image_BCHW))


def test_the_trained_weight_moves_the_rows() -> None:
    """One optimizer's step on the original weight turns the rows and keeps them at unit length; weight decay alone turns nothing."""
    classifier = nn.Linear(C, K)
    loss = losses.create("am_softmax")
    loss.attach(classifier)
    before_KC = classifier.weight.detach().clone()
    (parameter,) = classifier.parameters()
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD([parameter], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(classifier.weight.detach(), before_KC)
    feature_BC = features()[0].detach().float()
    loss(inputs(feature_BC, classifier.weight, LABEL_B)).backward()
    torch.optim.SGD([parameter], lr=0.1).step()
    assert (classifier.weight - before_KC).norm(dim=1).max() > 1e-3
    torch.testing.assert_close(classifier.weight.norm(dim=1), torch.ones(K))


def test_sphereface_softens_less_with_every_step() -> None:
    """lambda is max(5, 1000 / (1 + 0.12 t)) after t calls with gradients on; a look without gradients does not count."""
    loss, given_inputs = losses.create("sphereface"), inputs(*features(), LABEL_B)
    for step in range(4):
        assert loss.present_softening == pytest.approx(1000 / (1 + 0.12 * step))
        with torch.no_grad():
            loss(given_inputs)
        loss(given_inputs)
    hard, soft = (losses.create("sphereface", **options)(given_inputs) for options in (FULL["sphereface"], {}))
    plain = losses.create("sphereface", margin=1)(given_inputs)
    assert abs(soft - plain) < 0.05 * abs(hard - plain)
    loss._steps = 10**6
    assert loss.present_softening == 5.0


@pytest.mark.parametrize("name", FAMILY)
def test_precision_and_descent(name: str) -> None:
    """bfloat16 features under autocast are computed in float32, and a few steps lower the loss."""
    under_autocast_as_in_float32(name)
    first, last = descent(losses.create(name), steps=40)
    assert last < 0.9 * first


@pytest.mark.parametrize("name", FAMILY)
def test_together_with_cross_entropy_and_cam(name: str) -> None:
    """On one attached classifier the terms add up, and each parameter of the net gets a finite gradient."""
    _, net = attached("am_softmax")
    objective = Objective({"ce": {}, "cam": {"weight": 0.5}, name: {"weight": 2.0}})
    feature_map_BCHW = net.forward_features(torch.randn(B, 1, 16, 12, generator=torch.Generator().manual_seed(0)))
    feature_BC = net.pool(feature_map_BCHW)
    values = objective(LossInputs(feature_map_BCHW, net.classifier(feature_BC), net.classifier_weight_KC, Target(LABEL_B), feature_BC), 0)
    torch.testing.assert_close(values["total"], values["ce"] + 0.5 * values["cam"] + 2 * values[name])
    values["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_what_they_fit_with() -> None:
    """Two of them want two classifiers; mixed labels are fine."""
    fits, reason = losses.supports(["arcface", "am_softmax"])
    assert not fits
    assert reason == "arcface and am_softmax each want a classifier of their own kind"
    assert losses.supports(["ce", "cam", "arcface"], ["mixup"]) == (True, "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("am_softmax", {"scale": 0.0}),
        ("am_softmax", {"margin": 2.0}),
        ("arcface", {"scale": -1.0}),
        ("arcface", {"margin": 28.6}),
        ("sphereface", {"margin": 0}),
        ("sphereface", {"softening": -1.0}),
        ("sphereface", {"softening_start": 1.0}),
        ("sphereface", {"softening_decay": -1.0}),
    ],
)
def test_bad_options(name: str, options: dict[str, Any]) -> None:
    """Options out of range are named with what was given."""
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{option} must be .*got {value}"):
        losses.create(name, **options)


def test_unattached_weights_are_normalised_too() -> None:
    """The length of the rows does not matter to the loss, so it is right for a classifier of any kind."""
    feature_BC, weight_KC = features()
    length_K1: Tensor = torch.tensor([0.1, 1, 5, 9], dtype=torch.float64)[:, None]
    loss = losses.create("arcface")
    torch.testing.assert_close(loss(inputs(feature_BC, length_K1 * weight_KC, LABEL_B)), loss(inputs(feature_BC, weight_KC, LABEL_B)))
