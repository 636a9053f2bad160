"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899). Letters: B batch, C channels, H W image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("cutmix", label="CutMix")
@dataclass(frozen=True, kw_only=True)
class CutMix(Regularizer):
    """Paste a box of another image, with area 1 - lam and lam ~ Beta(alpha, alpha); one box a batch, as in the reference code.

    The label share is the area that really remains after the box is clipped at the border. Labels become mixed, and so does the
    CAM target. The authors' CIFAR recipe applies it to half of the batches (`probability`).
    """

    alpha: float = 1.0
    probability: float = 0.5
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
        gamma_2 = torch._standard_gamma(torch.full((2,), self.alpha, device=device), generator=generator)
        centre_2, coin = torch.rand(2, generator=generator, device=device), torch.rand((), generator=generator, device=device)
        # Everything stays on the device: a branch on the coin would wait for the GPU at every step.
        side = torch.sqrt(1 - gamma_2[0] / gamma_2.sum()) * (coin < self.probability)
        inside_HW = _strip(height, side, centre_2[0])[:, None] & _strip(width, side, centre_2[1])[None, :]
        order_B = torch.randperm(batch_size, generator=generator, device=device)
        lam = 1 - inside_HW.float().mean()
        target = replace(batch.target, other_B=batch.target.label_B[order_B], lam=lam.expand(batch_size))
        return batch.with_(image_BCHW=torch.where(inside_HW, image_BCHW[order_B], image_BCHW), target=target)


def _strip(length: int, share: Tensor, centre: Tensor) -> Tensor:
    """inside_L: positions within half of `share * length`, in whole pixels, of `centre * length`, clipped at the border."""
    half = (share * length / 2).floor()  # whole pixels on each side, as in the reference code and in torchvision
    middle = (centre * length).floor()
    position_L = torch.arange(length, device=share.device)
    return (position_L >= middle - half) & (position_L < middle + half)
