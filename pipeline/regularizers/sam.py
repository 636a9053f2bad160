"""Sharpness-aware minimisation (Foret et al., ICLR 2021, arXiv 2010.01412)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pipeline.regularizers import Regularizer, register

TINY = 1e-12  # a gradient of exactly zero moves nothing instead of dividing by zero


@register("sam", label="SAM")
@dataclass(kw_only=True)
class Sam(Regularizer):
    """Update with the gradient at `w + rho g / ||g||`, where g is the gradient at w and the norm is over all trained parameters.

    Each step computes the gradients twice, so it takes about twice as long. The weights are restored from copies, bit for bit. Buffers
    of the network, the running statistics of batch norm above all, keep what the first pass left, so they belong to weights
    that the network really had; what a loss keeps by itself sees both passes. Dropout and the like draw anew in the second pass.
    The reported loss is that of the first pass.

    Attributes:
        rho: length of the step to the worse weights, > 0; 0.05 is the paper's default.
    """

    rho: float = 0.05
    _model: nn.Module | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise ValueError(f"rho must be > 0, got {self.rho}")

    def on_model(self, model: nn.Module) -> None:
        """Remember the network for the sake of its buffers."""
        self._model = model

    @torch.no_grad()
    def before_update(self, parameters: Sequence[nn.Parameter], again: Callable[[], None]) -> None:
        """Gradients at the worse weights, at unchanged weights and buffers."""
        moved = [p for p in parameters if p.grad is not None]
        gradients = [p.grad for p in moved]
        buffers = [] if self._model is None else list(self._model.buffers())
        kept_weights, kept_buffers = [p.clone() for p in moved], [b.clone() for b in buffers]
        scale = self.rho / (nn.utils.get_total_norm(gradients) + TINY)
        torch._foreach_add_(moved, torch._foreach_mul(gradients, scale))
        with torch.enable_grad():
            again()
        # w + e - e is not w bit for bit.
        torch._foreach_copy_(moved, kept_weights)
        if buffers:
            torch._foreach_copy_(buffers, kept_buffers)
