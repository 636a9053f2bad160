"""What cannot work is found without training: each reason, silence where nobody can tell, and the file that remembers answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import losses, models, regularizers
from pipeline.errors import ConfigError
from pipeline.models.backbone import Backbone
from pipeline.orchestration import fitting
from pipeline.orchestration.fitting import FILE, Fits, why_unfit

GREY = [24, 24, 1]
MANIFEST = {"classes": list("abcdefghij"), "shape": GREY}
CONFIG = {"backbone": {"name": "resnet8"}, "regularizers": [], "loss": {"ce": {"weight": 1.0, "start_epoch": 0}}}


def reason(backbone: str = "resnet8", *components: dict[str, Any], loss: dict[str, Any] | None = None, size: list[int] = GREY) -> str:
    """What is said of these parts with 10 classes."""
    return why_unfit({"name": backbone}, list(components), loss or {"ce": {}}, 10, size)


def register(monkeypatch: pytest.MonkeyPatch, factory: Any) -> None:
    """Let `odd` be a backbone for the length of a test."""
    models.registry.names()
    monkeypatch.setattr(models.registry, "_entries", dict(models.registry._entries))
    models.registry.register("odd")(factory)


class Odd(nn.Module):
    """One convolution, then something odd."""

    def __init__(self, channels: int, what: Any) -> None:
        super().__init__()
        self.conv, self.what = nn.Conv2d(channels, 4, 3), what

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.what(self.conv(image_BCHW))


def odd_net(what: Any) -> Any:
    """Factory of a backbone around `Odd`."""
    return lambda *, num_classes, in_channels: Backbone(Odd(in_channels, what), nn.Linear(4, num_classes))


@pytest.fixture(name="builds")
def builds_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the backbones that are built during the test."""
    built: list[str] = []
    create = models.create

    def listening(name: str, **options: Any) -> Backbone:
        built.append(name)
        return create(name, **options)

    monkeypatch.setattr(models, "create", listening)
    return built


def test_what_fits() -> None:
    """Plain parts fit, and so do those that look at the network, with and without stages."""
    assert reason() == ""
    assert reason(loss={"ce": {}, "cam": {"stages": [-1, -3]}}) == ""
    assert reason("resnet8", {"name": "stochastic_depth"}, {"name": "dropout"}, loss={"focal": {"alpha": [1.0] * 10}}) == ""


@pytest.mark.parametrize("loss", losses.names())
def test_every_loss_can_look_at_a_classifier_without_weights(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No loss fails on the meta device, where failures are taken for the network's: the sizes are compared behind it."""
    seen = []
    monkeypatch.setattr(fitting, "_why_too_small", lambda *args: seen.append(args) or "")
    assert reason(loss={loss: {}}) == ""
    assert len(seen) == 1


@pytest.mark.parametrize("regularizer", regularizers.names())
def test_every_regularizer_can_look_at_a_network_without_weights(regularizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No regularizer fails on the meta device, and with it a real size is still told from too small a one."""
    seen = []
    monkeypatch.setattr(fitting, "_feature_map_size", lambda *args, real=fitting._feature_map_size: seen.append(real(*args)) or seen[-1])
    assert reason("resnet8", {"name": regularizer}) == ""
    assert seen == [(6, 6)]


def test_a_map_of_one_pixel_has_no_positions() -> None:
    """CAM-loss on a 1x1 map is said to be pointless, one stage before it is not, and cross-entropy is not touched."""
    expected = "cam compares maps over positions, but the feature map of resnet18 at 24x24 pixels is 1x1"
    assert reason("resnet18", loss={"ce": {}, "cam": {}}) == expected
    assert reason("resnet18", loss={"ce": {}, "cam": {"stages": [-2]}}) == ""
    assert reason("resnet18", loss={"ce": {}, "cam": {}}, size=[33, 24, 1]) == ""
    assert reason("resnet18") == ""


def test_images_that_are_too_small() -> None:
    """The backbone, the size and the first line of what torch says."""
    said = reason("inception_v3", size=[32, 28, 3])
    assert said.startswith("inception_v3 does not take 32x28 images: ")
    assert "\n" not in said
    assert len(said) > len("inception_v3 does not take 32x28 images: ")
    assert reason("inception_v3", size=[96, 96, 3]) == ""


def test_an_empty_map_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the meta device makes an empty map of what would fail, that is said."""
    register(monkeypatch, odd_net(lambda map_BCHW: map_BCHW[:, :, 100:]))
    assert reason("odd") == "odd does not take 24x24 images: the feature map is empty"


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"ce": {}, "cam": {"target": "top_k", "top_k": 50}}, "loss.cam.top_k is 50, but there are only 10 classes"),
        ({"focal": {"alpha": [1.0, 2.0]}}, "loss.focal.alpha must be one weight a class: got 2 for 10 classes"),
        ({"ce": {}, "cam": {"stages": [-4]}}, "cam asks for stage -4, but resnet8 has 3: -1 to -3"),
    ],
)
def test_losses_that_do_not_fit(loss: dict[str, Any], expected: str) -> None:
    """Options that depend on the number of classes or of stages."""
    assert reason(loss=loss) == expected


@pytest.mark.parametrize(
    ("backbone", "component", "expected"),
    [
        ("resnet8", {"name": "drop_block", "stages": [3]}, "resnet8 has 3 stages, so there is no stage 3"),
        ("densenet_bc_10_12", {"name": "stochastic_depth"}, "densenet_bc_10_12 has no residual blocks for stochastic_depth to act on"),
    ],
)
def test_reasons_name_the_backbone(backbone: str, component: dict[str, Any], expected: str) -> None:
    """As the study file calls it."""
    assert reason(backbone, component) == expected


def test_code_that_cannot_be_followed_has_a_plain_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the tracer's own words comes through."""
    register(monkeypatch, odd_net(lambda map_BCHW: map_BCHW if map_BCHW.sum() > 0 else -map_BCHW))
    expected = "odd cannot be searched for residual blocks: its code cannot be followed (in Odd)"
    assert reason("odd", {"name": "stochastic_depth"}) == expected
    assert reason("odd", {"name": "drop_block"}).startswith("odd: its body cannot be cut into stages: ")


@pytest.mark.parametrize("what", [lambda x: x if x.sum().item() > 0 else -x, lambda x: x + torch.ones(1, 4, 1, 1), lambda x: 1 / 0])
def test_silence_where_nobody_can_tell(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """A network that reads values, one that mixes devices, and one that always fails may try."""
    register(monkeypatch, odd_net(what))
    assert reason("odd") == ""


def test_a_missing_library_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that trains may have it."""
    terms = {"ce": {}, "cam": {}}
    assert reason("timm_resnet10t", loss=terms)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert reason("timm_resnet10t", loss=terms) == ""


def test_a_bad_option_is_an_error() -> None:
    """It is no matter of fitting."""
    with pytest.raises(ConfigError, match="dropout is a probability"):
        why_unfit({"name": "resnet8", "dropout": 2.0}, [], {"ce": {}}, 10, GREY)
    with pytest.raises(ValueError, match="top_k must be >= 1"):
        reason(loss={"ce": {}, "cam": {"top_k": 0}})


def test_no_random_number_is_drawn() -> None:
    """Planning leaves torch's generator alone."""
    before = torch.random.get_rng_state()
    reason("resnet8", {"name": "shake_drop"}, loss={"ce": {}, "center": {}})
    assert torch.equal(before, torch.random.get_rng_state())


def test_answers_are_remembered(tmp_path: Path, builds: list[str]) -> None:
    """A second plan builds nothing; other weights of terms, and regularizers that leave the network alone, are the same question."""
    first = Fits(tmp_path)
    assert first.why_unfit(CONFIG, MANIFEST, "code") == ""
    weighted = {**CONFIG, "loss": {"ce": {"weight": 3.0}}, "regularizers": [{"name": "cutout"}]}
    assert first.why_unfit(weighted, MANIFEST, "code") == ""
    first.save()
    assert builds == ["resnet8"]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert Fits(tmp_path).why_unfit(CONFIG, MANIFEST, "code") == ""
    assert builds == ["resnet8"]


def test_reasons_are_remembered_word_by_word(tmp_path: Path) -> None:
    """Read back from the file."""
    config = {**CONFIG, "loss": {"focal": {"alpha": [1.0]}}}
    first = Fits(tmp_path)
    said = first.why_unfit(config, MANIFEST, "code")
    first.save()
    assert said
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [said]
    assert Fits(tmp_path).why_unfit(config, MANIFEST, "code") == said


@pytest.mark.parametrize("change", ["code", "shape", "classes", "backbone", "loss", "regularizers", "library"])
def test_another_question_is_asked_anew(tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """An answer counts for the same parts, data, code and libraries only."""
    first = Fits(tmp_path)
    first.why_unfit(CONFIG, MANIFEST, "code")
    first.save()
    builds.clear()
    config = CONFIG | {
        "backbone": {"backbone": {"name": "resnet14"}},
        "loss": {"loss": {"ce": {}, "cam": {}}},
        "regularizers": {"regularizers": [{"name": "dropout"}]},
    }.get(change, {})
    manifest = MANIFEST | {"shape": {"shape": [24, 25, 1]}, "classes": {"classes": ["a", "b"]}}.get(change, {})
    if change == "library":
        monkeypatch.setattr(fitting, "_surroundings", lambda: ("another torch",))
    Fits(tmp_path).why_unfit(config, manifest, "other code" if change == "code" else "code")
    assert len(builds) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_file_is_not_used(tmp_path: Path, builds: list[str], content: str) -> None:
    """It is made anew."""
    (tmp_path / FILE).write_text(content)
    fits = Fits(tmp_path)
    assert fits.why_unfit(CONFIG, MANIFEST, "code") == ""
    assert builds == ["resnet8"]
    fits.save()
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [""]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Nothing is remembered and nothing is said; a file in the way stays, and no scratch file is left."""
    (tmp_path / FILE).mkdir()
    for folder in (tmp_path, tmp_path / "not there"):
        fits = Fits(folder)
        assert fits.why_unfit(CONFIG, MANIFEST, "code") == ""
        fits.save()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
