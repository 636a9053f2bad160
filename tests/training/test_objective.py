"""The weighted sum of loss terms."""

from __future__ import annotations

import pytest
import torch

from pipeline import losses
from pipeline.batch import LossInputs, Target
from pipeline.errors import UnknownNameError
from pipeline.training.objective import Objective


@pytest.fixture
def inputs() -> LossInputs:
    """A batch of 4 with 5 channels, 3x2 maps and 3 classes."""
    rng = torch.Generator().manual_seed(0)
    feature_map_BCHW, weight_KC = torch.randn(4, 5, 3, 2, generator=rng), torch.randn(3, 5, generator=rng)
    return LossInputs(feature_map_BCHW, feature_map_BCHW.mean((2, 3)) @ weight_KC.T, weight_KC, Target(torch.tensor([0, 1, 2, 0])))


def test_total_is_the_weighted_sum_of_active_terms(inputs: LossInputs) -> None:
    """A term counts from its start epoch on, with its weight and its own options; the terms themselves are reported unweighted."""
    objective = Objective({"ce": {"weight": 2.0}, "cam": {"weight": 0.5, "start_epoch": 3, "distance": "l2"}})
    ce, cam = losses.create("ce")(inputs), losses.create("cam", distance="l2")(inputs)
    before, after = objective(inputs, 2), objective(inputs, 3)
    assert list(before) == ["total", "ce"]
    torch.testing.assert_close(before["total"], 2 * ce)
    assert list(after) == ["total", "ce", "cam"]
    torch.testing.assert_close(after["total"], 2 * ce + 0.5 * cam)
    torch.testing.assert_close(after["cam"], cam)


def test_defaults_are_weight_one_from_the_start(inputs: LossInputs) -> None:
    """A term without settings has weight 1 and is active in the first epoch."""
    values = Objective({"ce": {}, "cam": {}})(inputs, 0)
    torch.testing.assert_close(values["total"], values["ce"] + values["cam"])


def test_an_unknown_term_is_named() -> None:
    """A loss that nobody registered fails when the objective is made, not at the first step."""
    with pytest.raises(UnknownNameError, match="Unknown loss 'camm'"):
        Objective({"ce": {}, "camm": {}})


def test_a_ramp_rises_linearly_from_the_start_epoch(inputs: LossInputs) -> None:
    """With start 2 and ramp 4 the weight is a quarter, a half, three quarters and then all of it."""
    objective = Objective({"ce": {}, "cam": {"weight": 2.0, "start_epoch": 2, "ramp_epochs": 4}})
    weights = [next(term for term in objective.terms if term.name == "cam").weight_at(epoch) for epoch in range(8)]
    assert weights == [0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    values = objective(inputs, 3)
    torch.testing.assert_close(values["total"], values["ce"] + 1.0 * values["cam"])
