"""How a worker hears whether its point goes on: an actor that the driver tells before the worker asks."""

from __future__ import annotations


class Referee:
    """Verdicts of the driver by point; lives on the driver's node, holds no CPU.

    Tune reports are synchronous: a worker that has reported an epoch goes on only after the driver has looked at it, so the verdict is
    there when the worker asks. Stopping a function through Tune would end its thread wherever it is, before its record is stored.
    """

    def __init__(self) -> None:
        self._verdicts: dict[str, str] = {}

    def stop(self, key: str, why: str) -> None:
        """Give a point up."""
        self._verdicts[key] = why

    def verdict(self, key: str) -> str:
        """Why the point is given up, '' when it goes on; asked once."""
        return self._verdicts.pop(key, "")
