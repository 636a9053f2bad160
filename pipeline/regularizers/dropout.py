"""Dropout on the pooled features (Srivastava et al., JMLR 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.regularizers import Regularizer, register


@register("dropout", label="dropout")
@dataclass(frozen=True, kw_only=True)
class Dropout(Regularizer):
    """Drop each pooled feature with probability `p` before the classifier. Feature maps, and so CAM and CAAM, are untouched."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"p must be in (0, 1), got {self.p}")

    def on_model(self, model: nn.Module) -> None:
        """Set the probability of the backbone's own dropout layer."""
        model.dropout.p = self.p
