"""Terms of the training loss by name. A new one is one new file in this folder that registers a name.

A registered factory takes its options as keyword parameters and returns a `Loss`, or any callable `LossInputs -> scalar Tensor`.
Weight, start epoch and ramp belong to every term and are applied by the training loop (`training.objective`), never by the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.registry import Registry
from pipeline.stateful import Stateful

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.batch import LossInputs

registry: Registry[Callable[..., Any]] = Registry("loss", __name__)
register = registry.register


class Loss(Stateful):
    """One term of the training loss; override what it needs.

    What it gathers while training (a step counter, running centers, parameters) belongs into attributes, where a checkpoint finds it;
    `Stateful` says which kinds of values are kept.

    Attributes:
        trains_classifier: the term by itself teaches the classifier to classify; a trial needs one that does.
        takes_mixed_labels: the term is defined for labels mixed of two classes (mixup, CutMix).
        changes_classifier: `attach` changes the classifier; at most one such term fits into a trial.
        fewest_stages: stages that the network must have; above 1 the term is given `LossInputs.stage_maps`.
        compares_positions: the term has no meaning where the last feature map is one pixel; planning then skips the cell.
    """

    trains_classifier: bool = True
    takes_mixed_labels: bool = True
    changes_classifier: bool = False
    fewest_stages: int = 1
    compares_positions: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar of the batch, unweighted."""
        raise NotImplementedError

    def attach(self, classifier: nn.Linear) -> None:
        """Look at the classifier, change it in place, or make own parameters and buffers on its device; called once, before training.

        torch's global generator is seeded for this term alone, so what is drawn here shifts no other stream. After a change the layer
        must still be linear in the pooled features, with `weight` and `bias` (which may be None): class activation maps depend on it.
        Planning calls it, too, with a classifier on the meta device, which has shapes and no values.

        Raises:
            IncompatibleError: the term does not fit this classifier; planning then skips the cell with the message as its reason.
        """

    def parameters(self) -> Iterable[nn.Parameter]:
        """Own trained parameters, if any; they are updated by the trial's optimizer but are no part of the saved network."""
        return ()


class _Plain(Loss):
    """A term that is nothing but a function."""

    def __init__(self, function: Callable[[LossInputs], Tensor]) -> None:
        self.function = function

    def __call__(self, inputs: LossInputs) -> Tensor:
        return self.function(inputs)


def create(name: str, **options: Any) -> Loss:
    """Build the loss term `name`.

    Raises:
        UnknownNameError: nobody registered the name.
        ValueError: an option is out of range.
    """
    loss = registry.get(name).factory(**options)
    return loss if isinstance(loss, Loss) else _Plain(loss)


def supports(terms: Iterable[str], mixing: Sequence[str] = ()) -> tuple[bool, str]:
    """Whether these terms fit into one trial, else the reason.

    Args:
        terms: names of the loss terms.
        mixing: names of the trial's regularizers that mix labels.
    """
    factories = {name: registry.get(name).factory for name in terms}
    for name, factory in factories.items():
        if mixing and not getattr(factory, "takes_mixed_labels", True):
            return False, f"{name} needs one label an image, but {' and '.join(mixing)} mixes labels"
    changing = [name for name, factory in factories.items() if getattr(factory, "changes_classifier", False)]
    if len(changing) > 1:
        return False, f"{' and '.join(changing)} each want a classifier of their own kind"
    return True, ""


def names() -> list[str]:
    """All registered losses."""
    return registry.names()
