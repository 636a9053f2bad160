"""ResNets for small images with batch norm and ReLU before each convolution (He et al., ECCV 2016, arXiv 1603.05027).

A wide residual network of widening factor 1 is this network, so it is torchdistill's WRN. That family counts the two 1x1
convolutions in the shortcuts as layers, so PreResNet-20 is WRN-22-1. The blocks are basic ones (two 3x3 convolutions) at every depth.
"""

from __future__ import annotations

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

DEPTHS = (20, 32, 44, 56, 110)  # 6n + 2


def _register(depth: int) -> None:
    name = f"preresnet{depth}"

    @register(name, label=f"PreResNet-{depth}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A pre-activation ResNet of this depth."""
        with needed_by(name):
            from torchdistill.models.classification.wide_resnet import WideBasicBlock, WideResNet4Cifar
        network = WideResNet4Cifar(depth + 2, 1, 0.0, WideBasicBlock, num_classes)
        set_in_channels(network, in_channels, kaiming_fan_out)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier, dropout)


for _depth in DEPTHS:
    _register(_depth)
