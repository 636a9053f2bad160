"""torchvision CNNs whose head has more than pooling and one linear layer, with a plain one, as `<torchvision name>_gap`.

ConvNeXt: the layer norm between pooling and classifier moves before the pooling, where it norms each position. MobileNetV3: the hidden
layer after the pooling goes. SqueezeNet: the ReLU after the last 1x1 convolution goes, which makes it the linear
classifier. These are other networks than their namesakes: their published accuracies do not apply.
"""

from __future__ import annotations

from torch import nn

from pipeline.models import register
from pipeline.models.backbone import Backbone
from pipeline.models.library_net import kaiming_fan_out, needed_by, set_in_channels

CONVNEXTS = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
MOBILENETS = ("mobilenet_v3_small", "mobilenet_v3_large")
SQUEEZENETS = ("squeezenet1_0", "squeezenet1_1")


def _register(library_name: str) -> None:
    name = f"{library_name}_gap"

    @register(name)
    def factory(*, num_classes: int, in_channels: int, dropout: float = 0.0) -> Backbone:
        """A torchvision CNN with a plain head."""
        with needed_by(name):
            import torchvision
        network = torchvision.models.get_model(library_name, weights=None, num_classes=num_classes)
        if library_name in CONVNEXTS:
            norm, _, last = network.classifier
            body, classifier = nn.Sequential(*network.features, norm), last
            init = _truncated
        elif library_name in MOBILENETS:
            body = network.features
            classifier = nn.Linear(network.classifier[0].in_features, num_classes)
            nn.init.normal_(classifier.weight, 0.0, 0.01)
            nn.init.zeros_(classifier.bias)
            init = kaiming_fan_out
        else:
            body, classifier = network.features, nn.Linear(512, num_classes)
            nn.init.normal_(classifier.weight, 0.0, 0.01)
            nn.init.zeros_(classifier.bias)
            init = _uniform
        set_in_channels(body, in_channels, init)
        return Backbone(body, classifier, dropout)


def _truncated(conv: nn.Conv2d) -> None:
    nn.init.trunc_normal_(conv.weight, std=0.02)


def _uniform(conv: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(conv.weight)


for _name in (*CONVNEXTS, *MOBILENETS, *SQUEEZENETS):
    _register(_name)
