"""Random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896). Letters: B batch, C channels, H W image, T tries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.errors import UnknownNameError
from pipeline.regularizers import Regularizer, register

Value = Literal["zero", "noise"]
TRIES = 10


@register("random_erasing", label="random erasing")
@dataclass(frozen=True, kw_only=True)
class RandomErasing(Regularizer):
    """Overwrite a rectangle in each normalised image with probability `p`. Labels stay hard.

    Its area is uniform in [`min_area`, `max_area`] of the image and its height over width log-uniform in [`min_ratio`, `max_ratio`],
    drawn again until it is smaller than the image, ten times at the most (then the image stays); its place is uniform.
    Equal in distribution to `torchvision.transforms.RandomErasing` on each image by itself: the tries are independent, so drawing all
    ten at once and taking the first that fits is the same. `value`: `zero`, the training mean, or `noise`, a standard normal number
    for each pixel and channel.
    """

    p: float = 0.5
    min_area: float = 0.02
    max_area: float = 0.33
    min_ratio: float = 0.3
    max_ratio: float = 3.3
    value: Value = "zero"

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"p must be in (0, 1], got {self.p}")
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(f"min_area and max_area must satisfy 0 <= min_area <= max_area <= 1, got {self.min_area} and {self.max_area}")
        if not 0 < self.min_ratio <= self.max_ratio:
            raise ValueError(f"min_ratio and max_ratio must satisfy 0 < min_ratio <= max_ratio, got {self.min_ratio} and {self.max_ratio}")
        if self.value not in get_args(Value):
            raise UnknownNameError("value", self.value, get_args(Value), where="regularizer 'random_erasing'")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same targets, with a rectangle overwritten in some of the images."""
        image_BCHW, device = batch.image_BCHW, generator.device
        batch_size, channels, height, width = image_BCHW.shape
        # Double precision, so that rounding to whole pixels is torchvision's.
        draw_2TB = torch.rand((2, TRIES, batch_size), generator=generator, device=device).double()
        area_TB = height * width * (self.min_area + (self.max_area - self.min_area) * draw_2TB[0])
        low, high = math.log(self.min_ratio), math.log(self.max_ratio)
        ratio_TB = torch.exp(low + (high - low) * draw_2TB[1])
        rows_TB, columns_TB = (area_TB * ratio_TB).sqrt().round(), (area_TB / ratio_TB).sqrt().round()
        fits_TB = (rows_TB < height) & (columns_TB < width)
        first_1B = fits_TB.byte().argmax(0, keepdim=True)  # the first of equals
        rows_B, columns_B, fits_B = (x_TB.gather(0, first_1B)[0] for x_TB in (rows_TB, columns_TB, fits_TB))
        coin_B, place_2B = torch.rand((3, batch_size), generator=generator, device=device).double().split((1, 2))
        inside_BH = _strip(height, rows_B, place_2B[0]) & (fits_B & (coin_B[0] < self.p))[:, None]
        inside_B1HW = (inside_BH[:, :, None] & _strip(width, columns_B, place_2B[1])[:, None, :])[:, None]
        if self.value == "zero":
            # Cloned first: filling into a new tensor would lose the memory layout, which is channels-last.
            return batch.with_(image_BCHW=image_BCHW.clone().masked_fill_(inside_B1HW, 0.0))
        # Drawn in the order of memory, for the same reason.
        noise_BHWC = torch.randn((batch_size, height, width, channels), generator=generator, device=device, dtype=image_BCHW.dtype)
        return batch.with_(image_BCHW=torch.where(inside_B1HW, noise_BHWC.permute(0, 3, 1, 2), image_BCHW))


def _strip(length: int, size_B: Tensor, place_B: Tensor) -> Tensor:
    """inside_BL: which of `length` positions lie in a strip of `size_B`, put with equal chances wherever it lies inside."""
    start_B1 = (place_B * (length - size_B + 1)).floor()[:, None]
    position_L = torch.arange(length, device=size_B.device)
    return (position_L >= start_B1) & (position_L < start_B1 + size_B[:, None])
