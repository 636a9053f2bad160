"""What `ablate models` says of a backbone is true of the network."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pipeline import models
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.models.backbone import num_parameters
from pipeline.models.describe import describe, families, family, match, reasons


@pytest.mark.parametrize(
    ("name", "size", "channels", "classes"), [("resnet8", 32, 3, 10), ("vgg8_cifar", 24, 1, 7), ("timm_resnet10t", 64, 3, 5)]
)
def test_numbers_are_those_of_the_network(name: str, size: int, channels: int, classes: int) -> None:
    """Parameters, feature map and stages are those of the network with weights."""
    found = describe(name, size=size, in_channels=channels, num_classes=classes)
    net = models.create(name, num_classes=classes, in_channels=channels).eval()
    with torch.no_grad():
        feature_map_BCHW = net.forward_features(torch.zeros(1, channels, size, size))
    assert found.parameters == num_parameters(net)
    assert found.feature_map == tuple(feature_map_BCHW.shape[1:])
    assert found.stages == len(net.stage_points())
    assert (found.reason, found.problem) == ("", "")


@pytest.mark.parametrize("size", [32, 20])
def test_multiply_adds_are_those_of_convolutions_and_classifier(size: int) -> None:
    """For resnet8 the count is the sum over layers of kernel area x channels in x channels out x positions."""
    first, second, third = size**2, (size // 2) ** 2, (size // 4) ** 2
    stem = 9 * 3 * 16 * first
    stages = 2 * 9 * 16 * 16 * first + (9 * 16 + 9 * 32 + 16) * 32 * second + (9 * 32 + 9 * 64 + 32) * 64 * third
    assert describe("resnet8", size=size, num_classes=10).multiply_adds == stem + stages + 64 * 10


@pytest.mark.parametrize(
    ("name", "library"),
    [("resnet8", "torchdistill"), ("preresnet20", "torchdistill"), ("resnet8x4", "torchvision"), ("se_resnet20", "torchvision"),
     ("alexnet_gap", "torchvision"), ("resnet18", "torchvision"), ("timm_resnet10t", "timm")],
)  # fmt: skip
def test_the_library_is_named(name: str, library: str) -> None:
    """The library is the one whose layers or networks the file uses."""
    assert describe(name, size=64).library == library


def test_an_image_that_is_too_small_is_a_problem_and_no_error() -> None:
    """A network that needs more pixels has no feature map and no count, but its size, stages and the reason."""
    found = describe("inception_v3", size=32)
    assert found.feature_map is None
    assert found.multiply_adds is None
    assert found.problem.startswith("no 32x32 images: ")
    assert found.parameters == num_parameters(models.create("inception_v3", num_classes=10))
    assert describe("inception_v3", size=96).problem == ""


def test_an_unsupported_network_has_its_reason_only() -> None:
    """Nothing is counted for a network without class activation maps."""
    found = describe("vgg16")
    assert found.reason == models.unsupported()["vgg16"]
    assert found.parameters is None
    assert found.feature_map is None


def test_options_change_the_network_described() -> None:
    """Options reach the factory and are shown; an unknown one is refused."""
    assert describe("se_resnet20", reduction=4).parameters > describe("se_resnet20").parameters
    assert describe("se_resnet20", reduction=4).options == {"dropout": 0.0, "reduction": 4}
    with pytest.raises(ConfigError, match="Unknown option 'width'"):
        describe("resnet8", width=2)


def test_describing_draws_no_random_numbers() -> None:
    """torch's generator is left alone."""
    before = torch.get_rng_state()
    describe("resnet8")
    describe("timm_resnet10t")
    assert torch.equal(torch.get_rng_state(), before)


def test_families_hold_every_name_once() -> None:
    """The families together are all backbones; timm's are told apart by timm's own files."""
    assert sorted(name for names in families().values() for name in names) == models.names()
    assert family("resnet8") == "cifar_resnet"
    assert family("timm_resnet10t") == "timm_cnn: resnet"


def test_families_need_no_library() -> None:
    """Listing families imports neither timm nor torchvision nor torchdistill."""
    code = (
        "import sys; from pipeline.models.describe import families; families(); "
        "found = {n.partition('.')[0] for n in sys.modules} & {'torchvision', 'torchdistill', 'timm'}; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_patterns() -> None:
    """A full name means itself, a part of a name all that contain it, a shape all of that shape."""
    assert match("resnet8") == ["resnet8"]
    assert match("vgg16") == ["vgg16"]
    assert match("ResNet8") == ["resnet8"]
    assert match("VGG16") == ["vgg16"]
    assert match("RESNET?") == ["resnet8"]
    assert match("VGG8") == match("vgg8") == ["vgg8_cifar"]
    assert match("resnet?") == ["resnet8"]
    assert match("vgg1[13]_cifar") == ["vgg11_cifar", "vgg13_cifar"]
    assert set(reasons("vgg16")) == {"vgg16", "vgg16_bn"} | {name for name in models.unsupported() if "vgg16" in name}
    assert reasons() == models.unsupported()


def test_a_pattern_that_means_nothing_gives_the_nearest_name() -> None:
    """A mistyped name is answered with a near one, among the supported or among the others."""
    with pytest.raises(UnknownNameError, match=r"Unknown backbone 'resnte18'\. Did you mean 'resnet18'\?"):
        match("resnte18")
    with pytest.raises(UnknownNameError, match="Did you mean 'swin_t'"):
        reasons("swim_t")
