"""ShuffleNetV1 for small images (Zhang et al., CVPR 2018, arXiv 1707.01083), as the distillation literature has it (RepDistiller).

Three groups, stages of 240, 480 and 960 channels with 4, 8 and 4 units, after a 1x1 stem of 24 channels and stride 1 without pooling:
a 32x32 image gives a 4x4 map. Differs from the paper in the stem, and in a ReLU after the depthwise convolution too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import needed_by

STEM, STAGES, UNITS, GROUPS = 24, (240, 480, 960), (4, 8, 4), 3


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, depthwise 3x3 convolution, grouped 1x1 convolution, beside a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 1 adds the shortcut; 2 pools it and sets it beside the others, which then have `out_channels - in_channels` channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        from torchvision.ops import Conv2dNormActivation

        own = out_channels - (in_channels if stride == 2 else 0)
        hidden = own // 4
        self.groups = 1 if in_channels == STEM else GROUPS  # a group of the stem's 24 channels would have very few
        self.squeeze = Conv2dNormActivation(in_channels, hidden, 1, groups=self.groups)
        self.depthwise = Conv2dNormActivation(hidden, hidden, 3, stride, groups=hidden)
        self.expand = Conv2dNormActivation(hidden, own, 1, groups=GROUPS, activation_layer=None)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of the next unit."""
        from torchvision.models.shufflenetv2 import channel_shuffle

        own_BCHW = self.expand(self.depthwise(channel_shuffle(self.squeeze(x_BCHW), self.groups)))
        shortcut_BCHW = self.shortcut(x_BCHW)
        return torch.relu(torch.cat([own_BCHW, shortcut_BCHW], dim=1) if self.stride == 2 else own_BCHW + shortcut_BCHW)


@register("shufflenet_v1_cifar", label="ShuffleNetV1")
def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
    """A ShuffleNetV1 for small images."""
    with needed_by("shufflenet_v1_cifar"):
        from torchvision.ops import Conv2dNormActivation
    layers: list[nn.Module] = [Conv2dNormActivation(in_channels, STEM, 1)]
    channels = STEM
    for out_channels, units in zip(STAGES, UNITS, strict=True):
        first = ShuffleUnit(channels, out_channels, 2)
        layers.append(nn.Sequential(first, *(ShuffleUnit(out_channels, out_channels, 1) for _ in range(units - 1))))
        channels = out_channels
    return Backbone(nn.Sequential(*layers), nn.Linear(channels, num_classes), dropout)
