"""What pictures are drawn from: right against numbers by hand and scikit-learn, and without any effect on a trial."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from pipeline import trial
from pipeline.data.image_data import ImageData, Split
from pipeline.models.backbone import Backbone
from pipeline.store.records import panel_types, rows_to_table
from pipeline.study.spec import TrialSpec
from pipeline.training.evaluate import EVAL_BATCH, evaluate
from pipeline.training.feed import SplitFeed
from pipeline.training.loop import autocast_for
from pipeline.training.panel import correct_by_class, panel_of, principal_plane
from pipeline.trial import run_trial

CPU = torch.device("cpu")


class Body(nn.Module):
    """Two channels: the normalised image, and half its negative."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return torch.cat([image_BCHW, -image_BCHW / 2], dim=1)


def by_hand(image_NHW: list[list[list[int]]], labels: list[int], weight_KC: list[list[float]]) -> tuple[Backbone, ImageData]:
    """A net whose feature map is the image, on test images given as numbers (one training image besides)."""
    classifier = nn.Linear(2, len(weight_KC))
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor(weight_KC))
        classifier.bias.zero_()
    image_NHWC = np.array([image_NHW[0], *image_NHW], np.uint8)[..., None]
    ranges = {"train": (0, 1), "val": (1, 1), "test": (1, len(image_NHWC))}
    names = tuple("abcdefgh"[: len(weight_KC)])
    data = ImageData("hand", image_NHWC, np.array([0, *labels]), None, names, ranges, (0.0,), (1.0,), "digest")
    return Backbone(Body(), classifier), data


def test_maps_and_predictions_of_a_net_made_by_hand() -> None:
    """Channels x and -x/2: CAAM is x/2, CAM of class a x, of class b -x/2, each scaled to its own range; a flat map is 0."""
    images = [[[0, 51, 255]], [[0, 51, 255]], [[7, 7, 7]]]
    model, data = by_hand(images, [0, 1, 2], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    panel = panel_of(model.train(), data, CPU, contextlib.nullcontext)
    assert panel["panel_index"] == [0, 1, 2]
    assert (panel["panel_height"], panel["panel_width"]) == (1, 3)
    assert list(panel["panel_cam"]) == [0, 51, 255, 255, 204, 0, 0, 0, 0]
    assert list(panel["panel_caam"]) == [0, 51, 255, 0, 51, 255, 0, 0, 0]
    assert panel["panel_label"] == [0, 1, 2]
    assert panel["panel_predicted"] == [0, 0, 0]
    assert panel["panel_class_correct"] == [1, 0, 0]
    assert panel["panel_class_count"] == [1, 1, 1]
    assert panel["panel_digest"] == "digest"
    assert model.training
    # Features are (m, -m/2) with means m = 102, 102, 7 (of 255): one axis holds all the variance.
    assert panel["panel_share"] == pytest.approx([1.0, 0.0], abs=1e-12)
    xy = np.frombuffer(panel["panel_xy"], "<f2").reshape(-1, 2)
    assert xy[:, 0] == pytest.approx([0.5, 0.5, -1.0], abs=1e-3)
    assert not xy[:, 1].any()


def test_a_map_that_is_not_finite_is_empty() -> None:
    """Infinite weights leave a flat map and features without a plane instead of an error or noise."""
    model, data = by_hand([[[0, 255]], [[255, 0]]], [0, 1], [[float("inf"), 0.0], [1.0, 0.0]])
    panel = panel_of(model, data, CPU, contextlib.nullcontext)
    assert list(panel["panel_cam"]) == [0, 0, 255, 0]
    xy, share = principal_plane(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
    assert not xy.any()
    assert share == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 40), channels=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_plane_is_that_of_scikit_learn(count: int, channels: int, seed: int) -> None:
    """Coordinates agree with PCA up to the sign of an axis, shares exactly, and the largest loading is positive."""
    spread_C = torch.logspace(0, -1, channels)
    feature_NC = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)) * spread_C + 3.0
    xy, share = principal_plane(feature_NC)
    pca = PCA(2, svd_solver="full")
    theirs = pca.fit_transform(feature_NC.double().numpy())
    np.testing.assert_allclose(share, pca.explained_variance_ratio_, rtol=1e-9, atol=1e-12)
    for axis in range(2):
        loading = pca.components_[axis]
        sign = np.sign(loading[np.abs(loading).argmax()])
        np.testing.assert_allclose(xy[:, axis].numpy(), sign * theirs[:, axis], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "share"), [((1, 3), [0.0, 0.0]), ((2, 3), [1.0, 0.0]), ((4, 1), [1.0, 0.0])])
def test_plane_of_too_little(shape: tuple[int, int], share: list[float]) -> None:
    """One image, two images, or one channel: the axes that do not exist are 0."""
    xy, found = principal_plane(torch.arange(shape[0] * shape[1]).reshape(shape).float().square())
    assert xy.shape == (shape[0], 2)
    assert found == pytest.approx(share, abs=1e-12)
    assert not xy[:, 1].abs().gt(1e-9).any()


def test_pictures_change_no_number_of_a_trial(
    tiny_data: ImageData, make_spec: Callable[..., TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without them weights, metrics and the states of all generators are the same; and twice they are themselves the same."""
    spec = make_spec(regularizers=[{"name": "dropout", "p": 0.3}], ema=0.9)
    with_them, again = (run_trial(spec, data=tiny_data) for _ in range(2))
    assert with_them.panel == again.panel

    def watched(*arguments: Any) -> dict[str, Any]:
        before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
        panel = panel_of(*arguments)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])
        assert random.getstate() == before[2]
        watched.panels.append(panel)  # type: ignore[attr-defined]
        return {}

    watched.panels = []  # type: ignore[attr-defined]
    monkeypatch.setattr(trial, "panel_of", watched)
    without = run_trial(spec, data=tiny_data)
    assert without.panel == {}
    assert watched.panels == [with_them.panel]  # type: ignore[attr-defined]
    times = ("time_", "mem_")
    assert [{k: v for k, v in row.items() if not k.startswith(times)} for row in with_them.history] == [
        {k: v for k, v in row.items() if not k.startswith(times)} for row in without.history
    ]
    assert {k: v for k, v in with_them.items() if not k.startswith(times)} == {k: v for k, v in without.items() if not k.startswith(times)}
    assert not [key for key in with_them if key.startswith("panel_")]


def test_pictures_are_of_the_weights_that_are_kept(tiny_data: ImageData, make_spec: Callable[..., TrialSpec]) -> None:
    """With an EMA the maps are those of the averaged copy: they follow from the weights handed to the sink."""
    from pipeline import models

    class Sink:
        weights = "last"

        def epoch(self, row: dict[str, Any]) -> None: ...

        def save_weights(self, state: dict[str, Tensor]) -> None:
            self.state = state

    sink = Sink()
    record = run_trial(make_spec(ema=0.5), data=tiny_data, sink=sink)
    model = models.create("resnet8", num_classes=3, in_channels=1)
    model.load_state_dict(sink.state)
    assert panel_of(model, tiny_data, CPU, contextlib.nullcontext)["panel_predicted"] == record.panel["panel_predicted"]
    mine = np.frombuffer(panel_of(model, tiny_data, CPU, contextlib.nullcontext)["panel_cam"], np.uint8).astype(int)
    assert np.abs(mine - np.frombuffer(record.panel["panel_cam"], np.uint8)).max() <= 1  # the memory layout differs


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.5, "regularizers": [{"name": "dropout", "p": 0.3}]}, {"precision": "bfloat16"}, {"evaluate_test": "selected"}],
    ids=["plain", "averaged weights", "bfloat16", "tested when selected"],
)
def test_classes_add_up_to_the_accuracy(make_data: Callable[..., ImageData], make_spec: Callable[..., TrialSpec], changes: Any) -> None:
    """Summed over the classes it is the stored accuracy of the last epoch, to the last bit; the test split is several batches."""
    data = make_data(test=EVAL_BATCH + 111)
    record = run_trial(make_spec(epochs=1, digest=data.digest, **changes), data=data)
    correct, count = record.panel["panel_class_correct"], record.panel["panel_class_count"]
    assert 0 < sum(correct) < sum(count)
    assert sum(correct) / sum(count) == record["metric_test_acc_top1_last"]
    assert count == np.unique(data.split("test").label_N, return_counts=True)[1].tolist()


def test_classes_are_the_diagonal_of_the_confusion_matrix(
    make_data: Callable[..., ImageData], make_net: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against scikit-learn, with a last batch that is smaller and a class that no image has."""
    monkeypatch.setattr("pipeline.training.panel.EVAL_BATCH", 7)
    data, model = make_data(test=40), make_net(seed=3, classes=4).eval()
    split = data.split("test")
    feed = SplitFeed(split, data.mean, data.std, CPU)
    with torch.no_grad():
        correct_K = correct_by_class(model, feed, 4, contextlib.nullcontext)
        predicted_N = model(feed.normalise(feed.images(slice(None)))).argmax(1)
    expected = confusion_matrix(split.label_N, predicted_N, labels=range(4)).diagonal()
    assert correct_K.tolist() == expected.tolist()
    assert 0 < expected.sum() < 40
    nothing = SplitFeed(Split(split.image_NHWC[:0], split.label_N[:0], None), data.mean, data.std, CPU)
    assert correct_by_class(model, nothing, 4, contextlib.nullcontext).tolist() == [0, 0, 0, 0]


def test_classes_are_counted_in_the_batches_of_the_evaluation(
    make_data: Callable[..., ImageData], make_net: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same batches and the same precision, so that no logit is rounded another way."""
    data, model = make_data(test=EVAL_BATCH + 3, masks=False), make_net().eval()
    feed, seen, forward = SplitFeed(data.split("test"), data.mean, data.std, CPU), [], model.forward_features

    def watched(image_BCHW: Tensor) -> Tensor:
        feature_map_BCHW = forward(image_BCHW)
        seen.append((image_BCHW.shape, image_BCHW.stride(), feature_map_BCHW.dtype))
        return feature_map_BCHW

    monkeypatch.setattr(model, "forward_features", watched)
    autocast = autocast_for("bfloat16", CPU)
    evaluate(model, feed, autocast)
    there = list(seen)
    seen.clear()
    with torch.no_grad():
        correct_by_class(model, feed, 3, autocast)
    assert seen == there
    assert [shape[0] for shape, _, _ in seen] == [EVAL_BATCH, 3]


def test_a_few_kilobytes_in_the_declared_columns(tiny_data: ImageData, make_spec: Callable[..., TrialSpec]) -> None:
    """The keys are the columns of the store, in its types, and a trial's pictures stay small; a diverged trial has none."""
    import pyarrow.parquet as pq

    record = run_trial(make_spec(epochs=1), data=tiny_data)
    assert set(record.panel) == set(panel_types())
    table = rows_to_table([record.panel])
    assert {field.name: field.type for field in table.schema} == panel_types()
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False, store_schema=False)
    assert len(sink.getvalue()) < 8192
    diverged = run_trial(make_spec(optimizer={"name": "sgd", "lr": 1e30}, epochs=1), data=tiny_data)
    assert diverged["failure"] == "diverged"
    assert diverged.panel == {}
