"""The dataset of a trial as an input of its MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_CONTEXTS = {"train": "train", "val": "validation", "test": "test"}  # split -> the word MLflow uses
_DIGEST_LENGTH = 36  # characters that MLflow keeps


@dataclass(frozen=True)
class DataView:
    """What MLflow shows of the data of a trial.

    Attributes:
        name: name of the dataset.
        digest: of its prepared content, the one that enters the identity of the trial.
        source: where it comes from: the dataset as the study file declares it, options filled in.
        shape: (height, width, channels) of an image; () when the prepared dataset is not at hand.
        class_counts: split -> images a class; empty when the prepared dataset is not at hand.
    """

    name: str
    digest: str
    source: Mapping[str, Any]
    shape: tuple[int, ...] = ()
    class_counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def short_digest(view: DataView) -> str:
    """As much of the digest as MLflow keeps; the profile has all of it."""
    return view.digest[:_DIGEST_LENGTH]


def dataset_inputs(view: DataView) -> list[DatasetInput]:
    """One input a split, `digits/train` and so on: MLflow keeps one context for a name and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=f"{view.name}/{split}",
                digest=short_digest(view),
                source_type="ablate",
                source=json.dumps(view.source, sort_keys=True, default=str),
                schema=_schema(view.shape),
                profile=_profile(view, split),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for split, context in _CONTEXTS.items()
    ]


def _schema(shape: tuple[int, ...]) -> str | None:
    """Images and labels in MLflow's form of a schema of arrays."""
    if not shape:
        return None
    features = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *shape]}}]
    targets = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    return json.dumps({"mlflow_tensorspec": {"features": json.dumps(features), "targets": json.dumps(targets)}})


def _profile(view: DataView, split: str) -> str:
    counts = view.class_counts.get(split)
    sizes = {} if counts is None else {"images": sum(counts), "classes": len(counts), "images_per_class": list(counts)}
    return json.dumps({"digest": view.digest} | sizes)
