"""A batch of pooled features for the tests of losses. Letters: B batch, C channels, K classes, H W feature map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline import losses, models
from pipeline.batch import LossInputs, Target
from pipeline.maps import cam

B, C, K = 7, 5, 4
LABEL_B = torch.tensor([0, 1, 3, 3, 1, 0, 3])  # class 2 is missing
OTHER_B = torch.tensor([1, 1, 0, 2, 3, 0, 2])
LAM_B = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0, 0.7, 0.3], dtype=torch.float64)


def features(seed: int = 0, *, batch: int = B, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    """feature_BC and weight_KC in float64, leaves that need gradients."""
    rng = torch.Generator().manual_seed(seed)
    feature_BC = scale * torch.randn(batch, C, generator=rng, dtype=torch.float64)
    weight_KC = torch.randn(K, C, generator=rng, dtype=torch.float64)
    return feature_BC.requires_grad_(), weight_KC.requires_grad_()


def inputs(feature_BC: Tensor, weight_KC: Tensor, target: Target | Tensor) -> LossInputs:
    """What a loss sees of these features, with a feature map of one pixel."""
    target = Target(target) if isinstance(target, Tensor) else target
    return LossInputs(feature_BC[:, :, None, None], feature_BC @ weight_KC.T, weight_KC, target, feature_BC)


def mixed_is_the_mixture(loss: Callable[[LossInputs], Tensor], smoothing: float = 0.0) -> None:
    """Assert `L = mean of lam * L(a) + (1 - lam) * L(b)`, image by image, for lam a number an image and one for all."""
    feature_BC, weight_KC = features()

    def one(row: int, label: Tensor) -> Tensor:
        return loss(inputs(feature_BC[row : row + 1], weight_KC, Target(label[None], smoothing=smoothing)))

    a_B = torch.stack([one(i, LABEL_B[i]) for i in range(B)])
    b_B = torch.stack([one(i, OTHER_B[i]) for i in range(B)])
    for lam in (LAM_B, 0.3, 1.0):
        value = loss(inputs(feature_BC, weight_KC, Target(LABEL_B, OTHER_B, lam, smoothing)))
        torch.testing.assert_close(value, (lam * a_B + (1 - lam) * b_B).mean())


def attached(name: str) -> tuple[losses.Loss, nn.Module]:
    """A loss that is attached to a resnet8 with 4 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.create("resnet8", num_classes=K, in_channels=1).eval()
        loss = losses.create(name)
        loss.attach(net.classifier)
    return loss, net


def maps_are_exact(net: nn.Module) -> None:
    """Assert that on random images the spatial mean of each CAM plus the bias is the logit."""
    with torch.no_grad():
        feature_map_BCHW = net.forward_features(torch.randn(3, 1, 16, 12, generator=torch.Generator().manual_seed(0)))
        logits_BK = net.forward_head(feature_map_BCHW)
        bias_K = torch.zeros(K) if net.classifier.bias is None else net.classifier.bias
        for k in range(K):
            map_BHW = cam(feature_map_BCHW, net.classifier_weight_KC, torch.full((3,), k))
            torch.testing.assert_close(map_BHW.mean((1, 2)) + bias_K[k], logits_BK[:, k], rtol=1e-4, atol=1e-4)


def descent(loss: losses.Loss, *, steps: int = 30, lr: float = 0.05, classifier: nn.Linear | None = None) -> tuple[float, float]:
    """First and last value of a loss when free features, and the classifier, follow its gradient."""
    feature_BC = torch.randn(24, C, generator=torch.Generator().manual_seed(3)).requires_grad_()
    label_B = torch.arange(24) % K
    if classifier is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classifier = nn.Linear(C, K)
    loss.attach(classifier)
    optimizer = torch.optim.SGD([feature_BC, *classifier.parameters()], lr=lr)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        given = LossInputs(feature_BC[:, :, None, None], classifier(feature_BC), classifier.weight, Target(label_B), feature_BC)
        value = loss(given)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values[0], values[-1]


def under_autocast_as_in_float32(name: str) -> None:
    """Assert that a bfloat16 feature under autocast gives the float32 loss of the same rounded feature."""
    feature_BC, weight_KC = (x.detach().bfloat16().float() for x in features())
    values = []
    for half in (False, True):
        loss = losses.create(name)
        loss.attach(nn.Linear(C, K))
        given_BC = feature_BC.bfloat16() if half else feature_BC
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            given = LossInputs(given_BC[:, :, None, None], feature_BC @ weight_KC.T, weight_KC, Target(LABEL_B), given_BC)
            values.append(loss(given))
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-5)
