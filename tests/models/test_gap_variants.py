"""Variants with global average pooling of torchvision's networks that have none: the paper's resolutions, and torchvision's own outputs.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.models import plain_head, zhou_gap
from pipeline.models.backbone import Backbone, num_parameters
from pipeline.models.weightless import Weightless

ZHOU = [name for name in models.names() if models.registry.get(name).module == "pipeline.models.zhou_gap"]


def weightless(name: str, num_classes: int = 1000) -> Backbone:
    with Weightless():
        return models.create(name, num_classes=num_classes).to("meta").eval()


def test_every_variant_is_of_a_torchvision_network() -> None:
    """The part of the name before '_gap' is torchvision's."""
    import torchvision

    known = set(torchvision.models.list_models(module=torchvision.models))
    assert {name.removesuffix("_gap") for name in ZHOU} < known
    assert {*plain_head.CONVNEXTS, *plain_head.MOBILENETS, *plain_head.SQUEEZENETS} < known


@pytest.mark.parametrize("name", ZHOU)
def test_resolutions_are_the_papers(name: str) -> None:
    """At 224x224 the map has 1024 channels and 13x13 positions for AlexNet, 14x14 for VGG and GoogLeNet (Zhou et al., section 3.1)."""
    side = 13 if name == "alexnet_gap" else 14
    assert tuple(weightless(name).forward_features(torch.empty(1, 3, 224, 224, device="meta")).shape) == (1, 1024, side, side)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", ["", "_bn"])
def test_vgg_keeps_all_convolutions(depth: int, norm: str) -> None:
    """Parameters are torchvision's less its three linear layers, plus the added convolution and the classifier."""
    import torchvision

    stated = torchvision.models.get_model_weights(f"vgg{depth}{norm}").DEFAULT.meta["num_params"]
    hidden = (512 * 49 + 1) * 4096 + 4097 * 4096 + 4097 * 1000
    added = (512 * 9 + 1) * 1024 + (2 * 1024 if norm else 0) + 1025 * 1000
    assert num_parameters(weightless(f"vgg{depth}{norm}_gap")) == stated - hidden + added


def test_vgg_is_torchvision_up_to_the_last_convolution() -> None:
    """With torchvision's weights the body gives its features before the last max pooling, sent through the added convolution."""
    import torchvision

    torch.manual_seed(0)
    oracle = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)[:-1].eval()
    net = models.create("vgg11_bn_gap", num_classes=3).eval()
    kept = len(oracle)
    net.body[:kept].load_state_dict(oracle.state_dict())
    image_BCHW = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        expected = net.body[kept:](oracle(image_BCHW))
        torch.testing.assert_close(net.forward_features(image_BCHW), expected)
    assert [type(m) for m in net.body[kept:]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert (net.body[kept].kernel_size, net.body[kept].stride, net.body[kept].padding) == ((3, 3), (1, 1), (1, 1))


def test_alexnet_and_googlenet_end_where_the_paper_cuts() -> None:
    """AlexNet keeps five convolutions, GoogLeNet all up to inception4e; each gets one more."""
    convolutions = [m for m in weightless("alexnet_gap").modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 192, 384, 256, 256, zhou_gap.UNITS]
    names = [name for name, _ in weightless("googlenet_gap").body.named_children()]
    assert names[-2:] == ["inception4e", "cam"]
    assert names[0] == "conv1"


@pytest.mark.parametrize("name", plain_head.CONVNEXTS[:1])
def test_convnext_norms_before_pooling(name: str) -> None:
    """On a map of one position the order of norm and pooling does not matter: there the variant gives torchvision's logits."""
    import torchvision

    torch.manual_seed(0)
    oracle = torchvision.models.get_model(name, num_classes=4).eval()
    net = models.create(f"{name}_gap", num_classes=4).eval()
    net.load_state_dict(dict(zip(net.state_dict(), oracle.state_dict().values(), strict=True)))
    image_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert net.forward_features(image_BCHW).shape[2:] == (1, 1)
        torch.testing.assert_close(net(image_BCHW), oracle(image_BCHW), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(net(torch.ones(1, 3, 64, 64).triu()), oracle(torch.ones(1, 3, 64, 64).triu()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", plain_head.CONVNEXTS)
def test_convnext_keeps_its_size(name: str) -> None:
    """Moving a norm changes no number of parameters."""
    import torchvision

    assert num_parameters(weightless(f"{name}_gap")) == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize("name", plain_head.SQUEEZENETS)
def test_squeezenet_without_its_last_relu(name: str) -> None:
    """The last 1x1 convolution as a linear layer after the pooling: torchvision's logits without the ReLU, from as many parameters."""
    import torchvision

    torch.manual_seed(0)
    oracle = torchvision.models.get_model(name, num_classes=6).eval()
    net = models.create(f"{name}_gap", num_classes=6).eval()
    values = oracle.state_dict().values()
    net.load_state_dict({key: value.reshape(own.shape) for (key, own), value in zip(net.state_dict().items(), values, strict=True)})
    oracle.classifier[2] = nn.Identity()
    image_BCHW = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(net(image_BCHW), oracle(image_BCHW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "channels", "hidden"), [("mobilenet_v3_small", 576, 1024), ("mobilenet_v3_large", 960, 1280)])
def test_mobilenet_v3_without_its_hidden_layer(name: str, channels: int, hidden: int) -> None:
    """Parameters are torchvision's less the hidden layer and its wider classifier, plus the new one."""
    import torchvision

    stated = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    expected = stated - (channels + 1) * hidden - (hidden + 1) * 1000 + (channels + 1) * 1000
    assert num_parameters(weightless(f"{name}_gap")) == expected
