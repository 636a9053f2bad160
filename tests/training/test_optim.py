"""Learning-rate schedules and optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.backbone import Backbone
from pipeline.study.trial_config import Optimizer, Schedule
from pipeline.training.optim import build_optimizer, lr_factor, set_lr


def factors(schedule: Schedule, *, steps_per_epoch: int, epochs: int) -> np.ndarray:
    return np.array(
        [lr_factor(s, steps_per_epoch=steps_per_epoch, epochs=epochs, schedule=schedule) for s in range(steps_per_epoch * epochs)]
    )


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    """Two epochs of warm-up with 5 steps each: 1/11, 2/11, ... 10/11, then 1."""
    seen = factors(Schedule(name="constant", warmup_epochs=2), steps_per_epoch=5, epochs=4)
    np.testing.assert_allclose(seen, [(s + 1) / 11 for s in range(10)] + [1.0] * 10)


def test_cosine_falls_from_one_to_almost_zero() -> None:
    """After the warm-up the factor is torch's CosineAnnealingLR over the remaining steps; the step after the last would be 0."""
    seen = factors(Schedule(name="cosine", warmup_epochs=1), steps_per_epoch=10, epochs=6)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    theirs = []
    for _ in range(50):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(seen[10:], theirs, atol=1e-9)
    assert seen[10] == 1
    assert seen[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 49 / 50)))
    assert lr_factor(60, steps_per_epoch=10, epochs=6, schedule=Schedule(name="cosine", warmup_epochs=1)) == pytest.approx(0, abs=1e-12)


def test_multistep_drops_at_shares_of_all_epochs() -> None:
    """Milestones at a half and three quarters of 8 epochs: 1 for four epochs, 0.1 for two, 0.01 for two."""
    seen = factors(Schedule(name="multistep", milestones=[0.5, 0.75], gamma=0.1), steps_per_epoch=3, epochs=8)
    np.testing.assert_allclose(seen, [1.0] * 12 + [0.1] * 6 + [0.01] * 6)


@given(
    st.builds(
        Schedule,
        name=st.sampled_from(["cosine", "multistep", "constant"]),
        warmup_epochs=st.floats(0, 3),
        milestones=st.lists(st.floats(0.01, 0.99), max_size=3).map(sorted),
        gamma=st.floats(0.01, 1),
    ),
    st.integers(1, 7),
    st.integers(3, 6),
)
def test_the_factor_is_a_share_and_peaks_once(schedule: Schedule, steps_per_epoch: int, epochs: int) -> None:
    """Every factor lies in [0, 1], the first is above 0, and after the warm-up it never rises."""
    seen = factors(schedule, steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert (seen >= 0).all()
    assert (seen <= 1).all()
    assert seen[0] > 0
    after = seen[math.ceil(schedule.warmup_epochs * steps_per_epoch) :]
    assert (np.diff(after) <= 1e-12).all()


def test_sgd_takes_its_settings(make_net: Callable[..., Backbone]) -> None:
    """SGD gets learning rate, momentum, Nesterov and weight decay, over every trainable parameter and no frozen one."""
    net = make_net()
    net.body[0].bias.requires_grad_(False)
    optimizer = build_optimizer(list(net.parameters()), Optimizer(lr=0.3, momentum=0.8, nesterov=False, weight_decay=0.01))
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.SGD)
    assert {key: group[key] for key in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.3, "momentum": 0.8, "nesterov": False, "weight_decay": 0.01,
    }  # fmt: skip
    assert {id(p) for p in group["params"]} == {id(p) for name, p in net.named_parameters() if name != "body.0.bias"}


def test_adamw_takes_its_settings(make_net: Callable[..., Backbone]) -> None:
    """AdamW gets learning rate, both decays of its moments and weight decay."""
    optimizer = build_optimizer(list(make_net().parameters()), Optimizer(name="adamw", lr=1e-3, beta1=0.8, beta2=0.95, weight_decay=0.05))
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.8, 0.95), 0.05)


def test_one_nesterov_step_by_hand() -> None:
    """v = g + wd * w and w -= lr * (v + momentum * v): with w = 2, g = 3, wd = 0.5, lr = 0.1, momentum = 0.9 the step is 0.76."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 2.0)
    optimizer = build_optimizer(list(layer.parameters()), Optimizer(lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.5))
    set_lr(optimizer, 0.1)
    layer.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2 - 0.76)
