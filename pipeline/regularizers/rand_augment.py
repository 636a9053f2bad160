"""RandAugment (Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719). Letters: B batch, H W image, C channels, R operations in a row."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.image_ops import Interpolation, apply, check_interpolation, to_pixels, to_planes
from pipeline.regularizers.op_levels import Levels, levels_of


@register("rand_augment", label="RandAugment")
@dataclass(frozen=True, kw_only=True)
class RandAugment(Regularizer):
    """`num_ops` operations in a row on each image, drawn evenly from 14, all at level `magnitude` of `num_magnitude_bins`.

    Equal in distribution to `torchvision.transforms.RandAugment` on each image by itself, its magnitudes included. Labels stay hard.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(f"num_ops must be >= 1, got {self.num_ops}")
        if self.num_magnitude_bins < 2:
            raise ValueError(f"num_magnitude_bins must be >= 2, got {self.num_magnitude_bins}")
        if not 0 <= self.magnitude < self.num_magnitude_bins:
            raise ValueError(f"magnitude must be in [0, num_magnitude_bins) = [0, {self.num_magnitude_bins}), got {self.magnitude}")
        check_interpolation(self.interpolation, "rand_augment")

    def on_pixels(self, image_BHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Each image after its own operations, uint8."""
        batch, height, width, _ = image_BHWC.shape
        levels = _levels(self.num_magnitude_bins, height, width)
        names, shape, device = list(levels), (self.num_ops, batch), generator.device
        op_RB = torch.randint(len(names), shape, generator=generator, device=device)
        sign_RB = torch.randint(2, shape, generator=generator, device=device)
        image_BCHW = to_planes(image_BHWC)
        for drawn in torch.stack([op_RB, sign_RB], 2).tolist():  # the one wait for the device, see `apply`
            ops = [names[op] for op, _ in drawn]
            magnitudes = [levels[name].at(self.magnitude, sign) for name, (_, sign) in zip(ops, drawn, strict=True)]
            image_BCHW = apply(image_BCHW, ops, magnitudes, self.interpolation)
        return to_pixels(image_BCHW)


@functools.cache
def _levels(bins: int, height: int, width: int) -> dict[str, Levels]:
    from torchvision import transforms  # takes seconds, and planning asks only for the name

    return levels_of(transforms.RandAugment()._augmentation_space(bins, (height, width)))
