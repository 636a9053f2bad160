"""Residual blocks are found in networks of every kind, and what is put on their branches acts there and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline import models
from pipeline.errors import IncompatibleError
from pipeline.models.backbone import Backbone, num_parameters
from pipeline.models.weightless import Weightless
from pipeline.regularizers.residual import put_on_branches

# name -> number of blocks with a shortcut, from the papers' tables: for MobileNet and the like repeats minus the first of each stage.
BLOCKS = {
    "resnet8": 3, "resnet20": 9, "wrn_10_1": 3, "wrn_28_2": 12,
    "resnet18": 8, "resnet50": 16, "resnext50_32x4d": 16, "wide_resnet50_2": 16,
    "regnet_x_400mf": 1 + 2 + 7 + 12, "regnet_y_400mf": 1 + 3 + 6 + 6,
    "mobilenet_v2": 1 + 2 + 3 + 2 + 2, "mnasnet0_5": 2 + 2 + 2 + 1 + 3, "efficientnet_b0": 1 + 1 + 2 + 2 + 3,
}  # fmt: skip
NONE = ["densenet121", "densenet_bc_10_8", "googlenet", "shufflenet_v2_x0_5"]


class Record(nn.Module):
    """Notes its share whenever it is called, and multiplies."""

    def __init__(self, share: float, seen: list[float], factor: float = 1.0) -> None:
        super().__init__()
        self.share, self.seen, self.factor = share, seen, factor

    def forward(self, branch_BCHW: Tensor) -> Tensor:
        self.seen.append(self.share)
        return branch_BCHW if self.factor == 1 else branch_BCHW * self.factor


class TwoAdditions(nn.Module):
    """A module with two residual blocks in one forward, additions of other kinds, and a shortcut from a normalised input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.first, self.shortcut, self.second, self.last = (nn.Conv2d(4, 4, 1) for _ in range(4))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        start = self.norm(image_BCHW) + 1.0
        start = self.first(start).relu() + start
        return torch.add(self.shortcut(start), self.last(self.second(start).relu()))


class Parallel(nn.Module):
    """Two branches of equal depth, and a sum whose parts are used elsewhere: no residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        both = self.a(image_BCHW) + self.b(image_BCHW)
        third = self.c(both)
        return torch.cat([third + both, third], 1)


def net(name: str, seed: int = 0) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.create(name, num_classes=3)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_found_once(name: str) -> None:
    """On the meta device, as planning does: L blocks get the shares 1/L ... 1, and names and objects of parameters stay."""
    with Weightless():
        model = models.create(name, num_classes=3).to("meta")
    before, shares = dict(model.named_parameters()), []
    keys = list(model.state_dict())
    assert put_on_branches(model, "x", lambda share: (shares.append(share), nn.Identity())[1]) == BLOCKS[name]
    assert shares == pytest.approx([(index + 1) / BLOCKS[name] for index in range(BLOCKS[name])])
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in before)
    assert list(model.state_dict()) == keys
    assert list(copy.deepcopy(model).state_dict()) == keys, "EMA pairs parameters by their order"


@pytest.mark.parametrize("name", NONE)
def test_networks_without_residual_blocks(name: str) -> None:
    """Concatenations are no residual blocks; the error says what is missing, and the network is untouched."""
    with Weightless():
        model = models.create(name, num_classes=3).to("meta")
    body = model.body
    with pytest.raises(IncompatibleError, match=r"this network has no residual blocks for x to act on"):
        put_on_branches(model, "x", lambda share: nn.Identity())
    assert model.body is body


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "resnet18", "regnet_x_400mf", "mobilenet_v2", "efficientnet_b0"])
def test_the_network_computes_the_same(name: str) -> None:
    """With a module that passes all through, the logits in evaluation are the same bits, also of a copy; blocks run in forward order."""
    model, image_BCHW, seen = net(name).eval(), torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(1)), []
    with torch.no_grad():
        expected = model(image_BCHW)
        count = num_parameters(model)
        blocks = put_on_branches(model, "x", lambda share: Record(share, seen))
        assert torch.equal(model(image_BCHW), expected)
        assert torch.equal(copy.deepcopy(model)(image_BCHW), expected)
    assert num_parameters(model) == count
    assert len(seen) == blocks
    assert seen == sorted(seen)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("name", "branch", "shortcut"),
    [("resnet8", ".conv2.", ".downsample."), ("wrn_16_1", ".conv2.", ".shortcut."), ("regnet_y_400mf", ".f.", ".proj.")],
)
def test_it_is_the_branch_and_not_the_shortcut(name: str, branch: str, shortcut: str) -> None:
    """With all branches multiplied by zero, projections get a gradient and layers of branches get none."""
    model = net(name).eval()
    put_on_branches(model, "x", lambda share: Record(share, [], factor=0.0))
    model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).sum().backward()
    moved = {key for key, p in model.body.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    weights = [key for key, p in model.body.named_parameters() if p.dim() == 4]
    assert any(branch in key for key in weights)
    assert not [key for key in moved if branch in key]
    assert all(key in moved for key in weights if shortcut in key)
    assert any(shortcut in key for key in moved)


def test_blocks_are_read_off_the_additions() -> None:
    """Two blocks in one forward, adding a number, and torch.add with the branch on the right: each branch is scaled, nothing else is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = TwoAdditions().double().eval()
    image_BCHW = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = block.norm(image_BCHW) + 1
    start = start + 0.5 * block.first(start).relu()
    expected = block.shortcut(start) + 0.5 * block.last(block.second(start).relu())
    model = Backbone(nn.Sequential(nn.Identity(), block), nn.Linear(4, 3))
    shares: list[float] = []
    assert put_on_branches(model, "x", lambda share: Record(share, shares, factor=0.5)) == 2
    torch.testing.assert_close(model.forward_features(image_BCHW), expected)
    assert shares == [0.5, 1.0]


@pytest.mark.parametrize("wrapped", [True, False])
def test_other_sums_are_no_blocks(wrapped: bool) -> None:
    """Branches of equal depth, and a sum inside which a map is used elsewhere, are left alone."""
    body = nn.Sequential(Parallel()) if wrapped else Parallel()
    with pytest.raises(IncompatibleError, match="has no residual blocks"):
        put_on_branches(Backbone(body, nn.Linear(8, 3)), "x", lambda share: nn.Identity())


def test_two_regularizers_share_a_branch() -> None:
    """What the first put there stays when a second one comes, even if its name is that of a library's stochastic depth."""

    class DropPath(Record):
        pass

    model, seen = net("resnet8").eval(), []
    for _ in range(2):
        assert put_on_branches(model, "x", lambda share: DropPath(share, seen)) == 3
    model(torch.zeros(1, 3, 16, 16))
    assert seen == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_a_body_that_adds_in_its_own_forward() -> None:
    """A body without inner blocks is replaced by one that does the same with the module inside, before and after stages were asked for."""
    image_BCHW = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    for staged in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Backbone(TwoAdditions(), nn.Linear(4, 3)).eval()
        expected = model(image_BCHW)
        if staged:
            model.stage_points()
        seen: list[float] = []
        put_on_branches(model, "x", lambda share, seen=seen: Record(share, seen))
        torch.testing.assert_close(model(image_BCHW), expected, rtol=0, atol=0)
        assert seen == [0.5, 1.0]
        torch.testing.assert_close(model.forward_stages(image_BCHW)[-1], model.forward_features(image_BCHW), rtol=0, atol=0)


class Moody(nn.Module):
    """A block that does something else in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW + (self.conv(image_BCHW) * 2 if self.training else self.conv(image_BCHW))


class Untraceable(nn.Module):
    """A block that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW + self.conv(image_BCHW) if image_BCHW.sum() > 0 else image_BCHW


@pytest.mark.parametrize(
    ("block", "message"), [(Moody, r"different code .* \(in Moody\)"), (Untraceable, r"cannot be searched .* \(in Untraceable\)")]
)
def test_blocks_that_cannot_be_edited(block: type[nn.Module], message: str) -> None:
    """A block whose code cannot be written down for both modes is an error with its name, not a block left out in silence."""
    model = Backbone(nn.Sequential(block()), nn.Linear(4, 3))
    with pytest.raises(IncompatibleError, match=message):
        put_on_branches(model, "x", lambda share: nn.Identity())
    assert model.training
