"""What a library's network needs before it is cut: the library itself, and a first convolution for grey images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from pipeline import registry


def needed_by(backbone: str) -> AbstractContextManager[None]:
    """Around the import of a library, see `registry.needed_by`."""
    return registry.needed_by(f"backbone {backbone!r}")


def set_in_channels(network: nn.Module, in_channels: int, init: Callable[[nn.Conv2d], object]) -> None:
    """Make the first convolution take `in_channels` channels; one that does so already keeps its weights.

    Args:
        network: its first `nn.Conv2d`, in the order of definition, is the one that sees the image.
        in_channels: channels of the image.
        init: fills the new weight by the scheme with which the network filled the old one.
    """
    conv = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if conv.in_channels == in_channels:
        return
    assert conv.groups == 1, "a grouped first convolution cannot take another number of channels"
    out_channels, _, *kernel = conv.weight.shape
    conv.in_channels = in_channels
    conv.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
    init(conv)


def kaiming_fan_out(conv: nn.Conv2d) -> None:
    """Normal with variance 2 / (out_channels x kernel area): residual networks (He et al., ICCV 2015)."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def kaiming_fan_in(conv: nn.Conv2d) -> None:
    """Normal with variance 2 / (in_channels x kernel area): DenseNets."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
