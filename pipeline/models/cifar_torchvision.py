"""torchvision's CNNs with the stem changed for small images, as `<torchvision name>_cifar`.

ResNet, ResNeXt, wide ResNet, DenseNet: the 7x7 convolution of stride 2 becomes 3x3 of stride 1 and the max pooling after it goes (for
ResNets e.g. Chen et al., "A Simple Framework for Contrastive Learning", ICML 2020, arXiv 2002.05709, appendix B), so a 32x32
image gives a 4x4 map.

ShuffleNetV2: a 1x1 stem of stride 1 without pooling, as the distillation literature has it (RepDistiller), also 4x4.

MobileNetV2: `mobilenet_v2_cifar` has stride 1 in the stem and in the stage of 24 channels: 4x4. `mobilenet_v2_x0_5_cifar` is the
student of the distillation literature (RepDistiller): width 0.5 without rounding, ReLU, stride 2 in the stem, 1 in that stage: 2x2.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_in, kaiming_fan_out, needed_by, set_in_channels

RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2",
)  # fmt: skip
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
SHUFFLENETS = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")
# expansion, channels, blocks, stride of each stage: Sandler et al., CVPR 2018, table 2, with stride 1 at 24 channels
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _small_stem(network: nn.Module) -> None:
    """Change the stem of a torchvision network that has 3 input channels."""
    import torchvision

    if isinstance(network, torchvision.models.ResNet):
        network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()  # type: ignore[assignment]
        kaiming_fan_out(network.conv1)
    elif isinstance(network, torchvision.models.DenseNet):
        network.features.conv0 = nn.Conv2d(3, network.features.conv0.out_channels, 3, padding=1, bias=False)
        network.features.pool0 = nn.Identity()
        kaiming_fan_in(network.features.conv0)
    else:
        network.conv1[0] = nn.Conv2d(3, network.conv1[0].out_channels, 1, bias=False)  # type: ignore[operator,index]
        network.maxpool = nn.Identity()


def _register(library_name: str) -> None:
    name = f"{library_name}_cifar"
    init = kaiming_fan_out if library_name in RESNETS else kaiming_fan_in if library_name in DENSENETS else nn.Conv2d.reset_parameters

    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A torchvision CNN for small images."""
        with needed_by(name):
            import torchvision
        network = torchvision.models.get_model(library_name, weights=None, num_classes=num_classes)
        _small_stem(network)
        set_in_channels(network, in_channels, init)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier, dropout)


def _register_mobilenet_v2(name: str, width: float) -> None:
    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A MobileNetV2 for small images."""
        with needed_by(name):
            from torchvision.models import MobileNetV2
        setting = [list(stage) for stage in MOBILENET_V2]
        network = MobileNetV2(num_classes, width_mult=width, inverted_residual_setting=setting, round_nearest=1, dropout=0.0)
        if width == 1.0:
            network.features[0][0].stride = (1, 1)
        else:
            _relu_instead_of_relu6(network)
        set_in_channels(network, in_channels, kaiming_fan_out)
        body, classifier, _ = cut(network, name)
        return Backbone(body, classifier, dropout)


def _relu_instead_of_relu6(network: nn.Module) -> None:
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU6):
            network.set_submodule(path, nn.ReLU(inplace=True))


for _name in (*RESNETS, *DENSENETS, *SHUFFLENETS):
    _register(_name)
_register_mobilenet_v2("mobilenet_v2_cifar", 1.0)
_register_mobilenet_v2("mobilenet_v2_x0_5_cifar", 0.5)
