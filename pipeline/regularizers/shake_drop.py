"""ShakeDrop (Yamada et al., IEEE Access 2019, arXiv 1802.02375). Letters: B batch, C channels, H W rows and columns of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pipeline.errors import UnknownNameError
from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.residual import put_on_branches

Mode = Literal["batch", "row"]


class _Scale(torch.autograd.Function):
    """Multiply by one factor forward and the gradient by another one backward."""

    @staticmethod
    def forward(ctx: Any, branch_BCHW: Tensor, forward_factor: Tensor, backward_factor: Tensor) -> Tensor:
        ctx.save_for_backward(backward_factor)
        return branch_BCHW * forward_factor

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor, None, None]:
        (backward_factor,) = ctx.saved_tensors
        return gradient_BCHW * backward_factor, None, None


class Shake(nn.Module):
    """The factors of one branch.

    Training: `(b + alpha - b alpha) F` forward and `(b + beta - b beta) dF` backward, with b ~ Bernoulli(keep), alpha ~ U[-1, 1] and
    beta ~ U[0, 1]. Evaluation: the expectation, `keep F`.

    Args:
        keep: probability that the branch passes as it is.
        mode: draw 'batch': once; 'row': for each image.
    """

    def __init__(self, keep: float, mode: Mode) -> None:
        super().__init__()
        self.keep, self.mode = keep, mode

    def forward(self, branch_BCHW: Tensor) -> Tensor:
        """The scaled branch."""
        if not self.training:
            return branch_BCHW * self.keep
        shape = (len(branch_BCHW) if self.mode == "row" else 1, *[1] * (branch_BCHW.dim() - 1))
        kept = torch.empty(shape, device=branch_BCHW.device).bernoulli_(self.keep).bool()
        alpha, beta = (branch_BCHW.new_empty(shape).uniform_(low, 1) for low in (-1, 0))
        return _Scale.apply(branch_BCHW, alpha.masked_fill(kept, 1), beta.masked_fill(kept, 1))

    def extra_repr(self) -> str:
        """Options, for print."""
        return f"keep={self.keep}, mode={self.mode}"


@register("shake_drop", label="ShakeDrop")
@dataclass(frozen=True, kw_only=True)
class ShakeDrop(Regularizer):
    """Scale the branch of the l-th of L residual blocks at random with probability `l / L * p`, forward and backward differently.

    See `Shake` for the formula. The paper asks for a batch norm at the end of each branch, without which training is unstable: ResNets
    and RegNets have one, the WRNs here do not. L counts blocks with a shortcut only; a network's own stochastic depth gives
    place. The noise comes from torch's global generator. The paper's cousin Shake-Shake needs blocks with two branches, which
    no backbone here has.

    Attributes:
        p: probability for the last block, in (0, 1).
        mode: 'row' draws b, alpha and beta for each image; 'batch' draws them once for all images.
    """

    p: float = 0.5
    mode: Mode = "row"

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"p must be in (0, 1), got {self.p}")
        if self.mode not in get_args(Mode):
            raise UnknownNameError("mode", self.mode, get_args(Mode), where="regularizer 'shake_drop'")

    def on_model(self, model: nn.Module) -> None:
        """Put the factors on each residual branch.

        Raises:
            IncompatibleError: the network has no residual blocks.
        """
        put_on_branches(model, "shake_drop", lambda share: Shake(1 - share * self.p, self.mode))
