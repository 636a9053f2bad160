"""CAM, CAAM, min-max and CAM-loss against the formulas written out.

Letters: B batch, C channels, H W rows and columns of the feature map (never equal here), K classes.
"""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from pipeline import losses, models
from pipeline.batch import LossInputs, Target
from pipeline.errors import UnknownNameError
from pipeline.losses.cam import Distance, Normalization, Reduction, caam, cam, cam_loss, min_max
from tests.losses.cam_oracle import FLAT, B, C, K, distance, example, flat_example, loops, normalized

DISTANCES, NORMALIZATIONS, REDUCTIONS = get_args(Distance), get_args(Normalization), get_args(Reduction)
OPTIONS = [{"distance": d, "normalization": n, "reduction": r} for d, n, r in itertools.product(DISTANCES, NORMALIZATIONS, REDUCTIONS)]


def ids(options: dict[str, str]) -> str:
    return "-".join(options.values())


def test_cam_and_caam_are_sums_over_channels() -> None:
    """Both maps equal the sums written as plain loops, where H and W differ."""
    feature_map_BCHW, weight_KC, label_B = example()
    expected_BHW = loops(feature_map_BCHW.numpy(), weight_KC.numpy()[label_B.numpy()])
    np.testing.assert_allclose(cam(feature_map_BCHW, weight_KC, label_B).numpy(), expected_BHW, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(caam(feature_map_BCHW).numpy(), loops(feature_map_BCHW.numpy(), np.ones((B, C))), rtol=1e-12, atol=1e-12)


def test_a_case_by_hand() -> None:
    """Two channels of 3x4: CAAM and CAM scale to steps of a fifth and a tenth, and nine differences are 0.4, three are 0.8."""
    feature_map_BCHW = torch.tensor([[
        [[0.0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 1]],
        [[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 4]],
    ]], dtype=torch.float64)  # fmt: skip
    weight_KC, label_B = torch.tensor([[9.0, 9.0], [2.0, -1.0]], dtype=torch.float64), torch.tensor([1])
    assert caam(feature_map_BCHW)[0].tolist() == [[4, 1, 2, 3], [0, 4, 0, 0], [1, 1, 1, 5]]
    assert cam(feature_map_BCHW, weight_KC, label_B)[0].tolist() == [[-4, 2, 4, 6], [0, -4, 0, 0], [2, 2, 2, -2]]
    assert min_max(caam(feature_map_BCHW))[0].tolist() == [[0.8, 0.2, 0.4, 0.6], [0, 0.8, 0, 0], [0.2, 0.2, 0.2, 1]]
    assert min_max(cam(feature_map_BCHW, weight_KC, label_B))[0].tolist() == [[0, 0.6, 0.8, 1], [0.4, 0, 0.4, 0.4], [0.6, 0.6, 0.6, 0.2]]
    for options, expected in (
        ({}, 0.5),
        ({"reduction": "sum"}, 6.0),
        ({"distance": "l2"}, 0.28),
        ({"distance": "l2", "reduction": "sum"}, 3.36),
        ({"distance": "smooth_l1"}, 0.14),
        ({"normalization": "none"}, (8 + 1 + 2 + 3 + 0 + 8 + 0 + 0 + 1 + 1 + 1 + 7) / 12),
    ):
        assert cam_loss(feature_map_BCHW, weight_KC, label_B, **options).item() == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_value_is_the_formula(options: dict[str, Any]) -> None:
    """Every distance, normalization and reduction equals the formula image by image, averaged over the batch."""
    feature_map_BCHW, weight_KC, label_B = example()
    caam_BHW = loops(feature_map_BCHW.numpy(), np.ones((B, C)))
    cam_BHW = loops(feature_map_BCHW.numpy(), weight_KC.numpy()[label_B.numpy()])
    how = options["normalization"]
    expected = np.mean([
        distance(normalized(a_HW, how), normalized(b_HW, how), options["distance"], options["reduction"])
        for a_HW, b_HW in zip(caam_BHW, cam_BHW, strict=True)
    ])  # fmt: skip
    assert cam_loss(feature_map_BCHW, weight_KC, label_B, **options).item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["reduction"] == "mean"], ids=ids)
def test_gradient_is_the_derivative(options: dict[str, Any]) -> None:
    """Away from ties the gradient to the feature map and to the classifier equals finite differences."""
    feature_map_BCHW, weight_KC, label_B = example(2, seed=3)

    def loss(feature_map_BCHW: Tensor, weight_KC: Tensor) -> Tensor:
        return cam_loss(feature_map_BCHW, weight_KC, label_B, classifier_grad=True, **options)

    assert torch.autograd.gradcheck(loss, (feature_map_BCHW.requires_grad_(), weight_KC.requires_grad_()))


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("content", FLAT)
def test_degenerate_maps_stay_finite(options: dict[str, Any], content: str) -> None:
    """Flat maps, which some images have early in training, give a finite loss and finite gradients."""
    feature_map_BCHW, weight_KC, label_B = flat_example(content)
    value = cam_loss(feature_map_BCHW, weight_KC, label_B, classifier_grad=True, **options)
    value.backward()
    assert torch.isfinite(value)
    assert feature_map_BCHW.grad is not None
    assert weight_KC.grad is not None
    assert torch.isfinite(feature_map_BCHW.grad).all()
    assert torch.isfinite(weight_KC.grad).all()


def test_the_classifier_gets_no_gradient_by_default() -> None:
    """Cross-entropy alone moves the classifier: the CAM term's gradient to it does not exist."""
    feature_map_BCHW, weight_KC, label_B = example()
    loss = cam_loss(feature_map_BCHW.requires_grad_(), weight_KC.requires_grad_(), label_B)
    to_features, to_classifier = torch.autograd.grad(loss, (feature_map_BCHW, weight_KC), allow_unused=True)
    assert to_classifier is None
    assert to_features.abs().sum() > 0


def test_classifier_gradient_on_is_that_of_the_formula() -> None:
    """With classifier_grad only the rows of present labels move, by the derivative of the formula written out."""
    feature_map_BCHW, weight_KC, _ = example()
    label_B = torch.tensor([0, 2, 2, 4])
    weight_KC.requires_grad_()
    cam_loss(feature_map_BCHW, weight_KC, label_B, classifier_grad=True).backward()
    by_hand_KC = weight_KC.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        source_HW = feature_map_BCHW[b].sum(0)
        target_HW = sum(by_hand_KC[label_B[b], c] * feature_map_BCHW[b, c] for c in range(C))
        scaled = [(m - m.min()) / (m.max() - m.min()) for m in (source_HW, target_HW)]
        total = total + (scaled[0] - scaled[1]).abs().mean() / B
    total.backward()
    assert weight_KC.grad is not None
    torch.testing.assert_close(weight_KC.grad, by_hand_KC.grad)
    assert (weight_KC.grad.abs().sum(1) > 0).tolist() == [True, False, True, False, True, False]


def test_target_grad_off_holds_the_cam_still() -> None:
    """target_grad=False gives the gradient of the formula in which the CAM is a constant, and another one than when on."""
    feature_map_BCHW, weight_KC, label_B = example()
    target_BHW = min_max(cam(feature_map_BCHW, weight_KC, label_B))
    feature_map_BCHW.requires_grad_()
    (expected,) = torch.autograd.grad((min_max(caam(feature_map_BCHW)) - target_BHW).abs().mean(), feature_map_BCHW)
    (off,) = torch.autograd.grad(cam_loss(feature_map_BCHW, weight_KC, label_B, target_grad=False), feature_map_BCHW)
    (on,) = torch.autograd.grad(cam_loss(feature_map_BCHW, weight_KC, label_B), feature_map_BCHW)
    torch.testing.assert_close(off, expected)
    assert not torch.allclose(off, on)


@pytest.mark.parametrize("lam", [0.3, torch.tensor([0.0, 0.25, 0.5, 1.0]), torch.tensor(0.3)], ids=["float", "lam_B", "scalar"])
def test_mixed_labels_mix_the_maps_before_normalization(lam: Tensor | float) -> None:
    """The target is min_max(lam CAM_a + (1 - lam) CAM_b), not the mixture of two scaled maps."""
    feature_map_BCHW, weight_KC, label_B = example()
    other_B = (label_B + 1) % K
    share_B = np.broadcast_to(np.asarray(lam, dtype=np.float64), (B,))
    source_BHW = loops(feature_map_BCHW.numpy(), np.ones((B, C)))
    a_BHW, b_BHW = (loops(feature_map_BCHW.numpy(), weight_KC.numpy()[label.numpy()]) for label in (label_B, other_B))
    mixed_BHW = share_B[:, None, None] * a_BHW + (1 - share_B[:, None, None]) * b_BHW
    expected = np.mean([
        np.abs(normalized(s, "min_max") - normalized(t, "min_max")).mean() for s, t in zip(source_BHW, mixed_BHW, strict=True)
    ])  # fmt: skip
    assert cam_loss(feature_map_BCHW, weight_KC, (label_B, other_B, lam)).item() == pytest.approx(expected, rel=1e-6)


def test_bfloat16_features_are_summed_in_float32() -> None:
    """A bfloat16 map gives the float32 loss of the rounded map, under autocast too, and stays near the loss of the exact map."""
    feature_map_BCHW, weight_KC, label_B = example(64)
    exact = cam_loss(feature_map_BCHW.float(), weight_KC.float(), label_B)
    rounded_BCHW = feature_map_BCHW.bfloat16()
    expected = cam_loss(rounded_BCHW.float(), weight_KC.float(), label_B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cam_loss(rounded_BCHW, weight_KC.float(), label_B)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)


# Whole numbers keep the shifted and scaled maps exact enough to compare.
MAPS = hnp.arrays(np.float64, st.tuples(*(st.integers(1, 4),) * 3), elements=st.integers(-50, 50).map(float))


@given(MAPS, st.floats(0.1, 10), st.integers(-100, 100))
def test_min_max_ignores_scale_and_shift(map_BHW: np.ndarray, scale: float, shift: int) -> None:
    """min_max(scale * m + shift) = min_max(m) for a positive scale; values lie in [0, 1] and touch both ends unless m is flat."""
    scaled_BHW = min_max(torch.from_numpy(map_BHW))
    whole = np.broadcast_to((map_BHW.max((1, 2)) > map_BHW.min((1, 2)))[:, None, None], map_BHW.shape)
    moved_BHW = min_max(torch.from_numpy(scale * map_BHW + shift))
    np.testing.assert_allclose(moved_BHW.numpy()[whole], scaled_BHW.numpy()[whole], atol=1e-9)
    assert (scaled_BHW >= 0).all()
    assert (scaled_BHW <= 1).all()
    for one_HW, given_HW in zip(scaled_BHW, map_BHW, strict=True):
        flat = given_HW.max() == given_HW.min()
        assert one_HW.min() == 0
        assert one_HW.max() == (0 if flat else 1)


@given(st.permutations(range(B)), st.sampled_from(OPTIONS))
def test_the_order_of_the_batch_does_not_matter(order: list[int], options: dict[str, Any]) -> None:
    """Permuting images together with their labels leaves the loss as it is."""
    feature_map_BCHW, weight_KC, label_B = example()
    before = cam_loss(feature_map_BCHW, weight_KC, label_B, **options)
    assert cam_loss(feature_map_BCHW[order], weight_KC, label_B[order], **options).item() == pytest.approx(before.item(), rel=1e-12)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_default_loss_ignores_the_scale_of_features_and_classifier(feature_scale: float, weight_scale: float) -> None:
    """Under min-max neither a larger feature map nor a larger classifier changes the loss, which stays in [0, 1]."""
    feature_map_BCHW, weight_KC, label_B = example()
    before = cam_loss(feature_map_BCHW, weight_KC, label_B).item()
    assert 0 <= before <= 1
    assert cam_loss(feature_scale * feature_map_BCHW, weight_scale * weight_KC, label_B).item() == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize(
    ("option", "wrong", "near"), [("distance", "l1_", "l1"), ("normalization", "minmax", "min_max"), ("reduction", "means", "mean")]
)
def test_unknown_options_are_named(option: str, wrong: str, near: str) -> None:
    """A wrong option names itself, the nearest word and all words, in the function and already when the term is made."""
    feature_map_BCHW, weight_KC, label_B = example()
    for attempt in (
        lambda: cam_loss(feature_map_BCHW, weight_KC, label_B, **{option: wrong}),  # type: ignore[arg-type]
        lambda: losses.create("cam", **{option: wrong}),
    ):
        with pytest.raises(UnknownNameError, match=f"Unknown {option} '{wrong}'.*Did you mean '{near}'") as caught:
            attempt()
        assert isinstance(caught.value, ValueError)


def test_the_registered_term_is_the_function() -> None:
    """The term called 'cam' passes on its options and the (mixed) labels of the batch."""
    feature_map_BCHW, weight_KC, label_B = example()
    target = Target(label_B, other_B=label_B.flip(0), lam=0.25)
    inputs = LossInputs(feature_map_BCHW, feature_map_BCHW.mean((2, 3)) @ weight_KC.T, weight_KC, target)
    term = losses.create("cam", distance="l2", normalization="l2", reduction="sum")
    expected = cam_loss(feature_map_BCHW, weight_KC, (label_B, label_B.flip(0), 0.25), distance="l2", normalization="l2", reduction="sum")
    assert term(inputs) == expected
    assert term(inputs) != losses.create("cam")(inputs)


@pytest.fixture(scope="module")
def resnet18_pair() -> tuple[torch.nn.Module, torch.nn.Module, Tensor]:
    """torchvision's resnet18, ours with the same weights, and a batch of images."""
    import torchvision

    nets = []
    for build in (torchvision.models.resnet18, lambda num_classes: models.create("resnet18", num_classes=num_classes)):
        torch.manual_seed(0)
        nets.append(build(num_classes=K).eval())
    return nets[0], nets[1], torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def test_cam_of_a_library_network_against_a_hook(resnet18_pair: tuple[torch.nn.Module, torch.nn.Module, Tensor]) -> None:
    """The CAM from our cut network equals the one from a hook on the library's last stage and its own classifier."""
    library, ours, image_BCHW = resnet18_pair
    label_B = torch.tensor([3, 1])
    caught = []
    handle = library.layer4.register_forward_hook(lambda module, inputs, output: caught.append(output))
    with torch.no_grad():
        library(image_BCHW)
        handle.remove()
        mine_BHW = cam(ours.forward_features(image_BCHW), ours.classifier_weight_KC, label_B)
    expected_BHW = torch.stack([(library.fc.weight[k][:, None, None] * f).sum(0) for k, f in zip(label_B, caught[0], strict=True)])
    assert mine_BHW.shape == (2, 3, 2)
    torch.testing.assert_close(mine_BHW, expected_BHW.detach())


def test_cam_of_a_library_network_against_torchcam(resnet18_pair: tuple[torch.nn.Module, torch.nn.Module, Tensor]) -> None:
    """torchcam's CAM of the same network, scaled to [0, 1] by that library, equals ours after min_max."""
    methods = pytest.importorskip("torchcam.methods", reason="torchcam, an independent oracle, is not installed")
    library, ours, image_BCHW = resnet18_pair
    label_B = [3, 1]
    with methods.CAM(library, "layer4", "fc") as extractor, torch.no_grad():
        library(image_BCHW)
        (theirs_BHW,) = extractor(class_idx=label_B, normalized=True)
    with torch.no_grad():
        mine_BHW = min_max(cam(ours.forward_features(image_BCHW), ours.classifier_weight_KC, torch.tensor(label_B)))
    torch.testing.assert_close(mine_BHW, theirs_BHW, atol=1e-5, rtol=1e-4)
