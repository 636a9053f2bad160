"""Every registered backbone keeps the contract of `pipeline.models.backbone.Backbone`; timm's hundreds in test_timm.py.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline import models
from pipeline.models import describe
from pipeline.models.backbone import Backbone, num_parameters
from pipeline.models.weightless import Weightless

K = 5
NAMES = [name for name in models.names() if not name.startswith("timm_")]
LARGE_IMAGES = {f"pipeline.models.{file}" for file in ("torchvision_cnn", "zhou_gap", "plain_head")}


@functools.cache
def weightless(name: str, in_channels: int = 3, num_classes: int = K) -> Backbone:
    with Weightless():
        return models.create(name, num_classes=num_classes, in_channels=in_channels).to("meta")


def size_of(name: str) -> tuple[int, int]:
    """A small image, higher than wide, that the network admits."""
    if name == "inception_v3":
        return 107, 75
    return (96, 64) if models.registry.get(name).module in LARGE_IMAGES else (28, 20)


# With real weights: all that are small, and one of those kinds that have no small one.
LARGER = {"vgg11_bn_gap", "convnext_tiny_gap", "googlenet_gap", "resnet18"}
DEEP = {"resnet110", "preresnet110", "se_resnet110"}  # as resnet56 and so on, for twice the time
AFFORDABLE = sorted(({name for name in NAMES if num_parameters(weightless(name, 1)) < 8e6} - DEEP) | LARGER)
FAMILIES = [
    "resnet8", "wrn_10_1", "densenet_bc_10_8", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "regnet_y_400mf",
    "preresnet20", "resnet8x4", "resnext29_2x16d", "se_resnet20", "shufflenet_v1_cifar", "mobilenet_v2_x0_5_cifar", "vgg8_cifar",
    "alexnet_gap", "squeezenet1_1_gap",
]  # fmt: skip


def test_every_family_is_tested_with_real_weights() -> None:
    """Each file that registers backbones has one among those that the tests give weights, and so has each kind of torchvision network."""
    for family, names in describe.families().items():
        assert family.startswith("timm_cnn") or set(names) & set(AFFORDABLE), family
    stems = (
        "resnet", "densenet1", "efficientnet", "googlenet", "mnasnet", "mobilenet_v2", "regnet_x", "regnet_y", "shufflenet_v2",
        "alexnet_gap", "googlenet_gap", "vgg", "convnext", "mobilenet_v3", "squeezenet",
    )  # fmt: skip
    for stem in stems:
        assert any(name.startswith(stem) for name in AFFORDABLE if models.registry.get(name).module in LARGE_IMAGES), stem


@pytest.mark.parametrize("name", AFFORDABLE)
def test_logits_are_the_spatial_mean_of_the_class_activation_map(name: str) -> None:
    """Averaging sum_c W_kc f_c over the map and adding the bias gives the logits, and the head leaves the feature map alone."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=K).eval()
    image_BCHW = torch.randn(2, 3, *size_of(name))
    with torch.no_grad():
        feature_map_BCHW = net.forward_features(image_BCHW)
        before_BCHW = feature_map_BCHW.clone()
        logits_BK = net.forward_head(feature_map_BCHW)
        cam_BKHW = torch.einsum("kc,bchw->bkhw", net.classifier_weight_KC, feature_map_BCHW)
        mean_BK = cam_BKHW.mean(dim=(2, 3)) + net.classifier.bias
        again_BK = net(image_BCHW)
    assert feature_map_BCHW.std() > 0
    assert logits_BK.shape == (2, K)
    scale = max(1.0, float(logits_BK.abs().max()))
    torch.testing.assert_close(mean_BK, logits_BK, rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(again_BK, logits_BK, rtol=0, atol=0)
    torch.testing.assert_close(feature_map_BCHW, before_BCHW, rtol=0, atol=0)


@pytest.mark.parametrize("name", AFFORDABLE)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """One backward pass reaches all parameters with finite gradients that are not all zero."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=K, in_channels=1)
    cross_entropy(net(torch.randn(4, 1, *size_of(name))), torch.arange(4)).backward()
    missing = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    # The only hidden unit of an excitation of 16 channels may be off for the whole batch.
    zero = [key for key, p in net.named_parameters() if p.grad is not None and not p.grad.any() and ".se.fc" not in key]
    assert not missing
    assert not zero


@pytest.mark.parametrize(("name", "in_channels"), [(name, 1) for name in NAMES] + [(name, n) for name in FAMILIES for n in (3, 5)])
def test_shapes_for_grey_colour_and_other_images(name: str, in_channels: int) -> None:
    """Any number of channels and any size gives feature_map_BCHW with the classifier's C, and logits_BK, in the largest networks too."""
    net = weightless(name, in_channels).eval()
    H, W = size_of(name)
    for rows, columns in ((H, W), (W + 16, H + 3)):
        feature_map_BCHW = net.forward_features(torch.empty(2, in_channels, rows, columns, device="meta"))
        assert feature_map_BCHW.dim() == 4
        assert feature_map_BCHW.shape[:2] == (2, net.classifier_weight_KC.shape[1])
        assert net.forward_head(feature_map_BCHW).shape == (2, K)
    assert net.classifier_weight_KC.shape[0] == K


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "densenet_bc_10_8"])
@pytest.mark.parametrize("size", [(24, 24), (28, 28), (32, 32), (17, 40)])
def test_small_networks_keep_a_quarter_of_the_resolution(name: str, size: tuple[int, int]) -> None:
    """Networks for small images return a map of a quarter of the rows and columns, also where the library pools 8x8."""
    rows, columns = size
    feature_map_BCHW = models.create(name, num_classes=K, in_channels=1).forward_features(torch.randn(2, 1, rows, columns))
    rounded = math.floor if name.startswith("densenet") else math.ceil  # 2x2 poolings against padded 3x3 convolutions of stride 2
    assert feature_map_BCHW.shape[2:] == (rounded(rows / 4), rounded(columns / 4))


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_weights(name: str) -> None:
    """Weights are a function of torch's global seed."""

    def state(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return models.create(name, num_classes=K, in_channels=1).state_dict()

    first, same, other = state(1), state(1), state(2)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_and_a_loaded_state_compute_the_same(name: str) -> None:
    """A deep copy (moving average, teacher) and a fresh network with the saved weights give the same logits."""
    torch.manual_seed(3)
    net = models.create(name, num_classes=K).eval()
    loaded = models.create(name, num_classes=K).eval()
    loaded.load_state_dict(net.state_dict())
    image_BCHW = torch.randn(2, 3, *size_of(name))
    with torch.no_grad():
        expected_BK = net(image_BCHW)
        torch.testing.assert_close(copy.deepcopy(net)(image_BCHW), expected_BK, rtol=0, atol=0)
        torch.testing.assert_close(loaded(image_BCHW), expected_BK, rtol=0, atol=0)


def test_training_mode_reaches_the_body() -> None:
    """train() and eval() switch batch norm and dropout inside the cut body."""
    torch.manual_seed(0)
    net = models.create("wrn_10_1", num_classes=K, dropout=0.5)
    image_BCHW = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(net(image_BCHW), net(image_BCHW))
        net.eval()
        assert torch.equal(net(image_BCHW), net(image_BCHW))
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "densenet_bc_10_8", "resnet18"])
def test_dropout_acts_in_training_only(name: str) -> None:
    """The option `dropout` makes training passes differ and leaves evaluation as it is."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=K, dropout=0.5)
    plain = models.create(name, num_classes=K, dropout=0.0)
    plain.load_state_dict(net.state_dict())
    image_BCHW = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net.eval()(image_BCHW), plain.eval()(image_BCHW))
        torch.manual_seed(1)
        assert not torch.allclose(net.train()(image_BCHW), plain.train()(image_BCHW), rtol=1e-3, atol=1e-3)


def test_torchvision_networks_keep_their_own_dropout() -> None:
    """Without the option, pooled features are dropped as torchvision does."""
    assert weightless("efficientnet_b0").dropout.p == pytest.approx(0.2)
    assert weightless("inception_v3").dropout.p == pytest.approx(0.5)
    assert weightless("resnet50").dropout.p == 0.0


# Sizes in millions as the papers print them, for 10 classes: He et al. 2016, table 6; Zagoruyko & Komodakis 2016, table 4;
# Huang et al. 2017, table 2.
PAPER_SIZES = {
    "resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7,
    "wrn_40_1": 0.6, "wrn_40_2": 2.2, "wrn_40_4": 8.9, "wrn_16_8": 11.0, "wrn_28_10": 36.5,
    "densenet_bc_100_12": 0.8, "densenet_bc_250_24": 15.3, "densenet_bc_190_40": 25.6,
}  # fmt: skip


@pytest.mark.parametrize(("name", "millions"), PAPER_SIZES.items())
def test_sizes_are_those_of_the_papers(name: str, millions: float) -> None:
    """The number of parameters is the one printed in the paper, to the paper's precision."""
    digits = len(str(millions).partition(".")[2])
    # torchdistill's residual networks have 1x1 shortcuts, at most 0.003 million more parameters than the paper's padding
    assert num_parameters(weightless(name, num_classes=10)) / 1e6 == pytest.approx(millions, abs=0.5 * 10**-digits + 0.003)


@pytest.mark.parametrize("name", [name for name in NAMES if models.registry.get(name).module == "pipeline.models.torchvision_cnn"])
def test_sizes_are_those_torchvision_states(name: str) -> None:
    """The number of parameters is the one in torchvision's weight metadata (the Inceptions: without auxiliary heads)."""
    import torchvision

    stated = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    if name == "inception_v3":
        stated -= num_parameters(torchvision.models.inception.InceptionAux(768, 1000))
    assert num_parameters(weightless(name, num_classes=1000)) == stated
