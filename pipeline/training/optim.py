"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.study.trial_config import Optimizer, Schedule


def build_optimizer(parameters: list[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """SGD with (Nesterov) momentum, or AdamW, over those parameters that are trained."""
    parameters = [p for p in parameters if p.requires_grad]
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.nesterov
    )


def lr_factor(step: int, *, steps_per_epoch: int, epochs: int, schedule: Schedule) -> float:
    """Learning rate at `step` as a share of the peak, in [0, 1].

    Warm-up rises linearly to 1 at `warmup_epochs`. After it, `cosine` falls as (1 + cos(pi t)) / 2 over the remaining steps
    (Loshchilov and Hutter, ICLR 2017, without restarts), `multistep` multiplies by gamma at each milestone (shares of all epochs).

    Args:
        step: optimisation step, counted from 0.
    """
    total, warmup = steps_per_epoch * epochs, schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))
    if schedule.name == "multistep":
        passed = sum(step >= milestone * total for milestone in schedule.milestones)
        return schedule.gamma**passed
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
