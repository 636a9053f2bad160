"""torchvision's CNNs that end in global average pooling and one linear layer, under their torchvision names, weights from scratch.

The lists are written out so that the names are known where torchvision is not installed; a test compares them with what
`pipeline.models.cut` makes of torchvision's own list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.models import register, register_unsupported
from pipeline.models.backbone import Backbone
from pipeline.models.cut import cut
from pipeline.models.library_net import kaiming_fan_in, kaiming_fan_out, needed_by, set_in_channels

# fmt: off
SUPPORTED = (
    "densenet121", "densenet161", "densenet169", "densenet201",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
    "googlenet", "inception_v3",
    "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2",
    "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf",
    "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf",
    "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "wide_resnet50_2", "wide_resnet101_2",
)
UNSUPPORTED = {  # reason -> names
    "has hidden linear layers after its pooling, so its class activation map is undefined": (
        "alexnet", "mobilenet_v3_large", "mobilenet_v3_small",
        "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    ),
    "has a layer norm between its pooling and its linear classifier, so its logits are no mean of class activation maps": (
        "convnext_tiny", "convnext_small", "convnext_base", "convnext_large",
    ),
    "has no linear classifier: it pools the outputs of a convolution and a ReLU, so its class activation map is undefined": (
        "squeezenet1_0", "squeezenet1_1",
    ),
    "is a transformer, not a CNN; class activation maps are studied for CNNs only": (
        "maxvit_t", "swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b",
        "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14",
    ),
}
# fmt: on


def _init_of(name: str) -> Callable[[nn.Conv2d], object]:
    """The scheme by which torchvision fills the first convolution of this network."""
    if name.startswith("densenet"):
        return kaiming_fan_in
    if name.startswith("shufflenet"):
        return nn.Conv2d.reset_parameters
    if name in ("googlenet", "inception_v3"):
        std = 0.01 if name == "googlenet" else 0.1
        return lambda conv: nn.init.trunc_normal_(conv.weight, mean=0.0, std=std, a=-2.0, b=2.0)
    return kaiming_fan_out


def _register(name: str) -> None:
    # the auxiliary heads of the two Inceptions are no part of the network at test time and have no class activation map
    special: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}

    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float | None = None) -> Backbone:
        """A torchvision CNN.

        Args:
            num_classes: K.
            in_channels: channels of the image.
            dropout: probability with which pooled features are dropped; None keeps the network's own.
        """
        with needed_by(name):
            import torchvision
        network = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **special)
        set_in_channels(network, in_channels, _init_of(name))
        body, classifier, own_dropout = cut(network, name)
        return Backbone(body, classifier, own_dropout if dropout is None else dropout)


for _name in SUPPORTED:
    _register(_name)
for _reason, _names in UNSUPPORTED.items():
    for _name in _names:
        _variant = "" if "transformer" in _reason else f"; {_name}_gap is a variant with plain pooling and one linear layer"
        register_unsupported(_name, f"{_name} {_reason}{_variant}")
