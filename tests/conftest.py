"""What all tests share: one thread, a tiny dataset in memory, and trials made by hand."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: threads cost more than they give on tiny tensors

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pipeline.data.image_data import ImageData
    from pipeline.models.backbone import Backbone
    from pipeline.study.spec import TrialSpec

DataFactory = Callable[..., "ImageData"]
SpecFactory = Callable[..., "TrialSpec"]


@pytest.fixture(scope="session")
def make_data() -> DataFactory:
    """Factory of a separable dataset: the class is the place of a bright 5x5 square on noise, and the mask is that square."""
    from pipeline.data.image_data import ImageData

    def make(train: int = 64, val: int = 16, test: int = 16, *, size: tuple[int, int] = (12, 12), masks: bool = True) -> ImageData:
        rng, total = np.random.default_rng(7), train + val + test
        label_N = rng.permutation(np.arange(total) % 3).astype(np.int64)
        image_NHWC = rng.integers(0, 120, (total, *size, 1), dtype=np.uint8)
        mask_NHW = np.zeros((total, *size), dtype=np.uint8)
        for row, label in enumerate(label_N):
            top, left = ((0, 0), (0, size[1] - 5), (size[0] - 5, 0))[label]
            image_NHWC[row, top : top + 5, left : left + 5] = 240
            mask_NHW[row, top : top + 5, left : left + 5] = 1
        scaled = image_NHWC[:train] / 255
        ranges = {"train": (0, train), "val": (train, train + val), "test": (train + val, total)}
        return ImageData(
            "corners",
            image_NHWC,
            label_N,
            mask_NHW if masks else None,
            ("a", "b", "c"),
            ranges,
            (float(scaled.mean()),),
            (float(scaled.std()),),
            f"digest-{train}-{val}-{test}",
        )

    return make


@pytest.fixture(scope="session")
def tiny_data(make_data: DataFactory) -> ImageData:
    """96 grey images of 12x12 pixels in 3 classes, with masks."""
    return make_data()


@pytest.fixture(scope="session")
def make_spec() -> SpecFactory:
    """Factory of a trial that lasts about a second: resnet8 on `tiny_data`; keywords replace fields of `TrialConfig`."""
    from pipeline.study.spec import TrialSpec
    from pipeline.study.trial_config import Optimizer, TrialConfig

    def make(seed: int = 0, digest: str = "digest-64-16-16", **changes: Any) -> TrialSpec:
        fields: dict[str, Any] = {
            "dataset": {"name": "corners"},
            "backbone": {"name": "resnet8"},
            "epochs": 2,
            "batch_size": 16,
            "optimizer": Optimizer(lr=0.05),
        }
        return TrialSpec("trial", "cell", TrialConfig(**(fields | changes)).to_dict(), seed, digest, "code")

    return make


@pytest.fixture(scope="session")
def make_net() -> Callable[..., Backbone]:
    """Factory of a network small enough to be checked by hand: one convolution, batch norm and 3 classes for grey images."""
    import torch
    from torch import nn

    from pipeline.models.backbone import Backbone

    def make(seed: int = 0, channels: int = 4, classes: int = 3) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = nn.Sequential(nn.Conv2d(1, channels, 3, stride=2), nn.BatchNorm2d(channels), nn.ReLU())
            return Backbone(body, nn.Linear(channels, classes))

    return make
