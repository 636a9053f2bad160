"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899). Letters: B batch, C channels, H W image, L draws: 1 or B."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("cutmix", label="CutMix")
@dataclass(frozen=True, kw_only=True)
class CutMix(Regularizer):
    """Paste a box of another image, with area 1 - lam and lam ~ Beta(alpha, alpha).

    One box a batch, as in the reference code, or with `per_image` a box, a lam and a coin for each image. The label share is the area
    that really remains after the box is clipped at the border. Labels become mixed, and so does the CAM target. The authors' CIFAR
    recipe applies it to half of the batches (`probability`).
    """

    alpha: float = 1.0
    probability: float = 0.5
    per_image: bool = False
    mixes_labels = True

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be in (0, 1], got {self.probability}")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Images with a pasted box, both labels and the area share lam."""
        image_BCHW, device = batch.image_BCHW, generator.device
        batch_size, _, height, width = image_BCHW.shape
        count = batch_size if self.per_image else 1
        gamma_2L = torch._standard_gamma(torch.full((2, count), self.alpha, device=device), generator=generator)
        centre_2L, coin_L = (torch.rand(shape, generator=generator, device=device) for shape in ((2, count), (count,)))
        # Everything stays on the device: a branch on the coin would wait for the GPU at every step.
        side_L = torch.sqrt(1 - gamma_2L[0] / gamma_2L.sum(0)) * (coin_L < self.probability)
        inside_LHW = _strip(height, side_L, centre_2L[0])[:, :, None] & _strip(width, side_L, centre_2L[1])[:, None, :]
        order_B = torch.randperm(batch_size, generator=generator, device=device)
        lam_L = 1 - inside_LHW.float().mean((1, 2))
        target = replace(batch.target, other_B=batch.target.label_B[order_B], lam=lam_L.expand(batch_size))
        return batch.with_(image_BCHW=torch.where(inside_LHW[:, None], image_BCHW[order_B], image_BCHW), target=target)


def _strip(length: int, share_L: Tensor, centre_L: Tensor) -> Tensor:
    """inside_LX: positions X within half of `share * length`, in whole pixels, of `centre * length`, clipped at the border."""
    half_L1 = (share_L * length / 2).floor()[:, None]  # whole pixels on each side, as in the reference code and in torchvision
    middle_L1 = (centre_L * length).floor()[:, None]
    position_X = torch.arange(length, device=share_L.device)
    return (position_X >= middle_L1 - half_L1) & (position_X < middle_L1 + half_L1)
