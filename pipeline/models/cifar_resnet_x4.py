"""ResNets for small images with four times the channels: stages of 64, 128 and 256 after a stem of 32.

Teachers and students of the distillation literature, which calls them resnet8x4 and resnet32x4 (Tian et al., "Contrastive
Representation Distillation", ICLR 2020, arXiv 1910.10699, and its code RepDistiller).
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import needed_by
from pipeline.models.small_residual import residual_body

DEPTHS = (8, 14, 20, 32)  # 6n + 2


def _register(depth: int) -> None:
    name = f"resnet{depth}x4"

    @register(name, label=f"ResNet-{depth}x4")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A ResNet of this depth with four times the channels."""
        with needed_by(name):
            from torchvision.models.resnet import BasicBlock
        body = residual_body(BasicBlock, (depth - 2) // 6, in_channels=in_channels, stem=32, planes=(64, 128, 256))
        return Backbone(body, nn.Linear(256, num_classes), dropout)


for _depth in DEPTHS:
    _register(_depth)
