"""AugMix (Hendrycks et al., ICLR 2020, arXiv 1912.02781). Letters: B batch, H W image, C channels, V chains, D operations in a chain."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.image_ops import Interpolation, apply, check_interpolation, to_pixels, to_planes
from pipeline.regularizers.op_levels import Levels, levels_of

BINS = 10  # levels of severity
DEEPEST = 3  # a chain of random depth has 1 to 3 operations


@register("augmix", label="AugMix")
@dataclass(frozen=True, kw_only=True)
class AugMix(Regularizer):
    """`m x + (1 - m) sum over chains of w_v chain_v(x)`, w ~ Dirichlet(alpha, ..), m ~ Beta(alpha, alpha), drawn for each image.

    A chain is `depth` operations in a row (None: 1 to 3, drawn for each chain) at levels below `severity`. Equal in distribution to
    `torchvision.transforms.AugMix` on each image by itself, its magnitudes and defaults included. `all_ops` False leaves out
    brightness, color, contrast and sharpness, which overlap with the corruptions of the paper's test sets.

    The paper adds a Jensen-Shannon consistency between three views of an image. That term is a loss over several views and is not
    part of this regularizer: here every batch has one view, and the labels stay hard.
    """

    severity: int = 3
    width: int = 3
    depth: int | None = None
    alpha: float = 1.0
    all_ops: bool = True
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.severity <= BINS:
            raise ValueError(f"severity must be in [1, {BINS}], got {self.severity}")
        if self.width < 1:
            raise ValueError(f"width must be >= 1 chain, got {self.width}")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth must be >= 1 operation, or null for 1 to {DEEPEST} at random, got {self.depth}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")
        check_interpolation(self.interpolation, "augmix")

    def on_pixels(self, image_BHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Each image mixed with its own chains, uint8 (fractions are cut off, as torchvision does)."""
        batch, height, width, _ = image_BHWC.shape
        levels, device = _levels(self.all_ops, height, width), generator.device
        alpha_B2, alpha_BV = (torch.full((batch, n), self.alpha, device=device) for n in (2, self.width))
        # torch.distributions takes no generator.
        own_B2 = torch._sample_dirichlet(alpha_B2, generator=generator)
        share_VB = (torch._sample_dirichlet(alpha_BV, generator=generator) * own_B2[:, 1:]).T

        deepest = self.depth or DEEPEST
        shape = (deepest, self.width * batch)
        drawn_3DN = [torch.randint(n, shape, generator=generator, device=device) for n in (len(levels), self.severity, 2)]
        first = 1 if self.depth is None else deepest
        depth_N = torch.randint(first, deepest + 1, shape[1:], generator=generator, device=device)
        acts_DN = torch.arange(deepest, device=device)[:, None] < depth_N
        image_BCHW = to_planes(image_BHWC)
        chain_NCHW, names = image_BCHW.repeat(self.width, 1, 1, 1), list(levels)
        for drawn in torch.stack([*drawn_3DN, acts_DN], 2).tolist():  # the one wait for the device, see `apply`
            ops = [names[op] if acts else "Identity" for op, _, _, acts in drawn]
            magnitudes = [levels[names[op]].at(level, sign) for op, level, sign, _ in drawn]
            chain_NCHW = apply(chain_NCHW, ops, magnitudes, self.interpolation)

        mixed_BCHW = own_B2[:, 0, None, None, None] * image_BCHW
        for share_B, chain_BCHW in zip(share_VB, chain_NCHW.view(self.width, *image_BCHW.shape), strict=True):
            mixed_BCHW += share_B[:, None, None, None] * chain_BCHW
        return to_pixels(mixed_BCHW.to(torch.uint8))


@functools.cache
def _levels(all_ops: bool, height: int, width: int) -> dict[str, Levels]:
    from torchvision import transforms  # takes seconds, and planning asks only for the name

    return levels_of(transforms.AugMix(all_ops=all_ops)._augmentation_space(BINS, (height, width)))
