"""Networks for small images: the resolution they keep, their sizes, and what they compute against the libraries' networks.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from pipeline import models
from pipeline.errors import ConfigError
from pipeline.models.backbone import Backbone, num_parameters
from pipeline.models.cifar_se_resnet import SEBlock
from pipeline.models.cifar_shufflenet_v1 import ShuffleUnit
from pipeline.models.small_residual import residual_body
from pipeline.models.weightless import Weightless

THREE_STAGES = {f"pipeline.models.cifar_{file}" for file in ("resnet", "preresnet", "resnet_x4", "resnext", "se_resnet")}
SMALL = [name for name in models.names() if models.registry.get(name).module.startswith("pipeline.models.cifar_")]


def weightless(name: str, num_classes: int, **options: int) -> Backbone:
    with Weightless():
        return models.create(name, num_classes=num_classes, **options).to("meta").eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_image_gives_a_map_and_not_a_point(name: str) -> None:
    """A 32x32 image gives 8x8 from the three-stage networks and 4x4 from the others; the distillation literature's MobileNetV2 2x2."""
    side = 8 if models.registry.get(name).module in THREE_STAGES else 2 if name == "mobilenet_v2_x0_5_cifar" else 4
    shape = weightless(name, 10).forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape
    assert tuple(shape[2:]) == (side, side)


def conv(k: int, c: int, out: int, groups: int = 1) -> int:
    """Parameters of a convolution without bias and the batch norm after it."""
    return k * k * c * out // groups + 2 * out


def basic_stages(n: int, stem: int, planes: tuple[int, ...], extra: int = 0) -> int:
    """Parameters of three stages of basic blocks, shortcuts with 1x1 convolution and batch norm; `extra` for each channel and block."""
    total, c = 0, stem
    for index, p in enumerate(planes):
        shortcut = conv(1, c, p) if index or c != p else 0
        total += conv(3, c, p) + conv(3, p, p) + shortcut + (n - 1) * 2 * conv(3, p, p)
        c = p
    return total + extra


@pytest.mark.parametrize("depth", [8, 14, 20, 32])
def test_resnet_x4_has_the_parameters_of_its_layers(depth: int) -> None:
    """The number of parameters is that of stem 32, stages 64, 128, 256 and the classifier."""
    expected = conv(3, 3, 32) + basic_stages((depth - 2) // 6, 32, (64, 128, 256)) + 257 * 100
    assert num_parameters(weightless(f"resnet{depth}x4", 100)) == expected


@pytest.mark.parametrize(("depth", "reduction"), [(20, 16), (56, 16), (110, 16), (20, 4)])
def test_se_resnet_has_the_parameters_of_its_layers(depth: int, reduction: int) -> None:
    """Each block adds two 1x1 convolutions with bias and C / r units between; otherwise it is the ResNet."""
    n = (depth - 2) // 6
    squeeze = sum(n * (2 * c * (c // reduction) + c + c // reduction) for c in (16, 32, 64))
    expected = num_parameters(weightless(f"resnet{depth}", 10)) + squeeze
    assert num_parameters(weightless(f"se_resnet{depth}", 10, reduction=reduction)) == expected


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_preresnet_has_the_parameters_of_its_layers(depth: int) -> None:
    """Every convolution has the batch norm before it, and one more stands before the pooling; all three stages begin with 1x1 shortcuts
    where the channels change."""
    n, total, c = (depth - 2) // 6, 3 * 16 * 9, 16
    for p in (16, 32, 64):
        total += 2 * c + 9 * c * p + 2 * p + 9 * p * p + (c * p if c != p else 0) + (n - 1) * 2 * (2 * p + 9 * p * p)
        c = p
    assert num_parameters(weightless(f"preresnet{depth}", 10)) == total + 2 * 64 + 65 * 10


@pytest.mark.parametrize(("groups", "width"), [(2, 16), (4, 32), (8, 64), (16, 64)])
def test_resnext_has_the_parameters_of_its_layers(groups: int, width: int) -> None:
    """Bottlenecks of width groups x width x 2^stage with outputs 256, 512, 1024."""
    total, c = conv(3, 3, 64), 64
    for stage, out in enumerate((256, 512, 1024)):
        inner = groups * width * 2**stage
        total += conv(1, c, out)
        for block in range(3):
            total += conv(1, c if block == 0 else out, inner) + conv(3, inner, inner, groups) + conv(1, inner, out)
        c = out
    assert num_parameters(weightless(f"resnext29_{groups}x{width}d", 10)) == total + 1025 * 10


# In millions, as printed: ResNeXt-29 in Xie et al. 2017, table 7, for 10 classes; bearpaw's ResNet-110 (basic blocks) likewise.
PRINTED = {"resnext29_8x64d": (34.4, 0.05), "resnext29_16x64d": (68.1, 0.1), "preresnet110": (1.7, 0.05)}


@pytest.mark.parametrize(("name", "printed"), PRINTED.items())
def test_sizes_are_those_printed(name: str, printed: tuple[float, float]) -> None:
    """The number of parameters is the printed one, to its precision."""
    assert num_parameters(weightless(name, 10)) / 1e6 == pytest.approx(printed[0], abs=printed[1])


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_vgg_has_the_parameters_of_its_layers(depth: int) -> None:
    """Convolutions with bias and batch norm, in groups of 64, 128, 256, 512, 512 channels, then one linear layer: `depth` layers in all, as
    VGG counts them with its three linear layers."""
    groups = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    assert sum(groups) == depth - 3
    total, c = 513 * 100, 3
    for convolutions, out in zip(groups, (64, 128, 256, 512, 512), strict=True):
        for _ in range(convolutions):
            total += conv(3, c, out) + out
            c = out
    assert num_parameters(weightless(f"vgg{depth}_cifar", 100)) == total


def test_shufflenet_v1_has_the_parameters_of_its_layers() -> None:
    """Stem of 24, units with a quarter of their channels inside, three groups except where the stem feeds in."""
    total, c = conv(1, 3, 24), 24
    for out, units in zip((240, 480, 960), (4, 8, 4), strict=True):
        for unit in range(units):
            own = out - c if unit == 0 else out
            into, hidden = (c if unit == 0 else out), own // 4
            total += conv(1, into, hidden, 1 if into == 24 else 3) + conv(3, hidden, hidden, hidden) + conv(1, hidden, own, 3)
        c = out
    assert num_parameters(weightless("shufflenet_v1_cifar", 100)) == total + 961 * 100


@pytest.mark.parametrize(
    ("name", "stem"),
    [("resnet18", 64 * 3 * 40), ("resnet152", 64 * 3 * 40), ("wide_resnet50_2", 64 * 3 * 40), ("resnext101_32x8d", 64 * 3 * 40),
     ("densenet121", 64 * 3 * 40), ("densenet161", 96 * 3 * 40), ("shufflenet_v2_x1_0", 24 * 3 * 8), ("shufflenet_v2_x2_0", 24 * 3 * 8),
     ("mobilenet_v2", 0)],
)  # fmt: skip
def test_only_the_stem_differs_from_torchvision(name: str, stem: int) -> None:
    """The small-image variant has torchvision's parameters less the weights of the smaller first kernel."""
    import torchvision

    stated = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert num_parameters(weightless(f"{name}_cifar", 1000)) == stated - stem


def test_the_mobilenet_of_the_distillation_literature() -> None:
    """Width 0.5 without rounding, expansion 6, 1280 channels at the end, ReLU nowhere capped."""
    total, c = conv(3, 3, 16), 16
    for t, out, n in ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)):
        for _ in range(n):
            total += (conv(1, c, t * c) if t > 1 else 0) + conv(3, t * c, t * c, t * c) + conv(1, t * c, out)
            c = out
    net = weightless("mobilenet_v2_x0_5_cifar", 100)
    assert num_parameters(net) == total + conv(1, c, 1280) + 1281 * 100
    assert not any(isinstance(module, nn.ReLU6) for module in net.modules())
    assert any(isinstance(module, nn.ReLU6) for module in weightless("mobilenet_v2_cifar", 100).modules())


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_residual_body_computes_what_the_libraries_compute(kind: str) -> None:
    """With the same weights, the stages give the feature map of torchdistill's ResNet and of torchvision's ResNeXt."""
    from torchdistill.models.classification.resnet import ResNet4Cifar
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    torch.manual_seed(0)
    if kind == "basic":
        body = residual_body(BasicBlock, 2, in_channels=3, stem=16, planes=(16, 32, 64))
        oracle: nn.Module = ResNet4Cifar(BasicBlock, [2, 2, 2])
        oracle.avgpool = nn.Identity()
    else:
        body = residual_body(Bottleneck, 2, in_channels=3, stem=64, planes=(64, 128, 256), groups=2, base_width=4)
        oracle = ResNet(Bottleneck, [2, 2, 2, 1], groups=2, width_per_group=4)
        oracle.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        oracle.maxpool = oracle.layer4 = oracle.avgpool = nn.Identity()
    oracle.fc = nn.Identity()
    body.load_state_dict(dict(zip(body.state_dict(), oracle.state_dict().values(), strict=True)))
    image_BCHW = torch.randn(2, 3, 12, 20)
    with torch.no_grad():
        expected = oracle.eval()(image_BCHW)
        torch.testing.assert_close(body.eval()(image_BCHW).flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_squeeze_and_excitation_weighs_the_channels() -> None:
    """The block's output is relu(shortcut + s * residual) with s = sigmoid(W2 relu(W1 mean(residual) + b1) + b2), in float64."""
    torch.manual_seed(0)
    block = SEBlock(4, 6, 2, nn.Conv2d(4, 6, 1, stride=2), reduction=3).double().eval()
    x_BCHW = torch.randn(3, 4, 6, 10, dtype=torch.float64)
    residual = block.bn2(block.conv2(relu(block.bn1(block.conv1(x_BCHW)))))
    w1, w2 = block.se.fc1.weight[:, :, 0, 0], block.se.fc2.weight[:, :, 0, 0]
    s_BC = torch.sigmoid(relu(residual.mean((2, 3)) @ w1.T + block.se.fc1.bias) @ w2.T + block.se.fc2.bias)
    expected = relu(block.shortcut(x_BCHW) + s_BC[:, :, None, None] * residual)
    torch.testing.assert_close(block(x_BCHW), expected)
    assert block.se.fc1.out_channels == 2


def test_a_shuffle_unit_mixes_its_groups() -> None:
    """A change in one input channel of a unit with stride 1 reaches every group of outputs; without the shuffle it would reach one."""
    torch.manual_seed(0)
    unit = ShuffleUnit(36, 36, 1).eval()
    x_BCHW = torch.randn(1, 36, 4, 4)
    other = x_BCHW.clone()
    other[:, 0] += 3.0
    with torch.no_grad():
        plain, changed = (unit.expand(unit.depthwise(_shuffled(unit, given))) for given in (x_BCHW, other))
    moved = (changed - plain).abs().amax((0, 2, 3))
    assert (moved.view(3, 12).amax(1) > 1e-6).all()


def test_a_shuffle_unit_of_stride_2_sets_its_pooled_input_beside() -> None:
    """The last channels of the output are the input, averaged over 3x3 with padding, through ReLU."""
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 12, 8, 6)
    with torch.no_grad():
        out_BCHW = ShuffleUnit(12, 36, 2).eval()(x_BCHW)
    assert out_BCHW.shape == (2, 36, 4, 3)
    torch.testing.assert_close(out_BCHW[:, 24:], relu(avg_pool2d(x_BCHW, 3, stride=2, padding=1)))


def _shuffled(unit: ShuffleUnit, x_BCHW: torch.Tensor) -> torch.Tensor:
    from torchvision.models.shufflenetv2 import channel_shuffle

    return channel_shuffle(unit.squeeze(x_BCHW), unit.groups)


def test_reduction_is_checked() -> None:
    """A reduction that leaves no meaning is refused, one larger than the channels leaves one unit."""
    with pytest.raises(ConfigError, match=r"backbone\.reduction of 'se_resnet20' must be >= 1, got 0"):
        models.create("se_resnet20", num_classes=2, reduction=0)
    units = {m.fc1.out_channels for m in weightless("se_resnet20", 2, reduction=1000).modules() if hasattr(m, "fc1")}
    assert units == {1}
