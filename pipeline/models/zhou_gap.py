"""AlexNet, VGG and GoogLeNet made fit for class activation maps as in the paper that introduced these, as `<torchvision name>_gap`.

Zhou et al. ("Learning Deep Features for Discriminative Localization", CVPR 2016, arXiv 1512.04150, section 3.1) remove the layers after
the last convolution of AlexNet and VGG (with the last max pooling) and after inception4e of GoogLeNet, and add a 3x3 convolution of
stride 1, padding 1 and 1024 units, global average pooling and one linear layer. At 224x224 the map is 13x13 for AlexNet and 14x14
for the others.

The added convolution is followed by ReLU, and by batch norm before it where the network's own convolutions have one.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

UNITS = 1024
VGGS = {11: "A", 13: "B", 16: "D", 19: "E"}  # depth -> torchvision's word for the configuration


def _vgg(depth: int, batch_norm: bool) -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    body = make_layers([*cfgs[VGGS[depth]][:-1], UNITS], batch_norm=batch_norm)
    for module in body:
        if isinstance(module, nn.Conv2d):
            kaiming_fan_out(module)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return body


def _alexnet() -> nn.Sequential:
    from torchvision.models import alexnet

    features = alexnet(weights=None).features
    return nn.Sequential(*features[:-1], nn.Conv2d(256, UNITS, 3, padding=1), nn.ReLU(inplace=True))


def _googlenet() -> nn.Sequential:
    from torchvision.models.googlenet import GoogLeNet
    from torchvision.ops import Conv2dNormActivation

    layers = nn.Sequential()
    for name, module in GoogLeNet(aux_logits=False, init_weights=True).named_children():
        layers.add_module(name, module)
        if name == "inception4e":
            break
    added = Conv2dNormActivation(832, UNITS, 3)
    nn.init.trunc_normal_(added[0].weight, std=0.01, a=-2.0, b=2.0)
    layers.add_module("cam", added)
    return layers


def _register(name: str) -> None:
    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A network of 2012 to 2015 with global average pooling."""
        with needed_by(name):
            import torchvision  # noqa: F401
        if name == "alexnet_gap":
            body, init = _alexnet(), nn.Conv2d.reset_parameters
        elif name == "googlenet_gap":
            body = _googlenet()
            init = lambda conv: nn.init.trunc_normal_(conv.weight, std=0.01, a=-2.0, b=2.0)  # noqa: E731
        else:
            body, init = _vgg(int(name[3:5]), "_bn" in name), kaiming_fan_out
        set_in_channels(body, in_channels, init)
        return Backbone(body, nn.Linear(UNITS, num_classes), dropout)


for _name in ("alexnet", "googlenet", *(f"vgg{depth}{norm}" for depth in VGGS for norm in ("", "_bn"))):
    _register(f"{_name}_gap")
