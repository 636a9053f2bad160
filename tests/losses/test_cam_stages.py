"""CAM-loss at inner stages, in a real network, and against another library. Letters: B batch, C channels, H W feature map, K classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import losses, models
from pipeline.batch import Batch, LossInputs, Target
from pipeline.errors import IncompatibleError
from pipeline.losses.cam import cam_loss
from pipeline.losses.class_shares import class_shares
from pipeline.maps import cam, grad_cam_weights, min_max, weighted_map
from pipeline.models.backbone import Backbone
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective
from tests.losses.cam_oracle import LAM_B, OTHER_B, B, C, K, agnostic, distance, each, example, loops, normalized, shares_by_hand


class Tail(nn.Module):
    """From an inner map of 3x4 to a last one of 2x2, smooth so that finite differences can be taken; then pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, 3, 2, stride=(1, 2))
        self.classifier = nn.Linear(3, K)

    def forward(self, inner_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The last map and the logits."""
        last_BCHW = torch.tanh(self.conv(inner_BCHW))
        return last_BCHW, self.classifier(last_BCHW.mean((2, 3)))


@pytest.fixture(name="tail")
def tail_fixture() -> Tail:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tail().double()


def staged(tail: Tail, inner_BCHW: Tensor, target: Target) -> LossInputs:
    last_BCHW, logits_BK = tail(inner_BCHW)
    return LossInputs(last_BCHW, logits_BK, tail.classifier.weight, target, stage_maps=(inner_BCHW, last_BCHW))


def weights_by_differences(tail: Tail, inner_BCHW: Tensor, share_BK: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """weight_BC: how much a score rises when a channel is raised everywhere by 1 / (H W), by central differences."""
    weight_BC = np.zeros((B, C))
    with torch.no_grad():
        for c in range(C):
            raised = []
            for sign in (1, -1):
                moved_BCHW = inner_BCHW.detach().clone()
                moved_BCHW[:, c] += sign * step
                raised.append((tail(moved_BCHW)[1].numpy() * share_BK).sum(1))
            weight_BC[:, c] = (raised[0] - raised[1]) / (2 * step) / inner_BCHW[0, 0].numel()
    return weight_BC


@pytest.mark.parametrize("options", [{}, {"mixed": "losses"}, {"target": "top_k"}, {"smoothing": "shares"}], ids=str)
def test_an_inner_stage_is_compared_with_its_grad_cam(tail: Tail, options: dict[str, Any]) -> None:
    """The class map of an inner stage has the channel weights that finite differences of the target score give."""
    inner_BCHW = example()[0].requires_grad_()
    inputs = staged(tail, inner_BCHW, Target(torch.tensor([2, 0, 1, 1]), OTHER_B, LAM_B, smoothing=0.2))
    eye, lam_B1 = np.eye(K), LAM_B.numpy()[:, None]
    a_BK, b_BK = eye[inputs.target.label_B.numpy()], eye[OTHER_B.numpy()]
    mixed_BK = lam_B1 * a_BK + (1 - lam_B1) * b_BK

    def loss_B(share_BK: np.ndarray) -> np.ndarray:
        return each(inner_BCHW.detach(), weights_by_differences(tail, inner_BCHW, share_BK))

    if options.get("mixed") == "losses":
        expected_B = LAM_B.numpy() * loss_B(a_BK) + (1 - LAM_B.numpy()) * loss_B(b_BK)
    elif options.get("target") == "top_k":
        expected_B = loss_B(shares_by_hand("top_k", inputs, 3))
    else:
        expected_B = loss_B(0.8 * mixed_BK + 0.2 / K if options else mixed_BK)
    value = losses.create("cam", stages=[-2], **options)(inputs)
    assert value.item() == pytest.approx(expected_B.mean(), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"normalization": "l2"}, {"normalization": "none", "distance": "cosine"}], ids=str)
def test_grad_cam_of_the_last_stage_is_the_cam(tail: Tail, options: dict[str, Any]) -> None:
    """At the last stage the Grad-CAM weights are the classifier's over H W, so both ways give one loss there: no seam."""
    inputs = staged(tail, example()[0], Target(torch.tensor([2, 0, 1, 1]), OTHER_B, LAM_B))
    again = replace(inputs, stage_maps=(*inputs.stage_maps[:1], inputs.feature_map_BCHW, inputs.feature_map_BCHW))
    share_BK = class_shares(inputs.target.cam_label, K, dtype=torch.float64)
    (weight_BC,) = grad_cam_weights(inputs.logits_BK, [inputs.feature_map_BCHW], share_BK)
    positions = inputs.feature_map_BCHW[0, 0].numel()
    torch.testing.assert_close(positions * weight_BC, share_BK @ tail.classifier.weight.detach())
    assert not weight_BC.requires_grad
    by_gradient = losses.create("cam", stages=[-2], **options)(again)  # -2 is the last map there
    assert by_gradient.item() == pytest.approx(losses.create("cam", **options)(inputs).item(), rel=1e-9)


def test_several_stages_are_averaged(tail: Tail) -> None:
    """The term over several stages is the mean of its terms over each, and [-1] is the plain CAM-loss."""
    inputs = staged(tail, example()[0].requires_grad_(), Target(torch.tensor([2, 0, 1, 1])))
    inner, last, both = (losses.create("cam", stages=stages)(inputs) for stages in ([-2], [-1], [-1, -2]))
    assert last == cam_loss(inputs.feature_map_BCHW, inputs.classifier_weight_KC, inputs.target.label_B)
    assert both.item() == pytest.approx((inner.item() + last.item()) / 2, rel=1e-12)
    assert inner != last


def test_the_weights_of_an_inner_stage_are_constants(tail: Tail) -> None:
    """An inner stage's term moves its map by the gradient of the formula with fixed channel weights, and no layer behind the map."""
    inner_BCHW, label_B = example()[0].requires_grad_(), torch.tensor([2, 0, 1, 1])
    inputs = staged(tail, inner_BCHW, Target(label_B))
    for target_grad in (True, False):
        value = losses.create("cam", stages=[-2], classifier_grad=True, target_grad=target_grad)(inputs)
        assert all(parameter.grad is None for parameter in tail.parameters()), "the inner gradient must leave .grad alone"
        to_map, *behind = torch.autograd.grad(value, (inner_BCHW, *tail.parameters()), allow_unused=True, retain_graph=True)
        assert behind == [None] * len(behind)
        weight_BC = torch.from_numpy(weights_by_differences(tail, inner_BCHW, np.eye(K)[label_B.numpy()]))
        target_BHW = weighted_map(inner_BCHW if target_grad else inner_BCHW.detach(), weight_BC)
        written_out = (min_max(inner_BCHW.sum(1)) - min_max(target_BHW)).abs().mean()
        torch.testing.assert_close(to_map, torch.autograd.grad(written_out, inner_BCHW)[0], rtol=1e-5, atol=1e-8)


def bilinear(map_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize with pixel centres at halves and the border repeated."""

    def matrix(out: int, given: int) -> np.ndarray:
        rows = np.zeros((out, given))
        for i in range(out):
            at = max((i + 0.5) * given / out - 0.5, 0.0)
            low = min(int(at), given - 1)
            rows[i, low] += 1 - (at - low)
            rows[i, min(low + 1, given - 1)] += at - low
        return rows

    return matrix(size[0], map_HW.shape[0]) @ map_HW @ matrix(size[1], map_HW.shape[1]).T


@pytest.mark.parametrize("classifier_grad", [True, False])
def test_an_inner_stage_can_be_compared_with_the_last_cam(tail: Tail, classifier_grad: bool) -> None:
    """With inner_target `last` the target is the last stage's CAM resized bilinearly, and `classifier_grad` holds for it."""
    inner_BCHW, label_B = example()[0], torch.tensor([2, 0, 1, 1])
    inputs = staged(tail, inner_BCHW, Target(label_B))
    value = losses.create("cam", stages=[-2], inner_target="last", classifier_grad=classifier_grad)(inputs)
    last_BHW = loops(inputs.feature_map_BCHW.detach().numpy(), tail.classifier.weight.detach().numpy()[label_B.numpy()])
    source_BHW = agnostic(inner_BCHW.numpy(), "sum")
    expected = np.mean([
        distance(normalized(source, "min_max"), normalized(bilinear(last, source.shape), "min_max"), "l1", "mean")
        for source, last in zip(source_BHW, last_BHW, strict=True)
    ])  # fmt: skip
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert (tail.classifier.weight.grad is not None) == classifier_grad
    assert tail.conv.weight.grad.abs().sum() > 0


def test_stages_are_asked_for_only_where_they_are_needed() -> None:
    """The term and the objective want stage maps only for an inner stage, the objective only once the term is active."""
    assert losses.create("cam").fewest_stages == 1
    assert losses.create("cam", stages=[-1]).fewest_stages == 1
    assert losses.create("cam", stages=[-3, -2]).fewest_stages == 3
    objective = Objective({"ce": {}, "cam": {"start_epoch": 2, "stages": [-1, -2]}})
    assert [objective.needs_stages(epoch) for epoch in range(4)] == [False, False, True, True]


def test_a_stage_that_the_network_lacks_is_named(tail: Tail) -> None:
    """Asking for more stages than there are says how many there are."""
    inputs = staged(tail, example()[0].requires_grad_(), Target(torch.tensor([2, 0, 1, 1])))
    with pytest.raises(IncompatibleError, match=r"stages asks for stage -3, but this network has 2: -1 to -2"):
        losses.create("cam", stages=[-1, -3])(inputs)


# --- a real network ------------------------------------------------------------------------------------------------------------------


def network(name: str = "resnet8") -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create(name, num_classes=K, in_channels=3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("inner_target", ["own", "last"])
def test_a_training_step_over_all_stages(inner_target: str, precision: str) -> None:
    """Every stage of resnet8 in training mode, under autocast too: a finite float32 term that reaches the first layer, twice the same."""
    net = network()
    objective = Objective({"cam": {"stages": [-1, -2, -3], "inner_target": inner_target, "mixed": "losses"}})
    rng = torch.Generator().manual_seed(0)
    target = Target(torch.tensor([2, 0, 1, 1]), OTHER_B, LAM_B.float())
    batch, gradients, values = Batch(torch.randn(B, 3, 16, 24, generator=rng), target), [], []
    for _ in range(2):  # as sharpness-aware minimisation calls it
        net.zero_grad(set_to_none=True)
        value = losses_of(net, batch, objective, 0, autocast_for(precision, torch.device("cpu")))["total"]
        value.backward()
        values.append(value)
        gradients.append([None if p.grad is None else p.grad.clone() for p in net.parameters()])
    assert values[0].dtype == torch.float32
    assert 0 < values[0] < 1
    assert values[0] == values[1]
    assert net.classifier.weight.grad is None
    first = next(p for p in net.body.parameters())
    assert torch.isfinite(first.grad).all()
    assert first.grad.abs().sum() > 0
    for one, two in zip(*gradients, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)


def test_bfloat16_stays_near_float32() -> None:
    """The term over inner stages of resnet8 in bfloat16 is that in float32 up to rounding."""
    net = network().eval()
    batch = Batch(torch.randn(32, 3, 16, 24, generator=torch.Generator().manual_seed(0)), Target(torch.arange(32) % K))
    objective = Objective({"cam": {"stages": [-1, -2]}})
    contexts = [autocast_for(precision, torch.device("cpu")) for precision in ("float32", "bfloat16")]
    exact, rounded = (losses_of(net, batch, objective, 0, context)["cam"].item() for context in contexts)
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact


def test_grad_cam_of_a_library_network_against_torchcam() -> None:
    """torchcam's Grad-CAM at an inner layer of torchvision's resnet18 equals ours after a ReLU."""
    methods = pytest.importorskip("torchcam.methods", reason="torchcam, an independent oracle, is not installed")
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library = torchvision.models.resnet18(num_classes=K).eval()
        torch.manual_seed(0)
        ours = models.create("resnet18", num_classes=K).eval()
    image_BCHW, label_B = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 1])
    with methods.GradCAM(library, ["layer2", "layer3", "layer4"]) as extractor:
        theirs = extractor(class_idx=label_B.tolist(), scores=library(image_BCHW), normalized=False)
    stage_maps = ours.forward_stages(image_BCHW)
    logits_BK = ours.forward_head(stage_maps[-1])
    weights = grad_cam_weights(logits_BK, stage_maps[-3:], class_shares(label_B, K))
    for map_BCHW, weight_BC, their_BHW in zip(stage_maps[-3:], weights, theirs, strict=True):
        torch.testing.assert_close(weighted_map(map_BCHW, weight_BC).relu(), their_BHW, rtol=1e-3, atol=1e-6)
        assert their_BHW.max() > 0
    positions = stage_maps[-1][0, 0].numel()
    cam_BHW = cam(stage_maps[-1], ours.classifier_weight_KC, label_B) / positions
    torch.testing.assert_close(cam_BHW.relu(), theirs[-1], rtol=1e-3, atol=1e-6)
