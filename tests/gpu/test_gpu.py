"""Trials on a CUDA device. Needs torch, torchvision, numpy, pytest and this repository, nothing else."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import losses, models, regularizers
from pipeline.batch import Batch, Target
from pipeline.data.image_data import ImageData
from pipeline.errors import ConfigError
from pipeline.losses.cam import cam_loss
from pipeline.store.records import Record
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Augment, Optimizer, TrialConfig
from pipeline.training.augment import crop_flip
from pipeline.training.feed import SplitFeed, TrainFeed
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective
from pipeline.trial import run_trial

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """512 + 128 + 128 RGB images of 64x64 pixels in 4 classes: a bright quarter on noise, with its mask."""
    rng, total = np.random.default_rng(0), 768
    label_N = np.arange(total) % 4
    image_NHWC = rng.integers(0, 160, (total, 64, 64, 3), dtype=np.uint8)
    mask_NHW = np.zeros((total, 64, 64), dtype=np.uint8)
    for row, label in enumerate(label_N):
        place = np.s_[32 * (label // 2) : 32 * (label // 2) + 32, 32 * (label % 2) : 32 * (label % 2) + 32]
        image_NHWC[row][place] += 90
        mask_NHW[row][place] = 1
    ranges = {"train": (0, 512), "val": (512, 640), "test": (640, 768)}
    mean, std = (tuple((f(image_NHWC[:512] / 255, axis=(0, 1, 2))).tolist()) for f in (np.mean, np.std))
    return ImageData("quarters", image_NHWC, label_N, mask_NHW, ("a", "b", "c", "d"), ranges, mean, std, "digest")


def trial(data: ImageData, checkpoints: Any = None, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "dataset": {"name": "quarters"},
        "backbone": {"name": "resnet18"},
        "loss": {"ce": {}, "cam": {"weight": 1.0}},
        "epochs": 3,
        "batch_size": 64,
        "optimizer": Optimizer(lr=0.02),
        "augment": Augment(crop_padding=4),
    }
    config = TrialConfig(**(fields | changes)).to_dict()
    return run_trial(TrialSpec("trial", "cell", config, 0, data.digest, "code"), data=data, device=CUDA, checkpoints=checkpoints)


def test_a_trial_learns_in_bfloat16(data: ImageData) -> None:
    """`auto` trains resnet18 with CAM-loss in bfloat16: accuracy leaves chance behind, peak memory and device are recorded."""
    record = trial(data)
    assert record["state"] == "complete"
    assert record["metric_test_acc_top1_last"] > 0.5
    assert all(np.isfinite(row["metric_train_cam"]) for row in record.history)
    assert record["env_device"] == "cuda"
    correct, count = record.panel["panel_class_correct"], record.panel["panel_class_count"]
    assert sum(correct) / sum(count) == pytest.approx(record["metric_test_acc_top1_last"])
    weights = 4 * 11_000_000
    assert 2 * weights < record["mem_peak_bytes"] < torch.cuda.get_device_properties(0).total_memory


def test_the_same_seed_gives_close_losses(data: ImageData) -> None:
    """Two runs of one trial agree closely; not bit for bit, since atomic additions on a GPU have no fixed order."""
    first, again = trial(data, epochs=1), trial(data, epochs=1)
    assert first["metric_train_loss_last"] == pytest.approx(again["metric_train_loss_last"], rel=0.05)
    other = trial(data, epochs=1, optimizer=Optimizer(lr=0.002))
    assert other["metric_train_loss_last"] != first["metric_train_loss_last"]


def test_bfloat16_is_near_float32_and_channels_last(data: ImageData) -> None:
    """The first step's CE and CAM-loss in bfloat16 are near those in float32; the feature map is bfloat16 and channels-last."""
    with torch.random.fork_rng(devices=[0]):
        torch.manual_seed(0)
        net = models.create("resnet18", num_classes=4).to(CUDA, memory_format=torch.channels_last)
    feed = SplitFeed(data.split("train"), data.mean, data.std, CUDA)
    batch = Batch(feed.normalise(feed.images(slice(0, 64))), Target(feed.label_N[:64]))
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    with autocast_for("auto", CUDA)():
        feature_map_BCHW = net.forward_features(batch.image_BCHW)
    assert feature_map_BCHW.dtype == torch.bfloat16
    assert feature_map_BCHW.is_contiguous(memory_format=torch.channels_last)
    values = {
        precision: losses_of(net, batch, Objective({"ce": {}, "cam": {}}), 0, autocast_for(precision, CUDA))
        for precision in ("auto", "float32")
    }
    for name in ("ce", "cam", "total"):
        assert values["auto"][name].dtype == torch.float32
        torch.testing.assert_close(values["auto"][name], values["float32"][name], rtol=0.03, atol=0.01)


def test_cam_loss_equals_the_cpus() -> None:
    """The same feature map gives the same loss and gradient on both devices, in float64."""
    rng = torch.Generator().manual_seed(0)
    feature_map_BCHW = torch.randn(8, 16, 5, 7, generator=rng, dtype=torch.float64)
    weight_KC, label_B = torch.randn(4, 16, generator=rng, dtype=torch.float64), torch.arange(8) % 4
    results: list[tuple[Tensor, Tensor]] = []
    for device in (torch.device("cpu"), CUDA):
        leaf_BCHW = feature_map_BCHW.to(device).requires_grad_()
        value = cam_loss(leaf_BCHW, weight_KC.to(device), label_B.to(device))
        value.backward()
        assert leaf_BCHW.grad is not None
        results.append((value.detach().cpu(), leaf_BCHW.grad.cpu()))
    torch.testing.assert_close(results[0], results[1])


def test_the_data_lie_on_the_device_as_bytes(data: ImageData) -> None:
    """Images are resident as uint8, batches are cut on the device without copies from the host."""
    feed = TrainFeed(
        data, CUDA, batch_size=64, augment=Augment(crop_padding=4, flip=True),
        order=torch.Generator().manual_seed(0), augment_rng=torch.Generator(CUDA).manual_seed(0),
    )  # fmt: skip
    assert feed.image_NHWC.device == CUDA
    assert feed.image_NHWC.dtype == torch.uint8
    for batch in feed.epoch():
        assert batch.image_BCHW.device == CUDA
        assert batch.target.label_B.device == CUDA


def test_images_that_do_not_fit_stay_on_the_host(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no memory to spare the same trial runs from the host and sees the same batches."""

    def first_batch() -> tuple[torch.device, Tensor]:
        feed = TrainFeed(
            data, CUDA, batch_size=64, augment=Augment(), order=torch.Generator().manual_seed(0), augment_rng=torch.Generator(CUDA)
        )
        return feed.image_NHWC.device, next(feed.epoch()).image_BCHW

    resident, expected_BCHW = first_batch()
    monkeypatch.setattr("pipeline.training.feed.RESIDENT_SHARE", 0.0)
    host, image_BCHW = first_batch()
    assert (resident.type, host.type) == ("cuda", "cpu")
    assert torch.equal(image_BCHW, expected_BCHW)


@pytest.mark.parametrize("regularizer", regularizers.names())
@pytest.mark.parametrize("loss", losses.names())
def test_every_method_runs_on_the_device(loss: str, regularizer: str) -> None:
    """Each loss with each regularizer takes a step on the device; what a regularizer draws for a batch waits for nothing."""
    terms = {"ce": {}, loss: {}} if not getattr(losses.registry.get(loss).factory, "changes_classifier", False) else {loss: {}}
    fits, reason = losses.supports(terms, regularizers.mixing([{"name": regularizer}]))
    if not fits:
        pytest.skip(reason)
    try:
        objective = Objective(terms)
    except ConfigError as missing_library:
        pytest.skip(str(missing_library))
    net = models.create("resnet18", num_classes=4).to(CUDA, memory_format=torch.channels_last)
    rng = torch.Generator(CUDA).manual_seed(0)
    batch = Batch(torch.randn(8, 3, 64, 64, generator=rng, device=CUDA), Target(torch.arange(8, device=CUDA) % 4))
    method = regularizers.create(regularizer)
    method.on_model(net)
    objective.attach(net.classifier, lambda name: 0)
    trained = [p for p in (*net.parameters(), *objective.parameters()) if p.requires_grad]
    pixels_BHWC = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8, device=CUDA)
    assert method.on_pixels(pixels_BHWC, rng).shape == pixels_BHWC.shape
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = method.on_batch(batch, rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    def gradients() -> None:
        for parameter in trained:
            parameter.grad = None
        total = losses_of(net, batch, objective, 0, autocast_for("auto", CUDA))["total"]
        total.backward()
        assert torch.isfinite(total)

    gradients()
    method.before_update(trained, gradients)
    # Stochastic depth may drop a whole block, whose parameters then have no gradient.
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trained)
    assert net.classifier_weight_KC.shape == (4, 512)


def test_augmentation_draws_on_the_device() -> None:
    """Crop and flip of the same seed on the device are repeatable, and never wait for the host."""
    image_BHWC = torch.randint(256, (16, 8, 8, 3), dtype=torch.uint8, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        first, again = (crop_flip(image_BHWC, padding=2, flip=True, generator=torch.Generator(CUDA).manual_seed(0)) for _ in range(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)


def test_a_continued_trial_draws_the_same_and_ends_close(data: ImageData) -> None:
    """Killed in the midst of an epoch and continued, all generators on the device go on where they stood, and the metrics are close.

    Not bit for bit, as two runs of one trial are not.
    """
    fields = {
        "regularizers": [{"name": "cutmix"}, {"name": "dropout", "p": 0.3}],
        "augment": Augment(crop_padding=4, flip=True),
        "ema": 0.9,
    }

    class Checkpoints:
        """Saves after some steps; dies after the first one of them if asked to."""

        def __init__(self, *steps: int, payload: bytes | None = None, dies: bool = False) -> None:
            self.steps, self.payloads, self.payload, self.dies, self.taken = steps, list[bytes](), payload, dies, 0

        def due(self) -> bool:
            self.taken += 1
            return self.taken in self.steps

        def save(self, payload: bytes) -> None:
            self.payloads.append(payload)
            if self.dies:
                raise KeyboardInterrupt

        def load(self) -> bytes | None:
            return self.payload

    def random_of(payload: bytes) -> list[Tensor]:
        line, _, body = payload.partition(b"\n")
        state = torch.load(io.BytesIO(body), weights_only=True)
        assert json.loads(line)["device"] == CUDA.type
        feed, (cutmix, dropout) = state["parts"]["feed"]["state"], state["parts"]["regularizers"]
        return [*state["random"].values(), feed["order"], feed["augment"], cutmix[1]["state"], dropout[1]["state"]]

    whole, killed = Checkpoints(11, 20), Checkpoints(11, dies=True)
    expected = trial(data, checkpoints=whole, **fields)
    with pytest.raises(KeyboardInterrupt):
        trial(data, checkpoints=killed, **fields)
    continued = Checkpoints(9, payload=killed.payloads[0])
    record = trial(data, checkpoints=continued, **fields)
    assert (record["resumed"], record["checkpoint_refused"]) == (1, "")
    for ours, theirs in zip(random_of(continued.payloads[0]), random_of(whole.payloads[1]), strict=True):
        assert torch.equal(ours, theirs)
    assert len(record.history) == 3
    assert record["metric_train_loss_last"] == pytest.approx(expected["metric_train_loss_last"], rel=0.1)
    assert record["metric_train_cam_last"] == pytest.approx(expected["metric_train_cam_last"], rel=0.1)
    assert record["mem_peak_bytes"] >= 2 * 4 * 11_000_000
