"""Triplet loss against the formula written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import losses
from pipeline.errors import UnknownNameError
from tests.losses.feature_batch import LABEL_B, B, C, descent, features, inputs, under_autocast_as_in_float32


def triplets(distance_BB: np.ndarray, mining: str) -> list[tuple[int, int, int]]:
    """Anchors, positives and negatives by the definitions."""
    label, chosen = LABEL_B.tolist(), []
    for a in range(B):
        positives = [p for p in range(B) if p != a and label[p] == label[a]]
        negatives = [n for n in range(B) if label[n] != label[a]]
        if mining == "hard":
            positives, negatives = [max(positives, key=lambda p: distance_BB[a, p])], [min(negatives, key=lambda n: distance_BB[a, n])]
        chosen += [(a, p, n) for p, n in itertools.product(positives, negatives)]
    return chosen


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("mining", ["hard", "all"])
def test_the_formula(mining: str, margin: float) -> None:
    """The value is the mean over violating triplets of the squared distances' difference plus margin, in loops and as torch has it."""
    feature_BC, weight_KC = features()
    unit_BC = feature_BC.detach() / feature_BC.detach().norm(dim=1, keepdim=True)
    distance_BB = (unit_BC[:, None] - unit_BC[None]).square().sum(2).numpy()
    chosen = triplets(distance_BB, mining)
    values = np.array([distance_BB[a, p] - distance_BB[a, n] + margin for a, p, n in chosen])
    violating = values[values > 0]
    value = losses.create("triplet", mining=mining, margin=margin)(inputs(feature_BC, weight_KC, LABEL_B))
    assert value.item() == pytest.approx(violating.mean(), rel=1e-9)
    if margin > 0:  # torch refuses 0
        a, p, n = (list(part) for part in zip(*chosen, strict=True))
        torchs = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: (x - y).square().sum(1), margin=margin, reduction="sum")
        torch.testing.assert_close(value * len(violating), torchs(unit_BC[a], unit_BC[p], unit_BC[n]))


@pytest.mark.parametrize("mining", ["hard", "all"])
def test_gradient(mining: str) -> None:
    """The gradient is that of finite differences."""
    feature_BC, weight_KC = features()
    loss = losses.create("triplet", mining=mining)
    assert torch.autograd.gradcheck(lambda f: loss(inputs(f, weight_KC, LABEL_B)), feature_BC)


@pytest.mark.parametrize("mining", ["hard", "all"])
@pytest.mark.parametrize("label_B", [torch.arange(B), torch.zeros(B, dtype=torch.long)], ids=["no positives", "no negatives"])
def test_a_batch_without_triplets_gives_zero(label_B: torch.Tensor, mining: str) -> None:
    """Without a positive or without a negative pair the loss is 0, with a zero gradient."""
    feature_BC, weight_KC = features()
    value = losses.create("triplet", mining=mining)(inputs(feature_BC, weight_KC, label_B))
    value.backward()
    assert value == 0
    assert feature_BC.grad.eq(0).all()


@pytest.mark.parametrize("mining", ["hard", "all"])
def test_features_that_coincide(mining: str) -> None:
    """Where all features are equal, or all zero, each triplet violates by the margin alone and the gradient is finite."""
    for feature_BC in (torch.ones(B, C), torch.zeros(B, C)):
        feature_BC.requires_grad_()
        value = losses.create("triplet", mining=mining, margin=0.3)(inputs(feature_BC, torch.zeros(4, C), LABEL_B))
        value.backward()
        assert value.item() == pytest.approx(0.3, rel=1e-5)
        assert feature_BC.grad.abs().max() < 10


def test_precision_and_descent() -> None:
    """bfloat16 features under autocast are computed in float32, and a few steps lower the loss."""
    under_autocast_as_in_float32("triplet")
    first, last = descent(losses.create("triplet"), lr=0.5)
    assert last < 0.8 * first


def test_what_it_fits_with() -> None:
    """It needs one label an image and does not teach the classifier."""
    assert losses.supports(["ce", "cam", "triplet"]) == (True, "")
    assert losses.supports(["ce", "triplet"], ["mixup"]) == (False, "triplet needs one label an image, but mixup mixes labels")
    assert not losses.registry.get("triplet").factory.trains_classifier


@pytest.mark.parametrize("margin", [-0.1, 4.1])
def test_bad_options(margin: float) -> None:
    """A margin out of range is named with what was given, and an unknown word with those that are known."""
    with pytest.raises(ValueError, match=rf"margin must be in \[0, 4\].*got {margin}"):
        losses.create("triplet", margin=margin)
    with pytest.raises(UnknownNameError, match=r"Unknown mining 'semi' in loss 'triplet'.*Known: all, hard"):
        losses.create("triplet", mining="semi")
