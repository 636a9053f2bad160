"""Which operations a policy draws from, and their magnitudes: read off torchvision's own classes, so that no table is copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Magnitudes of one operation.

    Attributes:
        magnitudes: one for each level; a single one where the operation has none to choose.
        signed: the magnitude is negated at random.
    """

    magnitudes: tuple[float, ...]
    signed: bool

    def at(self, level: int, sign: int) -> float:
        """The magnitude of a level, negated when it is signed and `sign` is 0."""
        magnitude = self.magnitudes[level] if len(self.magnitudes) > 1 else self.magnitudes[0]
        return -magnitude if self.signed and sign == 0 else magnitude


def levels_of(space: Mapping[str, tuple[Tensor, bool]]) -> dict[str, Levels]:
    """Operation -> levels, in torchvision's order, of what `_augmentation_space` of one of its classes returns."""
    return {op: Levels(tuple(magnitudes.double().reshape(-1).tolist()), signed) for op, (magnitudes, signed) in space.items()}
