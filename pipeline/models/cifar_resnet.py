"""ResNets for small images: three stages of 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2).

The network is torchdistill's, with a 1x1 convolution in the shortcuts between stages where the paper pads with zeros
(option B instead of A), so it has a few more parameters.
"""

from __future__ import annotations

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

DEPTHS = (8, 14, 20, 32, 44, 56, 110)  # 6n + 2


def _register(depth: int) -> None:
    name = f"resnet{depth}"

    @register(name, label=f"ResNet-{depth}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A ResNet of this depth."""
        with needed_by(name):
            from torchdistill.models.classification.resnet import ResNet4Cifar
            from torchvision.models.resnet import BasicBlock
        network = ResNet4Cifar(BasicBlock, [(depth - 2) // 6] * 3, num_classes=num_classes)
        set_in_channels(network, in_channels, kaiming_fan_out)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier, dropout)


for _depth in DEPTHS:
    _register(_depth)
