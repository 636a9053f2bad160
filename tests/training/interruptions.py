"""Trials that are killed after a checkpoint and continued, in one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.data.image_data import ImageData
from pipeline.store.records import Record
from pipeline.study.spec import TrialSpec
from pipeline.trial import run_trial


class KilledError(Exception):
    """Stands for SIGKILL."""


class Interruptions:
    """Checkpoints in memory: one after each of these steps, and death `lost` steps later.

    Args:
        steps: counted from 1 over the whole trial, rising.
        lost: steps trained after a checkpoint that nobody saves.
    """

    def __init__(self, *steps: int, lost: int = 0) -> None:
        self.payload: bytes | None = None
        self.loads, self._to_come, self._lost = 0, list(steps), lost
        self._step = self._saved_at = 0
        self._armed = False

    def due(self) -> bool:
        self._step += 1
        if self._armed and self._step >= self._saved_at + self._lost:
            raise KilledError
        return self._step in self._to_come[:1]

    def save(self, payload: bytes) -> None:
        self.payload, self._saved_at, self._armed = payload, self._to_come.pop(0), True
        if not self._lost:
            raise KilledError

    def load(self) -> bytes | None:
        self._step, self._armed = self._saved_at, False
        self.loads += self.payload is not None
        return self.payload


def run_interrupted(spec: TrialSpec, data: ImageData, *steps: int, lost: int = 0, **options: Any) -> Record:
    """The record of a trial that was continued from a checkpoint after each of these steps."""
    checkpoints = Interruptions(*steps, lost=lost)
    while True:
        torch.manual_seed(len(steps) + checkpoints.loads)  # what the process did before does not matter
        try:
            record = run_trial(spec, data=data, checkpoints=checkpoints, **options)
        except KilledError:
            continue
        if checkpoints.loads == len(steps):  # else the end came before the kill
            assert (record["resumed"], record["checkpoint_refused"]) == (len(steps), "")
            return record


def numbers(record: Record) -> dict[str, Any]:
    """All that must not depend on interruptions: everything but times, memory, machine and the number of interruptions itself."""
    other = ("time_", "mem_", "env_", "resumed", "checkpoint_refused")
    row = {key: value for key, value in record.items() if not key.startswith(other)}
    history = [{key: value for key, value in epoch.items() if not key.startswith("time_")} for epoch in record.history]
    return row | {"history": history, "panel": record.panel}


class Keeper:
    """A sink that keeps what it is told."""

    def __init__(self, weights: str) -> None:
        self.weights, self.epochs = weights, []  # type: ignore[var-annotated]
        self.state: dict[str, Tensor] = {}

    def epoch(self, row: dict[str, Any]) -> None:
        self.epochs.append(row["epoch"])

    def save_weights(self, state: dict[str, Tensor]) -> None:
        self.state = state
