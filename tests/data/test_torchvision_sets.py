"""torchvision sets: conversion, and what a failed download says."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import data
from pipeline.data.torchvision_sets import convert
from pipeline.errors import ConfigError, DataError


def _cifar_like(rows: int) -> SimpleNamespace:
    """As torchvision's CIFAR10: arrays with channels, a list of targets. The first pixel holds the row."""
    image = np.zeros((rows, 32, 32, 3), np.uint8)
    image[:, 0, 0, 0] = np.arange(rows)
    return SimpleNamespace(data=image, targets=[row % 4 for row in range(rows)], classes=list("abcd"))


def _mnist_like(rows: int) -> SimpleNamespace:
    """As torchvision's FashionMNIST: tensors without a channel axis."""
    return SimpleNamespace(data=torch.zeros(rows, 28, 28, dtype=torch.uint8), targets=torch.arange(rows) % 4, classes=list("abcd"))


def test_rows_follow_the_split() -> None:
    """Images, labels and source rows stay together, val comes from the training rows, test from the test rows."""
    raw = convert(_cifar_like(200), _cifar_like(80), val_fraction=0.25)
    assert [len(raw.splits[split]) for split in ("train", "val", "test")] == [150, 50, 80]
    for part in raw.splits.values():
        image = np.concatenate(list(part.blocks()))
        assert image[:, 0, 0, 0].tolist() == part.source_index_N.tolist()
        assert (part.source_index_N % 4 == part.label_N).all()
    assert sorted([*raw.splits["train"].source_index_N, *raw.splits["val"].source_index_N]) == list(range(200))
    raw.check("fake")


def test_grey_images_get_a_channel() -> None:
    """Images without a channel axis become (N, H, W, 1)."""
    raw = convert(_mnist_like(40), _mnist_like(20))
    assert raw.splits["train"].image_NHWC.shape == (36, 28, 28, 1)
    raw.check("fake")


def test_subsets() -> None:
    """max_train counts train and val together; classes keep their proportions."""
    raw = convert(_cifar_like(200), _cifar_like(80), val_fraction=0.1, max_train=80, max_test=20)
    assert [len(raw.splits[split]) for split in ("train", "val", "test")] == [72, 8, 20]
    assert np.bincount(raw.splits["val"].label_N).tolist() == [2] * 4


def test_bad_option() -> None:
    """An option out of range is a ConfigError."""
    with pytest.raises(ConfigError, match="val_fraction"):
        convert(_cifar_like(20), _cifar_like(20), val_fraction=1.0)


@pytest.mark.parametrize(
    ("name", "where", "file"),
    [
        ("cifar10", "", "cifar-10-python.tar.gz"),
        ("cifar100", "", "cifar-100-python.tar.gz"),
        ("fashion_mnist", "FashionMNIST/raw", "train-images-idx3-ubyte.gz"),
    ],
)
def test_failed_download_says_which_files_go_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, where: str, file: str
) -> None:
    """Without files and without network the message names the files, their source and the folder; nothing is printed or prepared."""

    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    raw_root = tmp_path / "raw"
    with pytest.raises(DataError) as caught:
        data.prepare({"name": name}, tmp_path / "prepared", raw_root=raw_root)
    message = str(caught.value)
    assert "no network" in message
    assert f"{file}" in message
    assert "http" in message
    assert f"into {raw_root / where}" in message
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "prepared").exists()


def _idx(values: np.ndarray) -> bytes:
    """Bytes in the IDX format of MNIST-like sets."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def test_fashion_mnist_from_files_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are already there are used, with no request made."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    folder = tmp_path / "raw" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, rows in (("train", 60), ("t10k", 30)):
        image = np.full((rows, 28, 28), 7, np.uint8)
        image[:, 3, 5] = np.arange(rows)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_idx(image))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx((np.arange(rows) % 10).astype(np.uint8)))
    prepared = data.prepare({"name": "fashion_mnist", "val_fraction": 1 / 6}, tmp_path / "prepared", raw_root=tmp_path / "raw")
    assert prepared.ranges == {"train": (0, 50), "val": (50, 60), "test": (60, 90)}
    assert prepared.channels == 1
    assert prepared.classes[9] == "Ankle boot"
    assert prepared.split("test").image_NHWC[:, 3, 5, 0].tolist() == list(range(30))
