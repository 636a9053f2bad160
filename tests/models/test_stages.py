"""Stage points: where they lie, and that putting them in changes nothing else.

Letters: B batch, C channels, H W rows and columns.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pipeline import models
from pipeline.errors import IncompatibleError
from pipeline.models.backbone import Backbone
from pipeline.models.stages import with_stage_points
from pipeline.models.weightless import Weightless

SIZE = (32, 64)
STAGES = {  # channels and resolution (as a fraction of the image) of each stage, read off the papers' tables
    "resnet8": [(16, 1), (32, 2), (64, 4)],
    "wrn_10_1": [(16, 1), (32, 2), (64, 4)],
    "densenet_bc_10_8": [(24, 1), (20, 2), (18, 4)],
    "resnet18": [(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)],
    "mobilenet_v2": [(16, 2), (24, 4), (32, 8), (96, 16), (1280, 32)],
}


class Plain(nn.Module):
    """A body whose own forward is ordinary code: two convolutions, a pooling as a function, one more convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(self.first(x)))
        return functional.relu(self.third(functional.max_pool2d(x, 2)), inplace=True)


SEQUENTIAL = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(2),
    nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True)),
)


def build(name: str, in_channels: int = 3) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create(name, num_classes=3, in_channels=in_channels)


def images(channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", STAGES)
def test_each_resolution_is_a_stage(name: str) -> None:
    """Library networks have the stages of their papers, the last one being the feature map, on the meta device as planning does it."""
    with Weightless():
        net = models.create(name, num_classes=3, in_channels=1).to("meta")
    maps = net.forward_stages(torch.empty(2, 1, *SIZE, device="meta"))
    assert [tuple(map_BCHW.shape) for map_BCHW in maps] == [(2, c, SIZE[0] // by, SIZE[1] // by) for c, by in STAGES[name]]
    assert len(net.stage_points()) == len(STAGES[name])


def test_maps_are_those_of_the_layers_of_the_paper() -> None:
    """The maps of resnet18 are those that hooks on torchvision's own stem and four layers see."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library = torchvision.models.resnet18(num_classes=3).eval()
    seen: list[Tensor] = []
    for layer in (library.relu, library.layer1, library.layer2, library.layer3, library.layer4):
        layer.register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        library(images())
        maps = build("resnet18").eval().forward_stages(images())
    assert len(maps) == len(seen)
    for mine_BCHW, theirs_BCHW in zip(maps, seen, strict=True):
        torch.testing.assert_close(mine_BCHW, theirs_BCHW, rtol=0, atol=0)


@pytest.mark.parametrize("name", STAGES)
def test_nothing_else_changes(name: str) -> None:
    """With points the network keeps its outputs bit for bit, its parameters, their order and their names, grey images too."""
    net, image_BCHW = build(name, in_channels=1), images(1, batch=4)
    before, keys, parameters = copy.deepcopy(net), list(net.state_dict()), [id(p) for p in net.parameters()]
    random = torch.get_rng_state()
    net.stage_points()
    assert list(net.state_dict()) == keys
    assert [id(p) for p in net.parameters()] == parameters
    assert torch.equal(torch.get_rng_state(), random)
    for mode in (True, False):
        before.train(mode), net.train(mode)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            expected = before(image_BCHW)
            torch.manual_seed(2)
            assert torch.equal(net(image_BCHW), expected)
    torch.testing.assert_close(net.state_dict(), before.state_dict(), rtol=0, atol=0)  # batch statistics too


@pytest.mark.parametrize("name", ["resnet8", "densenet_bc_10_8", "resnet18"])
def test_the_logits_depend_on_every_stage_map(name: str) -> None:
    """The gradient of a logit with respect to each stage map is there, finite and not zero."""
    net = build(name, in_channels=1).eval()
    maps = net.forward_stages(images(1))
    logits_BK = net.forward_head(maps[-1])
    for gradient_BCHW in torch.autograd.grad(logits_BK[:, 0].sum(), maps):
        assert torch.isfinite(gradient_BCHW).all()
        assert gradient_BCHW.abs().sum() > 0


def test_a_hook_on_a_point_changes_what_follows() -> None:
    """What a hook on a point returns is what flows on; with the hook gone the output is the old one."""
    net = build("resnet8").eval()
    with torch.no_grad():
        before = net.forward_features(images())
        handle = net.stage_points()[0].register_forward_hook(lambda _module, _given, out: 0 * out)
        zeroed = net.forward_features(images())
        handle.remove()
        assert not torch.allclose(zeroed, before)
        assert torch.equal(net.forward_features(images()), before)


def test_copies_have_points_of_their_own() -> None:
    """A deep copy computes the same, keeps names and order of its parameters, and its points are not those of the original."""
    net = build("resnet8").eval()
    points = net.stage_points()
    twin = copy.deepcopy(net)
    assert list(twin.state_dict()) == list(net.state_dict())
    assert not {id(point) for point in points} & {id(point) for point in twin.stage_points()}
    caught: list[Tensor] = []
    twin.stage_points()[0].register_forward_hook(lambda _module, _given, out: caught.append(out))
    with torch.no_grad():
        expected = net.forward_stages(images())
        assert not caught
        for mine, theirs in zip(twin.forward_stages(images()), expected, strict=True):
            assert torch.equal(mine, theirs)
    assert len(caught) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["resnet8", "plain"])
def test_each_module_keeps_its_mode(name: str, training: bool) -> None:
    """Putting points in leaves a network in its mode, and a frozen layer in evaluation; batch statistics do not see the probe."""
    body = Plain() if name == "plain" else build(name, in_channels=1).body
    body.train(training)
    frozen = next(module for module in body.modules() if isinstance(module, nn.BatchNorm2d)).train(not training)
    modes = {key: module.training for key, module in body.named_modules()}
    statistics = frozen.running_mean.clone(), frozen.num_batches_tracked.clone()
    pointed, names = with_stage_points(body)
    after = {key: module.training for key, module in pointed.named_modules()}
    assert after == modes | dict.fromkeys(names, training)
    assert torch.equal(frozen.running_mean, statistics[0])
    assert torch.equal(frozen.num_batches_tracked, statistics[1])


@pytest.mark.parametrize("body", [SEQUENTIAL, Plain()], ids=["sequential", "module"])
def test_bodies_made_by_hand(body: nn.Module) -> None:
    """A plain nn.Sequential and a module with a forward of its own get a point before and one after their pooling."""
    net, image_BCHW = Backbone(body, nn.Linear(6, 3)).eval(), images(1)
    keys = list(net.state_dict())
    with torch.no_grad():
        expected_BCHW = body.eval()(image_BCHW)
        maps = net.forward_stages(image_BCHW)
    assert [tuple(map_BCHW.shape[1:]) for map_BCHW in maps] == [(4, *SIZE), (6, SIZE[0] // 2, SIZE[1] // 2)]
    assert torch.equal(maps[-1], expected_BCHW)
    assert list(net.state_dict()) == keys
    assert {id(p) for p in net.body.parameters()} == {id(p) for p in body.parameters()}


def test_double_precision_bodies() -> None:
    """The probe has the dtype of the weights."""
    net = Backbone(copy.deepcopy(SEQUENTIAL).double(), nn.Linear(6, 3).double())
    assert [m.dtype for m in net.forward_stages(images(1).double())] == [torch.float64] * 2


class Refused(nn.Module):
    """Bodies that cannot be cut, each for a reason of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.other = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fixed = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "branch" and x.sum() > 0:
            return self.conv(x)
        if self.how == "mode":
            return functional.dropout(self.fixed(self.other(self.conv(x))), training=self.training)
        if self.how == "order":
            return self.fixed(self.conv(x)) + self.other(self.conv(x))
        x = self.other(self.conv(x))
        if self.how == "unused":
            return x
        x = x if self.how == "vector" else self.fixed(x)
        return self.fixed(x.mean(3)) if self.how == "vector" else x


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("branch", "symbolically traced variables cannot be used as inputs to control flow"),
        ("mode", "it runs different code in training and in evaluation"),
        ("order", "it has layers that it does not run, or runs them in another order"),
        ("unused", "it has layers that it does not run, or runs them in another order"),
        ("size", "it cannot run on 128x128 pixels: "),
    ],
)
def test_other_bodies_are_refused_with_the_reason(how: str, reason: str) -> None:
    """A body that cannot be cut raises IncompatibleError in one line that says why, and is left as it was."""
    body = Refused(how)
    modes = [module.training for module in body.modules()]
    with pytest.raises(IncompatibleError) as caught:
        with_stage_points(body)
    assert str(caught.value).startswith("its body cannot be cut into stages: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [module.training for module in body.modules()] == modes


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (nn.Sequential(nn.ReLU()), "it has no convolution"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2)), "it does not end in one feature map"),
    ],
    ids=["no convolution", "no map"],
)
def test_bodies_without_a_feature_map(body: nn.Module, reason: str) -> None:
    """A body without a convolution or without a feature map at its end is refused with the reason."""
    with pytest.raises(IncompatibleError, match=reason):
        with_stage_points(body)


def test_a_cut_network_is_pointed_in_place() -> None:
    """The body of a library network is a graph already: it gets its points itself, so nothing else holds an outdated body."""
    body = build("resnet8").body
    assert isinstance(body, fx.GraphModule)
    assert with_stage_points(body)[0] is body
