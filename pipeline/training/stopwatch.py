"""Seconds of an epoch, over all processes that trained a part of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Stopwatch:
    """Runs from the moment it is made; stands still while it is paused."""

    def __init__(self) -> None:
        self.restart()

    def restart(self, seconds: float = 0.0) -> None:
        """Run on from this reading."""
        self._since, self._paused_at = time.perf_counter() - seconds, None

    def seconds(self) -> float:
        """The reading."""
        return (time.perf_counter() if self._paused_at is None else self._paused_at) - self._since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no time passes."""
        self._paused_at: float | None = time.perf_counter()
        yield
        self.restart(self.seconds())

    def state_dict(self) -> dict[str, Any]:
        """The reading."""
        return {"seconds": self.seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Run on from a saved reading."""
        self.restart(state["seconds"])
