"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412). Letters: B batch, C channels, H W image, L draws: 1 or B."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("mixup", label="mixup")
@dataclass(frozen=True, kw_only=True)
class Mixup(Regularizer):
    """`lam * x + (1 - lam) * x[permutation]`, lam ~ Beta(alpha, alpha). Labels become mixed, and so does the CAM target.

    One lam a batch, as in the reference code, or with `per_image` one for each image.
    """

    alpha: float = 1.0
    per_image: bool = False
    mixes_labels = True

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mixed images with both labels and lam."""
        image_BCHW, device = batch.image_BCHW, generator.device
        # Beta(a, a) as a ratio of gammas: torch.distributions takes no generator.
        count = len(image_BCHW) if self.per_image else 1
        gamma_2L = torch._standard_gamma(torch.full((2, count), self.alpha, device=device), generator=generator)
        lam_B = (gamma_2L[0] / gamma_2L.sum(0)).expand(len(image_BCHW))
        order_B = torch.randperm(len(image_BCHW), generator=generator, device=device)
        mixed_BCHW = torch.lerp(image_BCHW[order_B], image_BCHW, lam_B[:, None, None, None].to(image_BCHW.dtype))
        target = replace(batch.target, other_B=batch.target.label_B[order_B], lam=lam_B)
        return batch.with_(image_BCHW=mixed_BCHW, target=target)
