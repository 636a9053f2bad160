"""Stochastic depth (Huang et al., ECCV 2016, arXiv 1603.09382)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from pipeline.errors import UnknownNameError
from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.residual import put_on_branches

Mode = Literal["batch", "row"]


@register("stochastic_depth", label="stochastic depth")
@dataclass(frozen=True, kw_only=True)
class StochasticDepth(Regularizer):
    """Drop the branch of the l-th of L residual blocks with probability `l / L * p`, the paper's linear decay, while training.

    A branch that stays is divided by its probability of staying (`torchvision.ops.StochasticDepth`), where the paper multiplies by it
    in evaluation: the expectation is the same, and evaluation is that of the plain network. A dropped branch is computed all the
    same, so no time is saved. Made for deep networks: with a handful of blocks p = 0.5 costs accuracy. L counts blocks with a shortcut
    only. In a network that brings its own stochastic depth (EfficientNet) this one takes its place. The noise comes from torch's
    global generator.

    Attributes:
        p: probability for the last block, in (0, 1).
        mode: 'batch' draws once for all images, as in the paper; 'row' draws for each image.
    """

    p: float = 0.5
    mode: Mode = "batch"

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"p must be in (0, 1), got {self.p}")
        if self.mode not in get_args(Mode):
            raise UnknownNameError("mode", self.mode, get_args(Mode), where="regularizer 'stochastic_depth'")

    def on_model(self, model: nn.Module) -> None:
        """Put the drop on each residual branch.

        Raises:
            IncompatibleError: the network has no residual blocks.
        """
        from torchvision import ops

        put_on_branches(model, "stochastic_depth", lambda share: ops.StochasticDepth(share * self.p, self.mode))
