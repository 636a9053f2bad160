"""ShakeDrop: factors forward and backward by hand, their distribution, and the expectation in evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline import models, regularizers
from pipeline.errors import IncompatibleError, UnknownNameError
from pipeline.models.weightless import Weightless
from pipeline.regularizers.shake_drop import Mode, Shake


def factors(keep: float, mode: Mode, shape: tuple[int, ...] = (6000, 1, 1, 1), seed: int = 0) -> tuple[Tensor, Tensor]:
    """What a branch of ones is multiplied by, and what a gradient of ones is."""
    branch_BCHW = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out_BCHW = Shake(keep, mode).train()(branch_BCHW)
    out_BCHW.sum().backward()
    assert branch_BCHW.grad is not None
    return out_BCHW.detach(), branch_BCHW.grad


def test_the_gradient_has_its_own_factor() -> None:
    """An image keeps b = 1: factor 1 both ways; or b = 0: alpha in [-1, 1] forward and beta in [0, 1] backward, independent, uniform."""
    keep, images = 0.4, 6000
    forward_B, backward_B = (factor.flatten() for factor in factors(keep, "row"))
    kept_B = forward_B == 1
    assert kept_B.double().mean().item() == pytest.approx(keep, abs=3 * math.sqrt(keep * (1 - keep) / images))
    assert (backward_B[kept_B] == 1).all()
    alpha, beta = forward_B[~kept_B].numpy(), backward_B[~kept_B].numpy()
    assert stats.kstest(alpha, stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(beta, stats.uniform(0, 1).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(alpha, beta).statistic) < 3 / math.sqrt(len(alpha))


def test_by_hand_in_float64() -> None:
    """With the generator's own b, alpha and beta: out = (b + alpha - b alpha) F and dF = (b + beta - b beta) dout, for any numbers."""
    rng = torch.Generator().manual_seed(1)
    branch_BCHW = torch.randn(5, 2, 3, 4, dtype=torch.float64, generator=rng, requires_grad=True)
    gradient_BCHW = torch.randn(5, 2, 3, 4, dtype=torch.float64, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        out_BCHW = Shake(0.5, "row").train()(branch_BCHW)
        torch.manual_seed(7)
        b = torch.empty(5, 1, 1, 1).bernoulli_(0.5).double()
        alpha, beta = (torch.empty(5, 1, 1, 1, dtype=torch.float64).uniform_(low, 1) for low in (-1, 0))
    out_BCHW.backward(gradient_BCHW)
    assert 0 < b.sum() < 5
    torch.testing.assert_close(out_BCHW, (b + alpha - b * alpha) * branch_BCHW)
    torch.testing.assert_close(branch_BCHW.grad, (b + beta - b * beta) * gradient_BCHW)


def test_a_branch_that_is_always_kept_is_the_identity() -> None:
    """keep = 1 changes neither the branch nor the gradient, whatever alpha and beta are."""
    forward_B, backward_B = factors(1.0, "row", (50, 1, 1, 1))
    assert (forward_B == 1).all()
    assert (backward_B == 1).all()


def test_evaluation_is_the_expectation() -> None:
    """In evaluation the branch is multiplied by keep, to which the mean of the factors in training comes near; the gradient too."""
    keep, images = 0.7, 6000
    forward_B, _ = factors(keep, "row")
    variance = keep + (1 - keep) / 3 - keep**2  # E[factor^2] = keep + (1 - keep) E[alpha^2]
    assert forward_B.mean().item() == pytest.approx(keep, abs=3 * math.sqrt(variance / images))
    branch_BCHW = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Shake(keep, "row").eval()(branch_BCHW), branch_BCHW * keep)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_one_draw_for_all_images_or_one_for_each(mode: Mode) -> None:
    """By 'batch' all images share one factor, by 'row' each has its own; channels and positions always share it."""
    for factor_BCHW in factors(0.01, mode, (9, 2, 3, 4), seed=1):
        assert (factor_BCHW == factor_BCHW[:, :1, :1, :1]).all()
        assert len(factor_BCHW[:, 0, 0, 0].unique()) == (1 if mode == "batch" else 9)


def test_the_gradient_can_be_differentiated() -> None:
    """A loss that looks at gradients can train: sum (f x)^2 has the gradient 2 g f x, and that one has 2 g^2, g the factor backward."""
    forward_factor, backward_factor = factors(0.3, "row", (6, 1, 1, 1), seed=1)
    branch = torch.full((6, 1, 1, 1), 2.0, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        out = Shake(0.3, "row").train()(branch)
    (first,) = torch.autograd.grad(out.square().sum(), branch, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), branch)
    torch.testing.assert_close(first.detach(), 2 * backward_factor * forward_factor * 2)
    torch.testing.assert_close(second, 2 * backward_factor**2)


def test_linear_decay_on_a_network() -> None:
    """On resnet8 the branches pass with 1 - l / L * p; weights keep their names, and evaluation scales the branches by that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.create("resnet8", num_classes=3).eval()
    keys, image_BCHW = list(net.state_dict()), torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    block = net.body.layer1.get_submodule("0")
    start_BCHW = torch.randn(2, 16, 4, 5, generator=torch.Generator().manual_seed(0))
    branch_BCHW = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(start_BCHW)))))
    regularizers.create("shake_drop", p=0.6).on_model(net)
    assert [module.keep for module in net.modules() if isinstance(module, Shake)] == pytest.approx([0.8, 0.6, 0.4])
    assert list(net.state_dict()) == keys
    torch.testing.assert_close(net.body.layer1.get_submodule("0")(start_BCHW), torch.relu(start_BCHW + 0.8 * branch_BCHW))
    assert torch.equal(net(image_BCHW), net(image_BCHW))


def test_no_residual_blocks() -> None:
    """A plain chain of layers is refused with the reason, as planning meets it: without weights."""
    with Weightless():
        net = models.create("googlenet", num_classes=2).to("meta")
    with pytest.raises(IncompatibleError, match="this network has no residual blocks for shake_drop"):
        regularizers.create("shake_drop").on_model(net)


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5])
def test_p_is_a_probability(p: float) -> None:
    """Shaking nothing or the last block always is refused."""
    with pytest.raises(ValueError, match=rf"p must be in \(0, 1\), got {p}"):
        regularizers.create("shake_drop", p=p)


def test_an_unknown_mode_is_named() -> None:
    """Another mode is an error with the known ones."""
    with pytest.raises(UnknownNameError, match=r"Unknown mode 'pixel'.*Known: batch, row"):
        regularizers.create("shake_drop", mode="pixel")


def test_a_branch_in_bfloat16_stays_so() -> None:
    """Under autocast the branch may be bfloat16; out and gradient are too, and the addition in place that follows is allowed."""
    conv = nn.Conv2d(2, 2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        branch_BCHW = conv(torch.ones(3, 2, 2, 2))
        out_BCHW = Shake(0.5, "row").train()(branch_BCHW)
        out_BCHW += torch.ones(3, 2, 2, 2)
    assert out_BCHW.dtype == torch.bfloat16
    out_BCHW.float().sum().backward()
    assert torch.isfinite(conv.weight.grad).all()
