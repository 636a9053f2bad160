"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412). Letters: B batch, C channels, H W image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register


@register("mixup", label="mixup")
@dataclass(frozen=True, kw_only=True)
class Mixup(Regularizer):
    """`lam * x + (1 - lam) * x[permutation]`, lam ~ Beta(alpha, alpha), one a batch. Labels become mixed, and so does the CAM target."""

    alpha: float = 1.0
    mixes_labels = True

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}")

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mixed images with both labels and lam."""
        image_BCHW, device = batch.image_BCHW, generator.device
        # Beta(a, a) as a ratio of gammas: torch.distributions takes no generator.
        gamma_2 = torch._standard_gamma(torch.full((2,), self.alpha, device=device), generator=generator)
        lam = gamma_2[0] / gamma_2.sum()
        order_B = torch.randperm(len(image_BCHW), generator=generator, device=device)
        mixed_BCHW = torch.lerp(image_BCHW[order_B], image_BCHW, lam.to(image_BCHW.dtype))
        target = replace(batch.target, other_B=batch.target.label_B[order_B], lam=lam.expand(len(image_BCHW)))
        return batch.with_(image_BCHW=mixed_BCHW, target=target)
