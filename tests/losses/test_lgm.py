"""Large-margin Gaussian mixture loss: the formula, and a classifier whose bias is tied to its weight."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import MultivariateNormal

from pipeline import losses
from pipeline.batch import Target
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


@pytest.mark.parametrize(("alpha", "likelihood"), [(0.0, 0.0), (0.3, 0.1), (1.0, 0.0), (0.0, 2.0)])
def test_the_formula(alpha: float, likelihood: float) -> None:
    """The loss equals the paper's, written with distances and loops in float64."""
    feature_BC, mean_KC = features()
    expected = []
    for row, label in zip(feature_BC.detach().numpy(), LABEL_B.tolist(), strict=True):
        distance_K = np.array([0.5 * ((row - mean) ** 2).sum() for mean in mean_KC.detach().numpy()])
        logits_K = -distance_K * (1 + alpha * (np.arange(K) == label))
        expected.append(np.log(np.exp(logits_K).sum()) - logits_K[label] + likelihood * distance_K[label])
    value = losses.create("lgm", alpha=alpha, likelihood=likelihood, ramp_steps=0)(inputs(feature_BC, mean_KC, LABEL_B))
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_without_margin_it_is_the_posterior_of_a_gaussian_mixture() -> None:
    """With alpha 0 the loss is minus the log posterior, plus the likelihood up to its constant, of torch's own normal distribution."""
    feature_BC, mean_KC = features()
    log_density_BK = MultivariateNormal(mean_KC, torch.eye(C, dtype=torch.float64)).log_prob(feature_BC[:, None])
    posterior = -log_density_BK.log_softmax(1)[torch.arange(B), LABEL_B].mean()
    likelihood = -log_density_BK[torch.arange(B), LABEL_B].mean() - 0.5 * C * np.log(2 * np.pi)
    loss = losses.create("lgm", alpha=0.0, likelihood=0.7, ramp_steps=0)
    torch.testing.assert_close(loss(inputs(feature_BC, mean_KC, LABEL_B)), posterior + 0.7 * likelihood)


def test_without_margin_and_likelihood_it_is_cross_entropy_of_the_tied_logits() -> None:
    """With both options 0 the loss is cross-entropy of the attached classifier, smoothed where the target is."""
    loss, classifier = losses.create("lgm", alpha=0.0, likelihood=0.0), nn.Linear(C, K)
    loss.attach(classifier)
    feature_BC = features()[0].detach().float()
    value = loss(inputs(feature_BC, classifier.weight, Target(LABEL_B, smoothing=0.1)))
    torch.testing.assert_close(value, F.cross_entropy(classifier(feature_BC), LABEL_B, label_smoothing=0.1))


def test_the_attached_classifier_finds_the_nearest_mean() -> None:
    """Plain logits rank the classes as the distances to the means do, differ from -d by the same amount, and maps stay exact."""
    _, net = attached("lgm")
    feature_BC = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    distance_BK = 0.5 * (feature_BC[:, None] - net.classifier_weight_KC[None]).square().sum(2)
    logits_BK = net.classifier(feature_BC)
    torch.testing.assert_close(logits_BK + distance_BK, (0.5 * feature_BC.square().sum(1, keepdim=True)).expand(50, K))
    assert torch.equal(logits_BK.argmax(1), distance_BK.argmin(1))
    torch.testing.assert_close(net.classifier.bias, -0.5 * net.classifier.weight.square().sum(1))
    maps_are_exact(net)


def test_the_classifier_keeps_its_weight_and_saves_no_bias() -> None:
    """`attach` keeps the initial weight as the one parameter; copies and pickles of the layer work, and a fresh one takes the state."""
    classifier = nn.Linear(C, K)
    weight_KC = classifier.weight.detach().clone()
    losses.create("lgm").attach(classifier)
    assert list(classifier.state_dict()) == ["weight"]
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    assert torch.equal(classifier.weight, weight_KC)
    feature_BC = features()[0].detach().float()
    fresh = nn.Linear(C, K)
    losses.create("lgm").attach(fresh)
    fresh.load_state_dict(classifier.state_dict())
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier)), fresh):
        assert torch.equal(other(feature_BC), classifier(feature_BC))
        with torch.no_grad():
            other.weight += 1
        assert not torch.equal(other(feature_BC), classifier(feature_BC)), "the bias must follow the copy's own weight"


def test_logits_near_a_tie_survive_autocast() -> None:
    """Far from the origin two means close to each other are still told apart under bfloat16 autocast."""
    classifier = nn.Linear(C, 2)
    losses.create("lgm").attach(classifier)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[20.0] * C, [20.5] * C]))
        feature_BC = torch.tensor([[20.2] * C, [20.3] * C])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert classifier(feature_BC).argmax(1).tolist() == [0, 1]


def test_gradient_and_mixed_labels() -> None:
    """The gradient for features and means is that of finite differences, and mixed labels give the mixture of two losses."""
    loss = losses.create("lgm", ramp_steps=0)
    assert torch.autograd.gradcheck(lambda f, w: loss(inputs(f, w, LABEL_B)), features())
    for smoothing in (0.0, 0.2):
        mixed_is_the_mixture(loss, smoothing)


def test_margin_and_likelihood_rise_with_the_steps() -> None:
    """After t of 4 steps both count by t / 4, then in full; a look without gradients does not count."""
    given, loss = inputs(*features(), LABEL_B), losses.create("lgm", ramp_steps=4)
    for step in range(6):
        share = min(step / 4, 1.0)
        with torch.no_grad():
            loss(given)
        expected = losses.create("lgm", alpha=share * 0.3, likelihood=share * 0.1, ramp_steps=0)(given)
        torch.testing.assert_close(loss(given), expected)


def test_precision_and_descent() -> None:
    """bfloat16 features under autocast are computed in float32, and a few steps lower the loss."""
    under_autocast_as_in_float32("lgm")
    first, last = descent(losses.create("lgm", ramp_steps=0))
    assert last < 0.9 * first


def test_what_it_fits_with() -> None:
    """It wants a classifier of its own; mixed labels and CAM-loss are fine."""
    assert losses.supports(["ce", "cam", "lgm"], ["cutmix"]) == (True, "")
    assert losses.supports(["lgm", "sphereface"]) == (False, "lgm and sphereface each want a classifier of their own kind")


@pytest.mark.parametrize("option", ["alpha", "likelihood", "ramp_steps"])
def test_bad_options(option: str) -> None:
    """Negative options are named with what was given."""
    with pytest.raises(ValueError, match=rf"{option} must be >= 0, got -1"):
        losses.create("lgm", **{option: -1})
