"""SAM: the gradient at the worse weights by hand in float64, and what must be as before the second pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import regularizers


def quadratic(weight_N: Tensor) -> Tensor:
    """A loss whose gradient is known: `w (1 + w^2)` a weight."""
    return (weight_N.square() / 2 + weight_N**4 / 4).sum()


def passes(parameters: list[nn.Parameter], loss: Callable[[], Tensor], seen: list[list[Tensor]]) -> Callable[[], None]:
    """What the training loop passes as `again`; notes the weights at each call."""

    def gradients() -> None:
        seen.append([p.detach().clone() for p in parameters])
        for p in parameters:
            p.grad = None
        loss().backward()

    return gradients


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=6), st.floats(0.001, 2.0))
def test_the_gradient_is_that_at_the_worse_weights(values: list[float], rho: float) -> None:
    """With g the gradient of both parameters together, the new gradient is that at w + rho g / ||g||, and w is as before, bit for bit."""
    weight = torch.tensor(values, dtype=torch.float64)
    parameters = [nn.Parameter(weight[:1].clone()), nn.Parameter(weight[1:].clone())]
    seen: list[list[Tensor]] = []
    again = passes(parameters, lambda: sum(quadratic(p) for p in parameters), seen)
    again()
    regularizers.create("sam", rho=rho).before_update(parameters, again)
    gradient = weight * (1 + weight**2)
    worse = weight + rho * gradient / gradient.square().sum().sqrt()
    assert len(seen) == 2
    torch.testing.assert_close(torch.cat(seen[1]), worse)
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), worse * (1 + worse**2))
    assert torch.equal(torch.cat([p.detach() for p in parameters]), weight)


def test_the_step_has_the_length_rho() -> None:
    """On a network the worse weights are rho away, measured over all its parameters, and the loss is higher there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4)).double()
    image_BCHW, label_B = torch.randn(8, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    parameters, seen, losses = list(net.parameters()), [], []

    def loss() -> Tensor:
        losses.append(nn.functional.cross_entropy(net(image_BCHW), label_B))
        return losses[-1]

    again = passes(parameters, loss, seen)
    again()
    regularizers.create("sam", rho=0.05).before_update(parameters, again)
    moved = torch.cat([(b - a).flatten() for a, b in zip(*seen, strict=True)])
    assert moved.norm().item() == pytest.approx(0.05)
    assert losses[1] > losses[0]


def test_parameters_without_a_gradient_stay_out() -> None:
    """A parameter that took no part keeps its value and stays without gradient; a zero gradient moves nothing."""
    parameters = [nn.Parameter(torch.tensor([0.0])), nn.Parameter(torch.tensor([7.0]))]
    seen: list[list[Tensor]] = []
    again = passes(parameters, lambda: quadratic(parameters[0]), seen)
    again()
    regularizers.create("sam").before_update(parameters, again)
    assert seen[0] == seen[1] == [torch.tensor([0.0]), torch.tensor([7.0])]
    assert parameters[0].grad == torch.tensor([0.0])
    assert parameters[1].grad is None


def test_running_statistics_are_those_of_the_first_pass() -> None:
    """Batch norm's buffers, the counter too, are after the update what one pass at the real weights makes of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, plain = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=momentum)) for momentum in (0.1, 0.1))
    plain.load_state_dict(net.state_dict())
    image_BCHW = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    plain(image_BCHW)
    sam = regularizers.create("sam", rho=1.0)
    sam.on_model(net)
    parameters, seen = list(net.parameters()), []
    again = passes(parameters, lambda: net(image_BCHW).square()[:, 0, 0].mean(), seen)
    again()
    sam.before_update(parameters, again)
    assert not torch.equal(seen[0][0], seen[1][0])
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name
    assert net[1].num_batches_tracked == 1


def test_sgd_with_sam_is_sgd_on_the_other_gradient() -> None:
    """Ten updates by hand in float64 and by torch's optimizer with the method in between agree."""
    parameter = nn.Parameter(torch.tensor([1.5, -0.5], dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    sam, by_hand = regularizers.create("sam", rho=0.2), parameter.detach().clone()
    for _ in range(10):
        again = passes([parameter], lambda: quadratic(parameter), [])
        again()
        sam.before_update([parameter], again)
        optimizer.step()
        gradient = by_hand * (1 + by_hand**2)
        worse = by_hand + 0.2 * gradient / gradient.norm()
        by_hand = by_hand - 0.1 * worse * (1 + worse**2)
    torch.testing.assert_close(parameter.detach(), by_hand)


@pytest.mark.parametrize("rho", [0.0, -0.1])
def test_rho_is_positive(rho: float) -> None:
    """No step at all, or one downhill, is refused."""
    with pytest.raises(ValueError, match=f"rho must be > 0, got {rho}"):
        regularizers.create("sam", rho=rho)
