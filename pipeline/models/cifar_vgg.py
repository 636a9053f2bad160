"""VGG for small images with batch norm, global average pooling and one linear layer, as `vgg<depth>_cifar`.

The students and teachers vgg8 and vgg13 of the distillation literature (RepDistiller), and the other depths by the same rule: the five
groups of 3x3 convolutions of Simonyan & Zisserman (ICLR 2015, arXiv 1409.1556) with max pooling after the first three only, so
a 32x32 image gives a 4x4 map of 512 channels. The convolutions are torchvision's `make_layers`.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions a group
CHANNELS = (64, 128, 256, 512, 512)
POOLED = 3  # groups with max pooling behind


def _register(depth: int, groups: tuple[int, ...]) -> None:
    name = f"vgg{depth}_cifar"

    @register(name, label=f"VGG-{depth}")
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A VGG for small images."""
        with needed_by(name):
            from torchvision.models.vgg import make_layers
        plan: list[str | int] = []
        for index, (convolutions, channels) in enumerate(zip(groups, CHANNELS, strict=True)):
            plan += [channels] * convolutions + (["M"] if index < POOLED else [])
        body = make_layers(plan, batch_norm=True)
        for module in body:
            if isinstance(module, nn.Conv2d):
                init_conv(module)
        set_in_channels(body, in_channels, kaiming_fan_out)
        classifier = nn.Linear(CHANNELS[-1], num_classes)
        nn.init.normal_(classifier.weight, 0.0, 0.01)
        nn.init.zeros_(classifier.bias)
        return Backbone(body, classifier, dropout)


def init_conv(conv: nn.Conv2d) -> None:
    """As torchvision fills the convolutions of VGG."""
    kaiming_fan_out(conv)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


for _depth, _groups in DEPTHS.items():
    _register(_depth, _groups)
