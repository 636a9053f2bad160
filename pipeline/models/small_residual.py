"""Residual networks for small images out of torchvision's blocks: a 3x3 stem of stride 1 and stages that each halve the resolution."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from pipeline.models.library_net import kaiming_fan_out


def residual_body(block: Any, blocks: int, *, in_channels: int, stem: int, planes: tuple[int, ...], **options: Any) -> nn.Sequential:
    """Stem and stages; all stages after the first begin with stride 2. Maps image_BCHW to feature_map_BCHW.

    Args:
        block: torchvision's `BasicBlock` or `Bottleneck`, or one with the same signature.
        blocks: blocks in each stage.
        in_channels: channels of the image.
        stem: channels after the first convolution.
        planes: width of each stage; its output has `planes * block.expansion` channels.
        **options: of every block, e.g. groups.
    """
    head = (("conv", nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)), ("bn", nn.BatchNorm2d(stem)), ("relu", nn.ReLU(inplace=True)))
    layers: OrderedDict[str, nn.Module] = OrderedDict([("stem", nn.Sequential(OrderedDict(head)))])
    channels = stem
    for index, width in enumerate(planes):
        stride, out_channels = (1 if index == 0 else 2), width * block.expansion
        shortcut = None
        if stride != 1 or channels != out_channels:
            shortcut = nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels))
        first = block(channels, width, stride, shortcut, **options)
        layers[f"stage{index + 1}"] = nn.Sequential(first, *(block(out_channels, width, **options) for _ in range(blocks - 1)))
        channels = out_channels
    body = nn.Sequential(layers)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            kaiming_fan_out(module)
    return body
