"""Label smoothing (Szegedy et al., CVPR 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.regularizers import Regularizer, register

if TYPE_CHECKING:
    import torch

    from pipeline.batch import Batch


@register("label_smoothing", label="label smoothing")
@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Regularizer):
    """Target `(1 - epsilon) * onehot + epsilon / K`. The label itself stays hard, so the CAM term is untouched."""

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must be in (0, 1), got {self.epsilon}")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same images with a smoothed target."""
        return batch.with_(target=replace(batch.target, smoothing=self.epsilon))
