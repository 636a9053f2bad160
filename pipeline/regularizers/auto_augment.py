"""AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501). Letters: B batch, H W image, C channels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pipeline.errors import UnknownNameError
from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.image_ops import Interpolation, apply, check_interpolation, to_pixels, to_planes
from pipeline.regularizers.op_levels import Levels, levels_of

Policy = Literal["cifar10", "imagenet", "svhn"]
BINS = 10  # levels in which the policies are written


@register("auto_augment", label="AutoAugment")
@dataclass(frozen=True, kw_only=True)
class AutoAugment(Regularizer):
    """One of the 25 pairs of operations of a learned policy on each image; each of the two acts with its own learned probability.

    Equal in distribution to `torchvision.transforms.AutoAugment` on each image by itself; policies and magnitudes are read off that
    class. A policy was searched on the labels of its dataset: say so where a table compares it with methods that saw fewer labels.
    Labels stay hard.
    """

    policy: Policy = "cifar10"
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise UnknownNameError("policy", self.policy, get_args(Policy), where="regularizer 'auto_augment'")
        check_interpolation(self.interpolation, "auto_augment")

    def on_pixels(self, image_BHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Each image after its own pair of operations, uint8."""
        batch, height, width, _ = image_BHWC.shape
        pairs, levels, device = _pairs(self.policy), _levels(self.policy, height, width), generator.device
        pair_B1 = torch.randint(len(pairs), (batch, 1), generator=generator, device=device)
        chance_B2 = torch.rand((batch, 2), generator=generator, device=device)
        sign_B2 = torch.randint(2, (batch, 2), generator=generator, device=device)
        drawn_B5 = torch.cat([pair_B1.double(), chance_B2.double(), sign_B2.double()], 1).tolist()  # the one wait, see `apply`
        image_BCHW = to_planes(image_BHWC)
        for turn in (0, 1):
            ops, magnitudes = [], []
            for pair, *drawn in drawn_B5:
                op, probability, level = pairs[int(pair)][turn]
                acts = drawn[turn] <= probability
                ops.append(op if acts else "Identity")
                magnitudes.append(levels[op].at(level or 0, int(drawn[2 + turn])) if acts else 0.0)
            image_BCHW = apply(image_BCHW, ops, magnitudes, self.interpolation)
        return to_pixels(image_BCHW)


def _theirs(policy: str) -> Any:
    from torchvision import transforms  # takes seconds, and planning asks only for the name

    return transforms.AutoAugment(transforms.AutoAugmentPolicy(policy))


@functools.cache
def _pairs(policy: str) -> list[tuple[tuple[str, float, int | None], tuple[str, float, int | None]]]:
    """Pairs of (operation, probability, level or None where the operation has no magnitude)."""
    return _theirs(policy).policies


@functools.cache
def _levels(policy: str, height: int, width: int) -> dict[str, Levels]:
    return levels_of(_theirs(policy)._augmentation_space(BINS, (height, width)))
