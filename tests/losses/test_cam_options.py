"""Options of CAM-loss beyond distance, normalisation and reduction: targets, class-agnostic maps, mixed and smoothed labels.

Letters: B batch, C channels, H W rows and columns of the feature map (never equal here), K classes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import losses
from pipeline.batch import LossInputs, Target
from pipeline.errors import ConfigError, IncompatibleError, UnknownNameError
from pipeline.losses.cam import cam_loss
from pipeline.losses.class_shares import class_shares, target_weights
from pipeline.maps import caam, min_max
from tests.losses.cam_oracle import (
    FLAT,
    LAM_B,
    OTHER_B,
    B,
    C,
    K,
    agnostic,
    each,
    example,
    flat_example,
    shares_by_hand,
)

CAAMS = ("sum", "abs", "energy")
MIXED = ("maps", "losses", "dominant", "skip")


def inputs_of(feature_map_BCHW: Tensor, weight_KC: Tensor, target: Target) -> LossInputs:
    return LossInputs(feature_map_BCHW, feature_map_BCHW.mean((2, 3)) @ weight_KC.T, weight_KC, target)


# --- class-agnostic maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CAAMS)
def test_each_class_agnostic_map_is_its_sum(kind: str) -> None:
    """`sum`, `abs` and `energy` are the sums written as loops, in the map and in the loss."""
    feature_map_BCHW, weight_KC, label_B = example()
    expected_BHW = agnostic(feature_map_BCHW.numpy(), kind)
    np.testing.assert_allclose(caam(feature_map_BCHW, kind).numpy(), expected_BHW, rtol=1e-12)  # type: ignore[arg-type]
    expected = each(feature_map_BCHW, weight_KC.numpy()[label_B.numpy()], kind).mean()
    assert cam_loss(feature_map_BCHW, weight_KC, label_B, caam=kind).item() == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


# --- labels of every kind ------------------------------------------------------------------------------------------------------------


def test_a_matrix_of_shares_asks_for_the_sum_of_the_maps() -> None:
    """The target of shares is sum_k share_k CAM_k; one-hot rows are labels, two ones are the sum of two maps."""
    feature_map_BCHW, weight_KC, label_B = example()
    share_BK = torch.rand(B, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = each(feature_map_BCHW, share_BK.numpy() @ weight_KC.numpy()).mean()
    assert cam_loss(feature_map_BCHW, weight_KC, share_BK).item() == pytest.approx(expected, rel=1e-12)
    one_hot_BK = torch.eye(K, dtype=torch.float64)[label_B]
    torch.testing.assert_close(cam_loss(feature_map_BCHW, weight_KC, one_hot_BK), cam_loss(feature_map_BCHW, weight_KC, label_B))
    both_BK = (one_hot_BK + torch.eye(K, dtype=torch.float64)[OTHER_B]).clamp(max=1)
    expected = each(feature_map_BCHW, weight_KC.numpy()[label_B.numpy()] + weight_KC.numpy()[OTHER_B.numpy()]).mean()
    assert (label_B != OTHER_B).all()
    assert cam_loss(feature_map_BCHW, weight_KC, both_BK).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["label", "mixed", "matrix"])
def test_shares_and_channel_weights_agree(kind: str, smoothing: float) -> None:
    """The channel weights of a target are its class shares times the classifier, and shares of labels sum to one."""
    _, weight_KC, label_B = example()
    label: Any = {"label": label_B, "mixed": (label_B, OTHER_B, LAM_B), "matrix": torch.full((B, K), 1 / K, dtype=torch.float64)}[kind]
    share_BK = class_shares(label, K, smoothing, torch.float64)
    torch.testing.assert_close(share_BK.sum(1), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(target_weights(weight_KC, label, smoothing), share_BK @ weight_KC)
    if kind == "mixed":
        for b in range(B):
            assert share_BK[b, label_B[b]] == pytest.approx((1 - smoothing) * LAM_B[b].item() + smoothing / K)
            assert share_BK[b, OTHER_B[b]] == pytest.approx((1 - smoothing) * (1 - LAM_B[b].item()) + smoothing / K)


def test_a_plain_label_picks_rows() -> None:
    """A plain label makes no B x K matrix: its weights are the rows themselves, even of a classifier with a row that is not finite."""
    _, weight_KC, _ = example()
    weight_KC[5] = float("nan")
    assert torch.equal(target_weights(weight_KC, torch.tensor([0, 4])), weight_KC[[0, 4]])


@pytest.mark.parametrize("lam", [0.25, 0.5, 1.0, LAM_B[1], LAM_B], ids=["0.25", "0.5", "1", "scalar", "lam_B"])
@pytest.mark.parametrize("mixed", MIXED)
def test_each_way_with_mixed_labels_is_its_formula(mixed: str, lam: float | Tensor) -> None:
    """Maps mixed, losses mixed, the dominant label, or only unmixed images: each equals the loops image by image."""
    feature_map_BCHW, weight_KC, label_B = example()
    share_B = np.broadcast_to(np.asarray(lam, dtype=np.float64), (B,))
    rows_a, rows_b = weight_KC.numpy()[label_B.numpy()], weight_KC.numpy()[OTHER_B.numpy()]
    a_B, b_B = each(feature_map_BCHW, rows_a), each(feature_map_BCHW, rows_b)
    dominant_B = np.where(share_B >= 0.5, a_B, b_B)
    expected_B = {
        "maps": each(feature_map_BCHW, share_B[:, None] * rows_a + (1 - share_B[:, None]) * rows_b),
        "losses": share_B * a_B + (1 - share_B) * b_B,
        "dominant": dominant_B,
        "skip": np.where((share_B == 0) | (share_B == 1), dominant_B, 0),
    }[mixed]
    value = cam_loss(feature_map_BCHW, weight_KC, (label_B, OTHER_B, lam), mixed=mixed)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(expected_B.mean(), rel=1e-12)
    plain = cam_loss(feature_map_BCHW, weight_KC, label_B, mixed=mixed)  # type: ignore[arg-type]
    assert plain == cam_loss(feature_map_BCHW, weight_KC, label_B), "the way with mixed labels does not touch plain ones"


def test_a_skipped_batch_gives_a_zero_that_backward_accepts() -> None:
    """Where every image is mixed, `skip` is zero with a zero gradient, and still part of the graph."""
    feature_map_BCHW, weight_KC, label_B = example()
    value = cam_loss(feature_map_BCHW.requires_grad_(), weight_KC, (label_B, OTHER_B, 0.3), mixed="skip")
    value.backward()
    assert value == 0
    assert feature_map_BCHW.grad is not None
    assert (feature_map_BCHW.grad == 0).all()


def test_smoothed_shares_make_the_target() -> None:
    """With label smoothing s the target is (1 - s) CAM_y + s times the mean of all CAMs; by default smoothing does not touch it."""
    feature_map_BCHW, weight_KC, label_B = example()
    rows = 0.6 * weight_KC.numpy()[label_B.numpy()] + 0.4 * weight_KC.numpy().mean(0)
    expected = each(feature_map_BCHW, rows).mean()
    assert cam_loss(feature_map_BCHW, weight_KC, label_B, label_smoothing=0.4).item() == pytest.approx(expected, rel=1e-12)
    inputs = inputs_of(feature_map_BCHW, weight_KC, Target(label_B, smoothing=0.4))
    assert losses.create("cam", smoothing="shares")(inputs).item() == pytest.approx(expected, rel=1e-12)
    assert losses.create("cam")(inputs) == cam_loss(feature_map_BCHW, weight_KC, label_B)
    mixed = replace(inputs, target=Target(label_B, OTHER_B, LAM_B, smoothing=0.4))
    share_B1 = LAM_B.numpy()[:, None]
    rows_a, rows_b = weight_KC.numpy()[label_B.numpy()], weight_KC.numpy()[OTHER_B.numpy()]
    rows = 0.6 * (share_B1 * rows_a + (1 - share_B1) * rows_b) + 0.4 * weight_KC.numpy().mean(0)
    assert losses.create("cam", smoothing="shares")(mixed).item() == pytest.approx(each(feature_map_BCHW, rows).mean(), rel=1e-12)


# --- which class -----------------------------------------------------------------------------------------------------------------------


TARGETS = {
    "plain": Target(torch.tensor([2, 0, 4, 1])),
    "mixed": Target(torch.tensor([2, 0, 1, 1]), OTHER_B, LAM_B),  # the third image is mixed with one of its own class
    "float": Target(torch.tensor([2, 0, 1, 1]), OTHER_B, 0.25),
}


@pytest.mark.parametrize("labels", TARGETS)
@pytest.mark.parametrize(("kind", "top_k"), [("predicted", 3), ("top_k", 1), ("top_k", 3), ("top_k", K), ("multi_label", 3)])
def test_each_target_is_the_mean_of_its_classes_maps(kind: str, top_k: int, labels: str) -> None:
    """Predicted, highest and present classes: the loss is that of their maps with equal shares, chosen image by image."""
    feature_map_BCHW, weight_KC, _ = example()
    inputs = inputs_of(feature_map_BCHW, weight_KC, TARGETS[labels])
    share_BK = shares_by_hand(kind, inputs, top_k)
    expected_B = each(feature_map_BCHW, share_BK @ weight_KC.numpy())
    # A share of a third is rounded to float32.
    assert losses.create("cam", target=kind, top_k=top_k)(inputs).item() == pytest.approx(expected_B.mean(), rel=1e-6)


@pytest.mark.parametrize("kind", ["label", "predicted", "top_k", "multi_label"])
def test_only_the_maps_carry_gradient(kind: str) -> None:
    """The choice of classes has none, the classifier none unless asked; asked, the gradient is that of the formula written out."""
    feature_map_BCHW, weight_KC, _ = example()
    feature_map_BCHW.requires_grad_(), weight_KC.requires_grad_()
    inputs = inputs_of(feature_map_BCHW, weight_KC, TARGETS["mixed"])
    logits_BK = inputs.logits_BK.detach().requires_grad_()
    inputs = replace(inputs, logits_BK=logits_BK)
    leaves = (feature_map_BCHW, weight_KC, logits_BK)
    to_map, to_weight, to_logits = torch.autograd.grad(losses.create("cam", target=kind)(inputs), leaves, allow_unused=True)
    assert to_weight is None
    assert to_logits is None
    assert to_map.abs().sum() > 0

    value = losses.create("cam", target=kind, classifier_grad=True)(inputs)
    to_map, to_weight, to_logits = torch.autograd.grad(value, leaves, allow_unused=True)
    assert to_logits is None
    if kind == "label":
        share_BK = LAM_B[:, None] * torch.eye(K).double()[inputs.target.label_B] + (1 - LAM_B[:, None]) * torch.eye(K).double()[OTHER_B]
    else:
        share_BK = torch.from_numpy(shares_by_hand(kind, inputs, 3))
    cam_BHW = sum(share_BK[:, k, None, None] * (weight_KC[k][:, None, None] * feature_map_BCHW).sum(1) for k in range(K))
    written_out = (min_max(feature_map_BCHW.sum(1)) - min_max(cam_BHW)).abs().mean((1, 2)).mean()
    expected = torch.autograd.grad(written_out, (feature_map_BCHW, weight_KC))
    torch.testing.assert_close((to_map, to_weight), expected, rtol=1e-5, atol=1e-7)


OPTIONS = [{"caam": kind, "mixed": mixed, "label_smoothing": s} for kind, mixed, s in itertools.product(CAAMS, MIXED, (0.0, 0.2))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_gradients_are_derivatives(options: dict[str, Any]) -> None:
    """Away from ties the gradient to the feature map and to the classifier equals finite differences, for mixed labels too."""
    feature_map_BCHW, weight_KC, _ = example(2, seed=3)
    label = (torch.tensor([0, 4]), torch.tensor([3, 1]), torch.tensor([0.3, 1.0], dtype=torch.float64))

    def loss(feature_map_BCHW: Tensor, weight_KC: Tensor) -> Tensor:
        return cam_loss(feature_map_BCHW, weight_KC, label, classifier_grad=True, **options)

    assert torch.autograd.gradcheck(loss, (feature_map_BCHW.requires_grad_(), weight_KC.requires_grad_()))


def test_gradient_to_the_feature_map_for_shares() -> None:
    """Shares given as a matrix pass gradcheck as labels do."""
    feature_map_BCHW, weight_KC, _ = example(2, seed=3)
    share_BK = torch.rand(2, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: cam_loss(f, weight_KC, share_BK), (feature_map_BCHW.requires_grad_(),))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("content", FLAT)
def test_degenerate_maps_stay_finite(options: dict[str, Any], content: str) -> None:
    """Flat maps give a finite loss and finite gradients with every option."""
    feature_map_BCHW, weight_KC, label_B = flat_example(content)
    value = cam_loss(feature_map_BCHW, weight_KC, (label_B, OTHER_B, LAM_B.float()), classifier_grad=True, **options)
    gradients = torch.autograd.grad(value, (feature_map_BCHW, weight_KC))
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@given(st.permutations(range(B)), st.sampled_from(OPTIONS))
def test_the_order_of_the_batch_does_not_matter(order: list[int], options: dict[str, Any]) -> None:
    """Permuting images together with their mixed labels leaves the loss as it is."""
    feature_map_BCHW, weight_KC, label_B = example()
    before = cam_loss(feature_map_BCHW, weight_KC, (label_B, OTHER_B, LAM_B), **options)
    after = cam_loss(feature_map_BCHW[order], weight_KC, (label_B[order], OTHER_B[order], LAM_B[order]), **options)
    assert after.item() == pytest.approx(before.item(), rel=1e-12)


@given(st.floats(0.1, 10), st.lists(st.integers(-20, 20), min_size=C, max_size=C), st.sampled_from(MIXED))
def test_min_max_ignores_scale_and_shift_of_both_maps(scale: float, shift: list[int], mixed: str) -> None:
    """A larger feature map and a constant added to each channel, which shifts CAAM and CAM by a constant, leave the loss as it is."""
    feature_map_BCHW, weight_KC, label_B = example()
    moved_BCHW = scale * feature_map_BCHW + torch.tensor(shift, dtype=torch.float64)[:, None, None]
    values = [cam_loss(f, weight_KC, (label_B, OTHER_B, LAM_B), mixed=mixed).item() for f in (feature_map_BCHW, moved_BCHW)]  # type: ignore[arg-type]
    assert values[1] == pytest.approx(values[0], rel=1e-7)


# --- wrong options -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "wrong", "near"),
    [
        ("caam", "sums", "sum"),
        ("target", "labels", "label"),
        ("mixed", "map", "maps"),
        ("smoothing", "share", "shares"),
        ("inner_target", "lost", "last"),
    ],
)
def test_unknown_words_are_named(option: str, wrong: str, near: str) -> None:
    """A wrong word names itself, the nearest word and all words when the term is made, and in the function."""
    attempts = [lambda: losses.create("cam", **{option: wrong})]
    if option in ("caam", "mixed"):
        attempts.append(lambda: cam_loss(*example(), **{option: wrong}))  # type: ignore[arg-type]
    for attempt in attempts:
        with pytest.raises(UnknownNameError, match=f"Unknown {option} '{wrong}'.*Did you mean '{near}'"):
            attempt()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"stages": []}, r"stages must be .* got \[\]"),
        ({"stages": [0]}, r"stages must be .* got \[0\]"),
        ({"stages": [-1, -1]}, r"stages must be .* got \[-1, -1\]"),
        ({"mixed": "skip", "target": "predicted"}, "mixed must be 'maps' unless target is 'label', got 'skip' with target 'predicted'"),
        ({"smoothing": "shares", "target": "top_k"}, "smoothing 'shares' .* no meaning with target 'top_k'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """A number out of range, and an option that another one makes idle, are errors that name what was given."""
    with pytest.raises(ValueError, match=message):
        losses.create("cam", **options)


def test_more_classes_than_there_are() -> None:
    """top_k beyond the number of classes says how many there are."""
    feature_map_BCHW, weight_KC, label_B = example()
    with pytest.raises(ConfigError, match=f"top_k is {K + 1}, but there are only {K} classes"):
        losses.create("cam", target="top_k", top_k=K + 1)(inputs_of(feature_map_BCHW, weight_KC, Target(label_B)))
    for options in ({"target": "top_k", "top_k": K}, {"target": "label", "top_k": K + 1}):
        losses.create("cam", **options).attach(nn.Linear(2, K))
    with pytest.raises(IncompatibleError, match=f"top_k is {K + 1}, but there are only {K} classes"):
        losses.create("cam", target="top_k", top_k=K + 1).attach(nn.Linear(2, K))


@pytest.mark.parametrize(
    ("options", "compares"),
    [({}, True), ({"stages": [-2]}, False), ({"stages": [-2, -1]}, True), ({"stages": [-2], "inner_target": "last"}, True)],
)
def test_which_terms_need_a_last_map_of_several_pixels(options: dict[str, Any], compares: bool) -> None:
    """Those that compare the last map, or compare with it."""
    assert losses.create("cam", **options).compares_positions is compares


def test_a_study_file_sees_the_default_stages() -> None:
    """The option `stages` is a list of whole numbers with the last stage as default."""
    assert losses.registry.get("cam").options["stages"] == (list[int], [-1])
