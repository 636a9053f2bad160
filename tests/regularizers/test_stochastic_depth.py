"""Stochastic depth: branches are dropped by the linear decay in training, and evaluation is that of the plain network."""

from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from pipeline import models, regularizers
from pipeline.errors import IncompatibleError, UnknownNameError
from pipeline.models.backbone import Backbone
from pipeline.models.weightless import Weightless


class Block(nn.Module):
    """x + F(x) with F linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW + self.conv(image_BCHW)


def make(blocks: int = 1, **options: float | str) -> Backbone:
    """A chain of blocks in float64 with the regularizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Backbone(nn.Sequential(*(Block() for _ in range(blocks))), nn.Linear(2, 3)).double()
    regularizers.create("stochastic_depth", **options).on_model(net)
    return net


def maps_of(net: Backbone, images: int, seed: int = 0) -> Tensor:
    """Feature maps of equal images in training."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return net.train().forward_features(torch.ones(1, 2, 1, 1, dtype=torch.float64).expand(images, -1, -1, -1))


def test_a_branch_is_dropped_or_scaled_up() -> None:
    """In training each image is x or x + F / (1 - p); the former in a share p, so that the mean is the evaluation's x + F."""
    p, images = 0.3, 4000
    net = make(p=p, mode="row")
    out_BC = maps_of(net, images).flatten(1)
    with torch.no_grad():
        plain_C = net.eval().forward_features(torch.ones(1, 2, 1, 1, dtype=torch.float64)).flatten()
    dropped_B = (out_BC == 1).all(1)
    torch.testing.assert_close(out_BC[~dropped_B], (1 + (plain_C - 1) / (1 - p)).expand(int((~dropped_B).sum()), 2))
    assert dropped_B.double().mean().item() == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / images))


def test_the_last_of_many_blocks_is_dropped_most() -> None:
    """The l-th of 4 blocks is dropped with probability l / 4 * p, each by itself: 16 outcomes with the frequencies of their product."""
    p, images = 0.8, 8000
    net = make(4, p=p, mode="row")
    seen: list[Tensor] = []
    for name, module in net.named_modules():
        if name.endswith("branch_stochastic_depth"):
            module.register_forward_hook(lambda _module, _given, out: seen.append((out == 0).flatten(1).all(1)))
    maps_of(net, images)
    dropped_LB = torch.stack(seen)
    rate_L = p * torch.arange(1, 5) / 4
    torch.testing.assert_close(dropped_LB.float().mean(1), rate_L, atol=0.018, rtol=0)
    both = (dropped_LB[1] & dropped_LB[2]).float().mean()
    torch.testing.assert_close(both, rate_L[1] * rate_L[2], atol=0.018, rtol=0)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_one_draw_for_all_images_or_one_for_each(mode: Literal["batch", "row"]) -> None:
    """By 'batch' all images of a batch share their fate, by 'row' they do not; over batches both fates occur."""
    net = make(p=0.5, mode=mode)
    kept = [(maps_of(net, 16, seed) != 1).flatten(1).all(1) for seed in range(12)]
    shared = [len(kept_B.unique()) == 1 for kept_B in kept]
    assert all(shared) if mode == "batch" else not any(shared)
    assert len(torch.cat(kept).unique()) == 2


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1"])
def test_evaluation_weights_and_copies_are_those_of_the_plain_network(name: str) -> None:
    """Logits in evaluation are the same bits, a saved state fits both ways, and a copy draws what the network draws."""
    nets, image_BCHW = [], torch.randn(8, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nets.append(models.create(name, num_classes=3))
    plain, net = nets
    regularizers.create("stochastic_depth").on_model(net)
    assert torch.equal(net.eval()(image_BCHW), plain.eval()(image_BCHW))
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())
    outs = []
    for model in (net.train(), copy.deepcopy(net)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            outs.append(model(image_BCHW))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], plain.train()(image_BCHW))


def test_a_networks_own_stochastic_depth_gives_place() -> None:
    """EfficientNet-B0's 9 own drops, with probabilities of their own, are replaced, not added to."""
    with Weightless():
        net = models.create("efficientnet_b0", num_classes=3).to("meta")
    own = [module.p for module in net.modules() if isinstance(module, ops.StochasticDepth)]
    regularizers.create("stochastic_depth", p=0.4, mode="row").on_model(net)
    drops = [module for module in net.modules() if isinstance(module, ops.StochasticDepth) and module.p not in own]
    assert [drop.p for drop in drops] == pytest.approx([0.4 * (index + 1) / 9 for index in range(9)])
    called = [
        module.get_submodule(str(node.target))
        for module in net.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_module"
    ]
    assert [module for module in called if isinstance(module, ops.StochasticDepth)] == drops


def test_no_residual_blocks() -> None:
    """A DenseNet is refused with the reason, as planning meets it: without weights."""
    with Weightless():
        net = models.create("densenet_bc_10_8", num_classes=2).to("meta")
    with pytest.raises(IncompatibleError, match="this network has no residual blocks for stochastic_depth"):
        regularizers.create("stochastic_depth").on_model(net)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_p_is_a_probability(p: float) -> None:
    """Dropping nothing or the last block always is refused."""
    with pytest.raises(ValueError, match=rf"p must be in \(0, 1\), got {p}"):
        regularizers.create("stochastic_depth", p=p)


def test_an_unknown_mode_is_named() -> None:
    """Another mode is an error with the known ones."""
    with pytest.raises(UnknownNameError, match=r"Unknown mode 'rows'.*Did you mean 'row'\? Known: batch, row"):
        regularizers.create("stochastic_depth", mode="rows")
