"""Regularizers by name. A new one is one new file in this folder that registers a name.

A registered factory takes its options as keyword parameters and returns a `Regularizer`. Randomness comes only from the generator
that the training loop passes in: one stream for each regularizer, so adding one never shifts another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.registry import Registry
from pipeline.stateful import Stateful

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pipeline.batch import Batch

registry: Registry[Callable[..., Any]] = Registry("regularizer", __name__)
register = registry.register


class Regularizer(Stateful):
    """What a regularizer may do; override what it needs.

    What it gathers while training belongs into attributes, where a checkpoint finds it; `Stateful` says which kinds of values are
    kept. The generator that it is given is kept anyway.

    Attributes:
        mixes_labels: the batch's labels become mixtures of two classes; at most one such regularizer fits into a trial.
    """

    mixes_labels: bool = False

    def on_model(self, model: nn.Module) -> None:
        """Change the freshly built backbone in place, once, before training.

        `model` is a `pipeline.models.backbone.Backbone`; its `stage_points()` are places between stages to change or to listen at.
        What it adds may draw from torch's global generator, which belongs to the trial. Planning calls it, too, with a backbone on the
        meta device, which has shapes and no values.

        Raises:
            IncompatibleError: the backbone lacks what it needs, said of 'this network'; planning then skips the cell with the reason.
        """

    def on_pixels(self, image_BHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Changed images, uint8 in and out; called for each training batch after crop and flip, before normalisation."""
        return image_BHWC

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A changed batch; called for each training batch after normalisation. Must not write to the tensors it was given."""
        return batch

    def before_update(self, parameters: Sequence[nn.Parameter], again: Callable[[], None]) -> None:
        """Change the gradients between backward and the optimizer's step.

        Args:
            parameters: the trained parameters, with their gradients.
            again: computes all gradients anew, for the same batch at the present values of the parameters.
        """


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
    both = mixing(components)
    if len(both) > 1:
        return False, f"{' and '.join(both)} both mix labels; an image can be mixed once"
    return True, ""


def mixing(components: list[dict[str, Any]]) -> list[str]:
    """Names of those that mix labels."""
    return [c["name"] for c in components if create(**c).mixes_labels]
