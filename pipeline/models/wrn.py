"""Wide residual networks WRN-D-k for small images: depth D, widening factor k (Zagoruyko & Komodakis, BMVC 2016)."""

from __future__ import annotations

from pipeline.models import register
from pipeline.models.backbone import Backbone, check_dropout
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

# (depth 6n + 4, widening factor)
SIZES = ((10, 1), (10, 2), (16, 1), (16, 2), (16, 4), (16, 8), (28, 2), (28, 4), (28, 10), (40, 1), (40, 2), (40, 4))


def _register(depth: int, width: int) -> None:
    name = f"wrn_{depth}_{width}"

    @register(name, label=f"WRN-{depth}-{width}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A WRN of this depth and width.

        Args:
            num_classes: K.
            in_channels: channels of the image.
            dropout: probability with which activations between the two convolutions of each block are dropped.
        """
        with needed_by(name):
            from torchdistill.models.classification.wide_resnet import WideBasicBlock, WideResNet4Cifar
        network = WideResNet4Cifar(depth, width, check_dropout(dropout), WideBasicBlock, num_classes)
        set_in_channels(network, in_channels, kaiming_fan_out)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier)


for _depth, _width in SIZES:
    _register(_depth, _width)
