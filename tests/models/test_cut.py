"""The cutter finds the feature map before global average pooling, and says why where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import IncompatibleError
from pipeline.models.backbone import Backbone
from pipeline.models.cut import cut


class Net(nn.Module):
    """Two convolutions and whatever a test makes of pooling and classifier."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)))
        self.fc = nn.Linear(6, 5)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.features(x), inplace=True)
        return self.fc(self.pool(x).flatten(1))


class FunctionalPool(Net):
    """Pools with functions that take keywords, drops with a function."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(input=self.features(x), output_size=(1, 1))
        x = functional.dropout(torch.flatten(x, 1), p=0.3, training=self.training)
        return self.fc(input=x)


class FixedPool(Net):
    """Pools with a kernel made for 8x8 maps, as networks for CIFAR do."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.features(x), 8)
        return self.fc(x.view(x.size(0), -1))


class MeanPool(Net):
    """Pools with mean over negative axes, in a helper method, with two dropouts behind."""

    def pooled(self, x: Tensor) -> Tensor:
        return self.drop(self.same(x.mean((-1, -2))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pooled(self.features(x))))


PLAIN = nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, 5)
)


class Raises(Net):
    """A forward that stands for the many ways of not ending in pooling and a linear layer."""

    def __init__(self, how: str) -> None:
        super().__init__(
            hidden=nn.Linear(6, 6), norm=nn.LayerNorm(6), grid=nn.AdaptiveAvgPool2d(2), wide=nn.Linear(24, 5), peak=nn.AdaptiveMaxPool2d(1)
        )
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.how == "mode":
            x = torch.sin(x) if self.training else x
        if self.how == "grid":
            return self.wide(self.grid(x).flatten(1))
        if self.how == "peak":
            return self.fc(self.peak(x).flatten(1))
        if self.how == "rows":
            return self.fc(x.mean(2).mean(2))
        x = x.mean((2, 3))
        if self.how == "hidden":
            x = functional.relu(self.hidden(x))
        if self.how == "norm":
            x = self.norm(x)
        x = x * 2.0 if self.how == "sum" else x
        x = self.fc(x) if self.how != "none" else x
        return functional.log_softmax(x, dim=1) if self.how == "after" else x


@pytest.mark.parametrize(
    ("network", "dropout"),
    [
        (Net(pool=nn.AdaptiveAvgPool2d(1)), 0.0),
        (Net(pool=nn.AdaptiveAvgPool2d((1, 1))), 0.0),
        (Net(pool=nn.AvgPool2d(8)), 0.0),
        (FunctionalPool(), 0.3),
        (FixedPool(), 0.0),
        (MeanPool(drop=nn.Dropout(0.5), same=nn.Identity()), 0.75),
        (PLAIN, 0.1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_pieces_compute_what_the_network_computes(network: nn.Module, dropout: float) -> None:
    """Body, pooling and classifier give the uncut network's logits, share its parameters and know its dropout."""
    torch.manual_seed(0)
    network.eval()
    image_BCHW = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected_BK = network(image_BCHW)
        body, classifier, found = cut(network, "net")
        logits_BK = Backbone(body, classifier)(image_BCHW)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-5, atol=1e-6)
    assert found == pytest.approx(dropout)
    assert {id(p) for p in [*body.parameters(), *classifier.parameters()]} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_modes_stay_as_they_were(training: bool) -> None:
    """Cutting leaves the network and all parts of the body in the mode the network was in."""
    network = Net(pool=nn.AdaptiveAvgPool2d(1)).train(training)
    body, _, _ = cut(network, "net")
    assert all(module.training is training for module in [*network.modules(), *body.modules()])


def test_residual_blocks_stay_whole() -> None:
    """Modules other than plain containers are used as they are, not copied and not traced."""
    block = nn.TransformerEncoderLayer(4, 2, batch_first=True)  # its forward branches on values, so tracing into it would fail
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Flatten(2), block, nn.Unflatten(1, (4, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    body, _, _ = cut(network, "net")
    assert any(module is block for module in body.modules())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hidden", "net has Linear, relu between"),
        ("norm", "net has LayerNorm between"),
        ("grid", "net has AdaptiveAvgPool2d (no average over all positions) between"),
        ("peak", "net has AdaptiveMaxPool2d (no average over all positions) between"),
        ("rows", "net has mean, mean between"),
        ("sum", "net has mul between"),
        ("none", "net has no linear classifier"),
        ("after", "net has log_softmax after its linear classifier"),
        ("mode", "net runs different code in training and in evaluation"),
    ],
)
def test_other_ends_are_refused_with_what_lies_there(how: str, reason: str) -> None:
    """A network without an exact class activation map raises IncompatibleError that names what is in the way."""
    with pytest.raises(IncompatibleError) as caught:
        cut(Raises(how), "net")
    assert str(caught.value).startswith(reason)
