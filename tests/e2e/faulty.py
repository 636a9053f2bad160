"""Regularizers that break in every way a trial can break; a plugin of tests/e2e/test_faults.py."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("kills_its_process")
@dataclass(kw_only=True)
class KillsItsProcess(Regularizer):
    """SIGKILL at some step, always or, with `once`, only where that file is not there yet."""

    at_step: int = 0
    once: str = ""

    def __post_init__(self) -> None:
        self._step = 0

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Count, and die when it is time."""
        self._step += 1
        if self._step > self.at_step and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch


@register("leaves")
@dataclass(kw_only=True)
class Leaves(Regularizer):
    """Ends the program, or what a method takes for it."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Leave."""
        raise SystemExit(0)


@register("has_a_bug")
@dataclass(kw_only=True)
class HasABug(Regularizer):
    """Raises."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Raise what a slip in a method's code raises."""
        return batch.with_(image_BCHW=batch.image_BCHW + torch.zeros(7))


@register("eats_memory")
@dataclass(kw_only=True)
class EatsMemory(Regularizer):
    """Asks for more memory than any machine has."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Allocate."""
        torch.empty(10**15)
        return batch


@register("blows_up")
@dataclass(kw_only=True)
class BlowsUp(Regularizer):
    """Makes the loss infinite."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Scale the images out of range."""
        return batch.with_(image_BCHW=batch.image_BCHW * float("inf"))
