"""What trials will take on the disk of the store: their records, the weights that are kept, and checkpoints while they run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration.remembered import Remembered
from pipeline.store.segments import FOLDER
from pipeline.store.trial_store import TrialStore
from pipeline.study.identity import digest
from pipeline.study.spec import TrialSpec

RECORD_BYTES = 30_000  # where no record is stored to measure: row, history of some tens of epochs, pictures
FILE = "sizes.json"
OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2}  # of the weights, in the optimizer's state
BEST_COPY = 1  # weights of the best validation epoch, held until the end


@dataclass(frozen=True)
class Footprint:
    """Bytes.

    Attributes:
        records: of the trials to come, from the mean of what is stored.
        is_guess: nothing is stored to take a mean of.
        weights: that are kept.
        checkpoints: at the same time, at most, while trials run; removed afterwards.
    """

    records: int
    is_guess: bool
    weights: int
    checkpoints: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.records + self.weights + self.checkpoints

    def line(self) -> str:
        """'12 MB of records, 1.2 GB of weights, up to 300 MB of checkpoints while running'."""
        parts = [f"{_size(self.records)} of records" + (" (none is stored to measure)" if self.is_guess else "")]
        if self.weights:
            parts.append(f"{_size(self.weights)} of weights")
        if self.checkpoints:
            parts.append(f"up to {_size(self.checkpoints)} of checkpoints while running")
        return ", ".join(parts)


def footprint(
    specs: Iterable[TrialSpec], *, record_bytes: int | None, model_bytes: Mapping[str, int], keeps_weights: bool, long: set[str], slots: int
) -> Footprint:
    """What these trials will take.

    Args:
        specs: trials to come.
        record_bytes: mean of the stored ones, see `mean_record_bytes`.
        model_bytes: cell id -> bytes of the network, see `ModelSizes`; a cell that is missing counts as nothing.
        keeps_weights: whether the store keeps weights.
        long: ids of trials that last long enough to be checkpointed.
        slots: trials at a time.
    """
    specs = list(specs)
    sizes = {spec.trial_id: model_bytes.get(spec.cell_id, 0) for spec in specs}
    checkpoints = sorted((sizes[spec.trial_id] * _copies(spec.config) for spec in specs if spec.trial_id in long), reverse=True)
    return Footprint(
        records=len(specs) * (record_bytes or RECORD_BYTES),
        is_guess=record_bytes is None,
        weights=sum(sizes.values()) if keeps_weights else 0,
        checkpoints=sum(checkpoints[:slots]),
    )


def mean_record_bytes(store: TrialStore, records: int) -> int | None:
    """Bytes of segments a stored trial; None for an empty store."""
    return int(store.files.fs.du(store.files.path(FOLDER))) // records if records else None


class ModelSizes:
    """Bytes of networks in float32, buffers among them, found by building each without weights; remembered in a file.

    Args:
        folder: folder of the prepared datasets.
    """

    def __init__(self, folder: Path) -> None:
        self._known = Remembered(folder / FILE, lambda answer: isinstance(answer, int))

    def bytes_of(self, spec: TrialSpec, manifest: Mapping[str, Any]) -> int:
        """Of the network of a trial; 0 where it cannot be built here."""
        classes, channels = len(manifest["classes"]), manifest["shape"][2]
        key = digest([spec.config["backbone"], classes, channels, spec.code_key])
        if key not in self._known:
            self._known[key] = _bytes_of(spec.config["backbone"], classes, channels)
        return int(self._known[key])

    def save(self) -> None:
        """Write what is new."""
        self._known.save()


def _bytes_of(backbone: dict[str, Any], num_classes: int, in_channels: int) -> int:
    import torch

    from pipeline import models
    from pipeline.models.weightless import Weightless

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Weightless():
                model = models.create(num_classes=num_classes, in_channels=in_channels, **backbone)
        except Exception:  # noqa: BLE001 - foreign code on a device it was not written for; the plan goes on without this number
            return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _size(number: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _copies(config: Mapping[str, Any]) -> int:
    """Sets of numbers as large as the weights in a checkpoint."""
    return 1 + OPTIMIZER_COPIES[config["optimizer"]["name"]] + BEST_COPY + (config["ema"] is not None)
