"""A toy vocabulary, so that studies are expanded without torch, and study files made from text or from dictionaries."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pipeline.registry import Registry
from pipeline.study.config import StudyFile
from pipeline.study.design import TableDesign, expand
from pipeline.study.resolve import Vocabulary

Write = Callable[[str], StudyFile]
Declare = Callable[..., StudyFile]
Expand = Callable[[StudyFile], list[TableDesign]]


@pytest.fixture(name="vocabulary", scope="session")
def vocabulary_fixture() -> Vocabulary:
    """Registries whose factories only check their options."""
    datasets: Registry[Any] = Registry("dataset", "pipeline.study", reserved=("raw_root",))
    backbones: Registry[Any] = Registry("backbone", "pipeline.study", reserved=("num_classes", "in_channels"))
    losses: Registry[Any] = Registry("loss", "pipeline.study")
    regularizers: Registry[Any] = Registry("regularizer", "pipeline.study")

    @datasets.register("digits")
    def digits(canvas: int = 24, noise: float = 0.5, raw_root: Path = Path()) -> None: ...

    @datasets.register("folder")
    def folder(root: str, size: int | None = None) -> None: ...

    @backbones.register("resnet8")
    @backbones.register("resnet20")
    def resnet(num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> None: ...

    @backbones.register("vgg")
    def vgg(num_classes: int, in_channels: int = 3) -> None: ...

    @losses.register("ce")
    def ce() -> None: ...

    @losses.register("cam")
    def cam(distance: Literal["l1", "l2"] = "l1", power: float = 1.0) -> None: ...

    @regularizers.register("cutout")
    @dataclass(frozen=True, kw_only=True)
    class Cutout:
        size: int = 8

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(f"size must be >= 1 pixel, got {self.size}")

    @regularizers.register("mixup")
    @dataclass(frozen=True, kw_only=True)
    class Mixup:
        alpha: float = 1.0

    return Vocabulary(datasets, backbones, losses, regularizers)


@pytest.fixture(name="expand_file", scope="session")
def expand_file_fixture(vocabulary: Vocabulary) -> Expand:
    """Expand a study with the toy vocabulary."""
    return lambda file: expand(file, vocabulary)


@pytest.fixture(name="write", scope="session")
def write_fixture(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write the text of a study file and read it."""
    path = tmp_path_factory.mktemp("studies") / "toy.yaml"

    def write(text: str) -> StudyFile:
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return StudyFile(path)

    return write


@pytest.fixture(name="declare", scope="session")
def declare_fixture(write: Write) -> Declare:
    """Declare a study of one table `t` from a dictionary; keywords replace parts of the whole, or of its table."""

    def declare(**changes: Any) -> StudyFile:
        table = {"rows": {"backbone": ["resnet8"]}, "columns": {"arm": ["ce"]}}
        own = ("rows", "columns", "baseline", "set", "selection", "metric", "style", "reference")
        table |= {key: changes.pop(key) for key in own if key in changes}
        changes |= {"style": changes.pop("study_style")} if "study_style" in changes else {}
        study = {
            "study": "toy",
            "defaults": {"dataset": "digits", "epochs": 8, "loss": {"ce": {}}},
            "arms": {"ce": {}, "cam": {"loss": {"cam": {"weight": 1.0, "start_epoch": 2}}}},
            "tables": {"t": table},
        }
        return write(yaml.safe_dump(study | changes, sort_keys=False))

    return declare
