"""ResNeXt-29 for small images: cardinality and width of each group (Xie et al., CVPR 2017, arXiv 1611.05431, section 5.3).

Three stages of three bottlenecks with 256, 512 and 1024 output channels after a stem of 64.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import needed_by
from pipeline.models.small_residual import residual_body

SIZES = ((2, 16), (4, 32), (8, 64), (16, 64))  # (groups, channels of a group in the first stage); the paper has the last two


def _register(groups: int, width: int) -> None:
    name = f"resnext29_{groups}x{width}d"

    @register(name, label=f"ResNeXt-29-{groups}x{width}d")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A ResNeXt-29 of this cardinality and width."""
        with needed_by(name):
            from torchvision.models.resnet import Bottleneck
        body = residual_body(Bottleneck, 3, in_channels=in_channels, stem=64, planes=(64, 128, 256), groups=groups, base_width=width)
        return Backbone(body, nn.Linear(1024, num_classes), dropout)


for _groups, _width in SIZES:
    _register(_groups, _width)
