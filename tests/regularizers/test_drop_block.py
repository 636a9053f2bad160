"""DropBlock: square holes at the ends of the chosen stages, in training only."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline import models, regularizers
from pipeline.errors import IncompatibleError
from pipeline.models.backbone import Backbone
from pipeline.models.weightless import Weightless


def resnet8() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create("resnet8", num_classes=3, in_channels=1)


def dropped(height: int, width: int, images: int = 200, seed: int = 0, **options: object) -> Tensor:
    """What becomes of a feature map of ones in training."""
    net = Backbone(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Linear(3, 2))
    nn.init.zeros_(net.body[0].weight)
    nn.init.ones_(net.body[0].bias)
    regularizers.create("drop_block", stages=[0], **options).on_model(net)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return net.train().forward_features(torch.zeros(images, 3, height, width))


@pytest.mark.parametrize("block_size", [1, 3, 5])
def test_holes_are_squares_and_the_rest_keeps_the_mean(block_size: int) -> None:
    """Every dropped cell lies in a dropped square of the block's side; about p of the cells go, and the whole mean stays one."""
    p = 0.06
    map_BCHW = dropped(11, 9, block_size=block_size, p=p)
    zero_BCHW = (map_BCHW == 0).float()
    corner_BCHW = -torch.nn.functional.max_pool2d(-zero_BCHW, block_size, stride=1)  # 1 where a whole square is dropped
    squares_BCHW = torch.nn.functional.conv_transpose2d(corner_BCHW, torch.ones(3, 1, block_size, block_size), groups=3) > 0
    assert torch.equal(squares_BCHW, zero_BCHW > 0)
    assert zero_BCHW.any(), "something is dropped"
    assert 0.7 * p < zero_BCHW.mean().item() < 1.15 * p  # blocks overlap, which torchvision's rate neglects
    assert map_BCHW.mean().item() == pytest.approx(1, abs=1e-4)
    assert len(map_BCHW.unique()) == 2


@pytest.mark.parametrize(("height", "width", "side"), [(6, 6, 5), (3, 9, 3), (2, 8, 1), (1, 1, 1), (7, 7, 7)])
def test_a_block_is_cut_to_the_largest_odd_side_that_fits(height: int, width: int, side: int) -> None:
    """A 7x7 block on a smaller map becomes one of that side, where torchvision alone refuses even maps."""
    zero_BCHW = (dropped(height, width, block_size=7, p=0.05, images=400) == 0).float()
    corner_BCHW = -torch.nn.functional.max_pool2d(-zero_BCHW, side, stride=1)
    squares_BCHW = torch.nn.functional.conv_transpose2d(corner_BCHW, torch.ones(3, 1, side, side), groups=3) > 0
    assert zero_BCHW.any()
    assert torch.equal(squares_BCHW, zero_BCHW > 0)
    assert torch.nn.functional.pad(zero_BCHW, (1, 1, 1, 1)).sum(dim=(2, 3)).unique()[1] == side * side, "the smallest hole is one block"


@pytest.mark.parametrize(("stages", "expected"), [([0], {0}), ([-1, -2], {1, 2}), ([-1], {2}), ([0, 2], {0, 2})])
def test_stages_are_counted_from_both_ends(stages: list[int], expected: set[int]) -> None:
    """Of resnet8's three stages the chosen ones, and no others, leave with holes that they did not come with."""
    net, image_BCHW, changed = resnet8(), torch.randn(4, 1, 24, 20, generator=torch.Generator().manual_seed(0)), set()
    regularizers.create("drop_block", stages=stages, p=0.3, block_size=3).on_model(net)
    for index, point in enumerate(net.stage_points()):

        def look(_module: nn.Module, given: tuple[Tensor], out: Tensor, index: int = index) -> None:
            if not torch.equal(given[0], out):
                changed.add(index)
                assert ((out == 0) & (given[0] != 0)).any()

        point.register_forward_hook(look)
    net.train()(image_BCHW)
    assert changed == expected


def test_evaluation_weights_and_copies() -> None:
    """Evaluation gives the plain network's bits, names of weights stay, and a copy drops by itself in training."""
    plain, net, image_BCHW = resnet8(), resnet8(), torch.randn(4, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    regularizers.create("drop_block").on_model(net)
    assert torch.equal(net.eval()(image_BCHW), plain.eval()(image_BCHW))
    assert list(net.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(net)
    assert torch.equal(twin(image_BCHW), plain(image_BCHW))
    outs = []
    for model in (net, twin):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            outs.append(model.train()(image_BCHW))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], plain.train()(image_BCHW))


@pytest.mark.parametrize(("stages", "message"), [([3], "has 3 stages, so there is no stage 3"), ([-1, 2], r"\[-1, 2\] names one twice")])
def test_stages_that_the_backbone_lacks(stages: list[int], message: str) -> None:
    """A stage that is not there, or there twice, makes the pair incompatible; planning finds out without weights."""
    with Weightless():
        net = models.create("resnet8", num_classes=2).to("meta")
    with pytest.raises(IncompatibleError, match=f"this network.*{message}"):
        regularizers.create("drop_block", stages=stages).on_model(net)


def test_the_defaults_fit_a_network_without_weights() -> None:
    """Planning can try the defaults on the meta device."""
    with Weightless():
        net = models.create("densenet_bc_10_8", num_classes=2).to("meta")
    regularizers.create("drop_block").on_model(net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.0}, r"p must be in \(0, 1\), got 0.0"),
        ({"p": 1.0}, "got 1.0"),
        ({"block_size": 4}, "block_size must be an odd number >= 1, got 4"),
        ({"block_size": -1}, "got -1"),
        ({"stages": []}, r"stages must be different numbers, at least one, got \[\]"),
        ({"stages": [1, 1]}, r"got \[1, 1\]"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    """Values that drop nothing, everything, or nowhere are refused with the value."""
    with pytest.raises(ValueError, match=message):
        regularizers.create("drop_block", **options)
