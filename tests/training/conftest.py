"""A network small enough for gradients and weights to be checked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.models.backbone import Backbone


@pytest.fixture(scope="session")
def make_net() -> Callable[..., Backbone]:
    """Factory of a network with one convolution, batch norm and 3 classes for grey images."""

    def make(seed: int = 0, channels: int = 4, classes: int = 3) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = nn.Sequential(nn.Conv2d(1, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU())
            return Backbone(body, nn.Linear(channels, classes))

    return make
