"""Terms of the training loss by name. A new one is one new file in this folder that registers a name.

A registered factory takes its options as keyword parameters and returns a callable `LossInputs -> scalar Tensor`. Weight and
start epoch belong to every term and are applied by the training loop (`training.objective`), never by the loss itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.batch import LossInputs

    Loss = Callable[[LossInputs], Tensor]

registry: Registry[Callable[..., Any]] = Registry("loss", __name__)
register = registry.register


def create(name: str, **options: Any) -> Loss:
    """Build the loss term `name`.

    Raises:
        UnknownNameError: nobody registered the name.
        ValueError: an option is out of range.
    """
    return registry.get(name).factory(**options)


def names() -> list[str]:
    """All registered losses."""
    return registry.names()
