"""SE-ResNets for small images: ResNets of 16, 32 and 64 channels whose blocks weigh their channels.

Squeeze-and-excitation (Hu et al., CVPR 2018, arXiv 1709.01507) stands after the second batch norm of each block, before the sum. The
module is torchvision's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import needed_by
from pipeline.models.small_residual import residual_body

DEPTHS = (20, 32, 56, 110)  # 6n + 2


class SEBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation, sum with the shortcut.

    Args:
        in_channels: channels of the input.
        planes: channels of the output.
        stride: of the first convolution.
        shortcut: what brings the input to the shape of the output; None where they have one shape.
        reduction: channels for each hidden unit of the excitation, at least one unit.
    """

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int = 1, shortcut: nn.Module | None = None, *, reduction: int) -> None:
        super().__init__()
        from torchvision.ops import SqueezeExcitation

        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SqueezeExcitation(planes, max(1, planes // reduction))
        self.shortcut = shortcut or nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map of the next block."""
        out_BCHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        out_BCHW = self.se(self.bn2(self.conv2(out_BCHW)))
        return self.relu(out_BCHW + self.shortcut(x_BCHW))


def _register(depth: int) -> None:
    name = f"se_resnet{depth}"

    @register(name, label=f"SE-ResNet-{depth}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0, reduction: int = 16) -> Backbone:
        """An SE-ResNet of this depth.

        Args:
            num_classes: K.
            in_channels: channels of the image.
            dropout: probability with which pooled features are dropped.
            reduction: channels for each hidden unit of the excitation (r of the paper).

        Raises:
            ConfigError: a reduction below 1.
        """
        if reduction < 1:
            raise ConfigError(f"backbone.reduction of {name!r} must be >= 1, got {reduction}")
        with needed_by(name):
            import torchvision  # noqa: F401
        body: Any = residual_body(SEBlock, (depth - 2) // 6, in_channels=in_channels, stem=16, planes=(16, 32, 64), reduction=reduction)
        return Backbone(body, nn.Linear(64, num_classes), dropout)


for _depth in DEPTHS:
    _register(_depth)
