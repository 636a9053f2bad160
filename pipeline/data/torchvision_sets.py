"""CIFAR-10, CIFAR-100 and Fashion-MNIST through torchvision: from files that are already there, else downloaded."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import register
from pipeline.data.raw import RawData, RawSplit, gather
from pipeline.data.splits import assign
from pipeline.errors import DataError


@register("cifar10", label="CIFAR-10")
def cifar10(
    val_fraction: float = 0.1,
    seed_split: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
    raw_root: Path = Path("data/raw"),
) -> RawData:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 RGB images of 32x32, 10 classes; val is taken from the training images.

    Args:
        val_fraction: share of the training images held out as val, the same of every class; 0 leaves val empty.
        seed_split: seed of the subsets and of the val split.
        max_train: keep this many training images, val among them, every class in proportion; null keeps all.
        max_test: likewise for test images.
        raw_root: folder of the original files.

    Raises:
        DataError: the files are neither there nor can they be downloaded.
    """
    from torchvision.datasets import CIFAR10

    return _raw_data(CIFAR10, raw_root, _cifar_hint(CIFAR10), val_fraction, seed_split, max_train, max_test)


@register("cifar100", label="CIFAR-100")
def cifar100(
    val_fraction: float = 0.1,
    seed_split: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
    raw_root: Path = Path("data/raw"),
) -> RawData:
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 RGB images of 32x32, 100 fine classes; options as for `cifar10`."""
    from torchvision.datasets import CIFAR100

    return _raw_data(CIFAR100, raw_root, _cifar_hint(CIFAR100), val_fraction, seed_split, max_train, max_test)


@register("fashion_mnist", label="Fashion-MNIST")
def fashion_mnist(
    val_fraction: float = 0.1,
    seed_split: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
    raw_root: Path = Path("data/raw"),
) -> RawData:
    """Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747): 60,000 + 10,000 grey images of 28x28, 10 classes; options as for `cifar10`."""
    from torchvision.datasets import FashionMNIST

    files = ", ".join(name for name, _ in FashionMNIST.resources)
    hint = ("FashionMNIST/raw", f"{files} (from {' or '.join(FashionMNIST.mirrors)})")
    return _raw_data(FashionMNIST, raw_root, hint, val_fraction, seed_split, max_train, max_test)


def _cifar_hint(dataset: Any) -> tuple[str, str]:
    return "", f"{dataset.filename} (from {dataset.url})"


def _raw_data(
    dataset: Callable[..., Any],
    raw_root: Path,
    hint: tuple[str, str],
    val_fraction: float,
    seed_split: int,
    max_train: int | None,
    max_test: int | None,
) -> RawData:
    train, test = (load(dataset, raw_root, train, hint) for train in (True, False))
    return convert(train, test, val_fraction=val_fraction, seed_split=seed_split, max_train=max_train, max_test=max_test)


def load(dataset: Callable[..., Any], raw_root: Path, train: bool, hint: tuple[str, str]) -> Any:
    """A torchvision dataset object, from the files in `raw_root`, else from a download into it.

    Args:
        dataset: torchvision dataset class.
        raw_root: folder of the original files.
        train: training part, else the test part.
        hint: (folder below `raw_root`, files to put there), for the message.

    Raises:
        DataError: neither works.
    """
    try:
        return dataset(str(raw_root), train=train, download=False)
    except (RuntimeError, OSError) as error:
        absent = error
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # torchvision draws a progress bar
            return dataset(str(raw_root), train=train, download=True)
    except (RuntimeError, OSError, EOFError) as error:  # URLError is an OSError
        where, files = hint
        raise DataError(
            f"{dataset.__name__} is not in {raw_root} ({absent}) and the download failed ({error}). "
            f"Put {files} into {Path(raw_root) / where} and prepare again."
        ) from error


def convert(
    train: Any, test: Any, *, val_fraction: float = 0.1, seed_split: int = 0, max_train: int | None = None, max_test: int | None = None
) -> RawData:
    """Two torchvision dataset objects (`data`, `targets`, `classes`) as raw data.

    Raises:
        ConfigError: an option is out of range.
    """
    (train_NHWC, train_N), (test_NHWC, test_N) = _arrays(train), _arrays(test)
    rows = assign(train_N, test_N, val_fraction=val_fraction, seed_split=seed_split, max_train=max_train, max_test=max_test)
    splits = {split: RawSplit(gather(train_NHWC, rows[split]), train_N[rows[split]], rows[split]) for split in ("train", "val")}
    splits["test"] = RawSplit(gather(test_NHWC, rows["test"]), test_N[rows["test"]], rows["test"])
    return RawData(splits, tuple(train.classes))


def _arrays(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 image_NHWC, int64 label_N); torchvision keeps arrays and lists for CIFAR, tensors without channels for MNIST-like sets."""
    image = np.asarray(dataset.data, dtype=np.uint8)
    return image if image.ndim == 4 else image[..., None], np.asarray(dataset.targets, dtype=np.int64)
