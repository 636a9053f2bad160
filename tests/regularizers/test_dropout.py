"""Dropout on pooled features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline import regularizers
from pipeline.batch import Batch
from pipeline.models.backbone import Backbone


def test_pooled_features_are_dropped_in_training_only() -> None:
    """In training each pooled feature is 0 with probability p, else scaled by 1 / (1 - p); in evaluation nothing is dropped."""
    features, draws = 8, 4000
    net = Backbone(nn.Identity(), nn.Linear(features, features, bias=False))
    nn.init.eye_(net.classifier.weight)
    regularizers.create("dropout", p=0.25).on_model(net)
    feature_map_BCHW = torch.ones(draws, features, 2, 3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        kept = net.train().forward_head(feature_map_BCHW)
        assert torch.equal(net.forward_features(feature_map_BCHW), feature_map_BCHW)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(net.eval().forward_head(feature_map_BCHW), torch.ones(draws, features))


def test_the_batch_is_left_alone(make_batch: Callable[..., Batch]) -> None:
    """Images and targets pass through unchanged, and nothing is drawn from the generator."""
    batch, rng = make_batch(), torch.Generator().manual_seed(0)
    state = rng.get_state()
    assert regularizers.create("dropout").on_batch(batch, rng) is batch
    assert torch.equal(rng.get_state(), state)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_p_is_a_probability(p: float) -> None:
    """Dropping nothing or everything is refused."""
    with pytest.raises(ValueError, match=rf"p must be in \(0, 1\), got {p}"):
        regularizers.create("dropout", p=p)
