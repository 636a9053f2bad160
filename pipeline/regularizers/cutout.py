"""Cutout (DeVries and Taylor, arXiv 1708.04552). Letters: B batch, C channels, H W rows and columns of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("cutout", label="cutout")
@dataclass(frozen=True, kw_only=True)
class Cutout(Regularizer):
    """Set a square of `size` pixels, centred uniformly on the image and clipped at its border, to the training mean. Labels stay hard."""

    size: int = 8

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be >= 1 pixel, got {self.size}")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same targets with one square zeroed in each (normalised) image."""
        image_BCHW = batch.image_BCHW
        batch_size, _, height, width = image_BCHW.shape
        row_BH, column_BW = (_strip(length, self.size, batch_size, generator) for length in (height, width))
        inside_BHW = row_BH[:, :, None] & column_BW[:, None, :]
        # Cloned first: filling into a new tensor would lose the memory layout, which is channels-last.
        return batch.with_(image_BCHW=image_BCHW.clone().masked_fill_(inside_BHW[:, None], 0.0))


def _strip(length: int, size: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """inside_BL: which of `length` positions lie in a strip of `size` around a uniform centre."""
    device = generator.device
    start_B1 = torch.randint(length, (batch_size, 1), generator=generator, device=device) - size // 2
    position_L = torch.arange(length, device=device)
    return (position_L >= start_B1) & (position_L < start_B1 + size)
