"""Regularizers by name. A new one is one new file in this folder that registers a name.

A registered factory takes its options as keyword parameters and returns a `Regularizer`. Randomness comes only from the generator
that the training loop passes in: one stream for each regularizer, so adding one never shifts another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.batch import Batch

registry: Registry[Callable[..., Any]] = Registry("regularizer", __name__)
register = registry.register


class Regularizer:
    """What a regularizer may do; override what it needs.

    Attributes:
        mixes_labels: the batch's labels become mixtures of two classes; at most one such regularizer fits into a trial.
    """

    mixes_labels: bool = False

    def on_model(self, model: nn.Module) -> None:
        """Change the freshly built backbone in place, once, before training."""

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A changed batch; called for each training batch after crop and flip."""
        return batch


def create(name: str, **options: Any) -> Regularizer:
    """Build the regularizer `name`.

    Raises:
        UnknownNameError: nobody registered the name.
        ValueError: an option is out of range.
    """
    return registry.get(name).factory(**options)


def names() -> list[str]:
    """All registered regularizers."""
    return registry.names()


def supports(components: list[dict[str, Any]]) -> tuple[bool, str]:
    """Whether these regularizers fit into one trial, else the reason.

    Args:
        components: dictionaries {"name": ..., option: value, ...}.
    """
    mixing = [c["name"] for c in components if registry.get(c["name"]).factory.mixes_labels]
    if len(mixing) > 1:
        return False, f"{' and '.join(mixing)} both mix labels; an image can be mixed once"
    return True, ""
