"""TrivialAugment, wide (Müller and Hutter, ICCV 2021, arXiv 2103.10158). Letters: B batch, H W image, C channels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.image_ops import Interpolation, apply, check_interpolation, to_pixels, to_planes
from pipeline.regularizers.op_levels import Levels, levels_of


@register("trivial_augment", label="TrivialAugment")
@dataclass(frozen=True, kw_only=True)
class TrivialAugment(Regularizer):
    """One operation on each image, drawn evenly from 14, at a level drawn evenly from `num_magnitude_bins`, over wide ranges.

    Equal in distribution to `torchvision.transforms.TrivialAugmentWide` on each image by itself, its magnitudes included: a
    translation goes up to 32 pixels whatever the size of the image. Labels stay hard.
    """

    num_magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        if self.num_magnitude_bins < 2:
            raise ValueError(f"num_magnitude_bins must be >= 2, got {self.num_magnitude_bins}")
        check_interpolation(self.interpolation, "trivial_augment")

    def on_pixels(self, image_BHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Each image after its own operation, uint8."""
        levels = _levels(self.num_magnitude_bins)
        names, shape, device = list(levels), (len(image_BHWC),), generator.device
        drawn_3B = [torch.randint(n, shape, generator=generator, device=device) for n in (len(names), self.num_magnitude_bins, 2)]
        op_B, level_B, sign_B = torch.stack(drawn_3B).tolist()  # the one wait for the device, see `apply`
        ops = [names[op] for op in op_B]
        magnitudes = [levels[name].at(level, sign) for name, level, sign in zip(ops, level_B, sign_B, strict=True)]
        return to_pixels(apply(to_planes(image_BHWC), ops, magnitudes, self.interpolation))


@functools.cache
def _levels(bins: int) -> dict[str, Levels]:
    from torchvision import transforms  # takes seconds, and planning asks only for the name

    return levels_of(transforms.TrivialAugmentWide()._augmentation_space(bins))
