"""Backbones by name: what is known, what is supported, and what a user reads when a name or option is wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from pipeline import models
from pipeline.errors import ConfigError, IncompatibleError, UnknownNameError
from pipeline.models import torchvision_cnn
from pipeline.models.cut import cut
from pipeline.models.library_net import needed_by
from pipeline.models.weightless import Weightless

UNSUPPORTED = [name for names in torchvision_cnn.UNSUPPORTED.values() for name in names]
ALL_UNSUPPORTED = [name for name in models.registry.names() if name not in models.names()]
TRANSFORMERS = ("maxvit", "swin", "vit")


def test_names_are_known_without_the_libraries() -> None:
    """Listing all names imports neither torchvision nor torchdistill nor timm."""
    code = (
        "import sys, pipeline.models as m; assert len(m.names()) > 600; "
        "found = {n.partition('.')[0] for n in sys.modules} & {'torchvision', 'torchdistill', 'timm'}; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lists_agree_with_torchvision() -> None:
    """Every CNN of the installed torchvision is listed as supported exactly when the cutter can cut it."""
    import torchvision

    able = []
    library = torchvision.models.list_models(module=torchvision.models)
    for name in library:
        inception = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        with Weightless():
            network = torchvision.models.get_model(name, weights=None, **inception)
        try:
            cut(network, name)
        except IncompatibleError:
            continue
        if not name.startswith(TRANSFORMERS):
            able.append(name)
    assert sorted(torchvision_cnn.SUPPORTED) == sorted(able)
    assert sorted([*torchvision_cnn.SUPPORTED, *UNSUPPORTED]) == sorted(library)


def test_no_name_is_used_twice() -> None:
    """Names of small-image networks and of torchvision's are apart, and `names` lists those that can be created."""
    assert models.names() == sorted(models.names())
    assert len(set(models.names())) == len(models.names())
    assert not set(models.names()) & set(UNSUPPORTED)
    assert {"resnet8", "resnet110", "wrn_28_10", "densenet_bc_100_12", *torchvision_cnn.SUPPORTED} < set(models.names())
    assert set(UNSUPPORTED) < set(models.registry.names())


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [
        ("resnet8", "cifar_resnet", "ResNet-8"),
        ("wrn_16_2", "wrn", "WRN-16-2"),
        ("densenet_bc_16_8", "densenet_bc", "DenseNet-BC-16-8"),
        ("resnet50", "torchvision_cnn", "resnet50"),
        ("preresnet56", "cifar_preresnet", "PreResNet-56"),
        ("resnet32x4", "cifar_resnet_x4", "ResNet-32x4"),
        ("resnext29_8x64d", "cifar_resnext", "ResNeXt-29-8x64d"),
        ("vgg8_cifar", "cifar_vgg", "VGG-8"),
        ("shufflenet_v1_cifar", "cifar_shufflenet_v1", "ShuffleNetV1"),
        ("resnet18_cifar", "cifar_torchvision", "resnet18_cifar"),
        ("vgg16_gap", "zhou_gap", "vgg16_gap"),
        ("convnext_tiny_gap", "plain_head", "convnext_tiny_gap"),
        ("timm_resnet18d", "timm_cnn", "timm_resnet18d"),
    ],
)
def test_entry_points_to_the_file_that_registers(name: str, file: str, label: str) -> None:
    """The entry names the file (start of the code key), the label for tables and the options."""
    entry = models.registry.get(name)
    assert entry.module == f"pipeline.models.{file}"
    assert entry.label == label
    assert list(entry.options) == ["dropout"]


def test_supported_names_are_supported() -> None:
    """Every listed backbone is said to have class activation maps, without looking at it."""
    assert {models.supports(name) for name in models.names()} == {(True, "")}


def test_unsupported_names_give_the_reason() -> None:
    """A known network without class activation maps gives its reason, also with an option set, and cannot be created."""
    assert list(models.unsupported()) == ALL_UNSUPPORTED
    assert set(UNSUPPORTED) < set(ALL_UNSUPPORTED)
    for name, why in models.unsupported().items():
        able, reason = models.supports(name, dropout=0.3)
        assert not able
        assert reason == why
        assert reason.startswith(f"{name} ")
        with pytest.raises(IncompatibleError, match=re.escape(reason)):
            models.create(name, num_classes=10)


def test_reasons_name_the_variant_that_has_maps() -> None:
    """The plain torchvision networks point at their variant with global average pooling, which exists; transformers have none."""
    for name in UNSUPPORTED:
        variant = f"{name}_gap"
        if name.startswith(TRANSFORMERS):
            assert variant not in models.unsupported()[name]
        else:
            assert f"; {variant} is a variant" in models.unsupported()[name]
            assert variant in models.names()


def test_asking_draws_no_random_numbers() -> None:
    """`supports` leaves torch's generator alone, so planning cannot change a trial."""
    models._supports.cache_clear()
    before = torch.get_rng_state()
    for name in ("resnet8", "wrn_10_1", "densenet_bc_10_8", "googlenet", "regnet_y_400mf", "mobilenet_v2", "vgg16"):
        models.supports(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_real_after_asking() -> None:
    """The context that builds without weights ends with it."""
    models.supports("resnet8")
    assert models.create("resnet8", num_classes=3).classifier.weight.device == torch.empty(0).device


def test_unknown_name_suggests_the_nearest() -> None:
    """A mistyped name gives the nearest one and the next step."""
    with pytest.raises(
        UnknownNameError, match=r"Unknown backbone 'wrn_10_3'\. Did you mean 'wrn_\d+_\d'\?.*Add a file under pipeline/models/"
    ):
        models.create("wrn_10_3", num_classes=10)
    with pytest.raises(UnknownNameError, match="'resnet9'"):
        models.supports("resnet9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropuot": 0.1}, r"Unknown option 'dropuot' of backbone 'resnet8'\. Did you mean 'dropout'\? Options: dropout\."),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, r"got -0\.1"),
        ({"num_classes": 0}, "num_classes of backbone 'resnet8' must be >= 1, got 0"),
        ({"in_channels": 0}, "in_channels of backbone 'resnet8' must be >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    """Wrong options and values raise ConfigError that says what is allowed."""
    with pytest.raises(ConfigError, match=message):
        models.create("resnet8", **{"num_classes": 10, **arguments})


@pytest.mark.parametrize("name", ["wrn_10_1", "densenet_bc_10_8", "resnet18"])
def test_dropout_is_checked_everywhere(name: str) -> None:
    """Dropout inside the blocks is checked like dropout of pooled features."""
    with pytest.raises(ConfigError, match=r"\[0, 1\), got 2"):
        models.create(name, num_classes=10, dropout=2.0)


def test_missing_library_is_named() -> None:
    """A backbone whose library is not installed says which one, and how to get it."""
    with (
        pytest.raises(ConfigError, match="backbone 'net' needs no-such-library, which is not installed here; install it with: pip install"),
        needed_by("net"),
    ):
        import no_such_library.part  # noqa: F401


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("resnet8", (2 / (16 * 9)) ** 0.5),  # Kaiming normal, fan out: the number of output channels counts
        ("wrn_10_1", (2 / (16 * 9)) ** 0.5),
        ("resnet18", (2 / (64 * 49)) ** 0.5),
        ("densenet121", (2 / (8 * 49)) ** 0.5),  # Kaiming normal, fan in: the number of input channels counts
        ("densenet_bc_10_8", (2 / (8 * 9)) ** 0.5),
        ("shufflenet_v2_x0_5", (1 / (3 * 8 * 9)) ** 0.5),  # torch's default: uniform with variance 1 / (3 fan in)
        ("googlenet", 0.01),
        ("resnet18_cifar", (2 / (64 * 9)) ** 0.5),
        ("densenet121_cifar", (2 / (8 * 9)) ** 0.5),
        ("vgg8_cifar", (2 / (64 * 9)) ** 0.5),
        ("resnext29_2x16d", (2 / (64 * 9)) ** 0.5),
        ("googlenet_gap", 0.01),
        ("convnext_tiny_gap", 0.02),
    ],
)
def test_first_convolution_for_other_channels_is_filled_as_the_library_fills_it(name: str, std: float) -> None:
    """With 8 channels, as with 3, the first weight has the standard deviation of the network's own scheme."""
    torch.manual_seed(0)
    for in_channels in (3, 8):
        net = models.create(name, num_classes=2, in_channels=in_channels)
        conv = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
        assert conv.weight.shape[1] == conv.in_channels == in_channels
        fan_in = name.startswith(("densenet", "shufflenet"))
        assert conv.weight.detach().std().item() == pytest.approx(std * (8 / in_channels) ** (0.5 if fan_in else 0), rel=0.1)
