"""DenseNet-BC for small images: depth L, growth rate k, bottlenecks, compression 0.5 (Huang et al., CVPR 2017)."""

from __future__ import annotations

from pipeline.models import register
from pipeline.models.backbone import Backbone, check_dropout
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_in, needed_by, set_in_channels

# (depth 6n + 4, growth rate)
SIZES = ((10, 8), (10, 12), (16, 8), (16, 12), (22, 8), (22, 12), (40, 12), (100, 12), (190, 40), (250, 24))


def _register(depth: int, growth: int) -> None:
    name = f"densenet_bc_{depth}_{growth}"

    @register(name, label=f"DenseNet-BC-{depth}-{growth}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A DenseNet-BC of this depth and growth rate.

        Args:
            num_classes: K.
            in_channels: channels of the image.
            dropout: probability with which new features are dropped after each dense layer.
        """
        with needed_by(name):
            from torchdistill.models.classification.densenet import DenseNet4Cifar
        blocks = ((depth - 4) // 6,) * 3
        network = DenseNet4Cifar(growth, blocks, 2 * growth, drop_rate=check_dropout(dropout), num_classes=num_classes)
        set_in_channels(network, in_channels, kaiming_fan_in)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier)


for _depth, _growth in SIZES:
    _register(_depth, _growth)
