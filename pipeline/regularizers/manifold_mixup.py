"""Manifold mixup (Verma et al., ICML 2019, arXiv 1806.05236). Letters: B batch, C channels, H W rows and columns of an image or a map."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.stage_choice import check_stages, chosen_points
from pipeline.seeds import derive


@register("manifold_mixup", label="manifold mixup")
class ManifoldMixup(Regularizer):
    """Mixup at a place drawn anew for each batch: the images, or the feature maps at the end of a stage.

    `lam * h + (1 - lam) * h[permutation]` with lam ~ Beta(alpha, alpha), one a batch. Labels become mixed, and so does the CAM target.
    Feature maps are mixed while the network trains, each time that the batch passes (SAM computes its gradients twice); a
    copy of the network (EMA) never mixes. The defaults are those of the authors' code for CIFAR: images and first and second stage.

    The place is drawn from a CPU generator of its own, seeded from the seed of the generator given: the trial's own randomness,
    without the wait for the GPU that reading a number from it costs.

    Args:
        alpha: of the Beta distribution, > 0; 1 draws lam uniformly.
        images: whether the images are one of the places.
        stages: the other places; counted from 0, or from the end with -1 the last, whose map CAM-loss sees. In networks whose stem
            lowers the resolution (ImageNet's) the stem is stage 0.

    Raises:
        ValueError: an option is out of range.
    """

    mixes_labels = True

    # A dataclass would hide the default of a list, which the study file shows.
    def __init__(self, *, alpha: float = 2.0, images: bool = True, stages: list[int] = [0, 1]) -> None:  # noqa: B006
        if alpha <= 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        self.alpha, self.images, self.stages = alpha, images, check_stages(stages)
        self._given: torch.Generator | None = None
        self._places: torch.Generator | None = None
        self._stage: int | None = None  # position in `stages` of what the present batch mixes; None: nothing, or the images
        self._lam: Tensor | None = None
        self._order_B: Tensor | None = None

    def on_model(self, model: nn.Module) -> None:
        """Listen at the end of each chosen stage.

        Raises:
            IncompatibleError: the backbone lacks one of the stages.
        """
        for position, point in enumerate(chosen_points(model, self.stages)):
            point.register_forward_hook(self._mixer(position, point))

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Both labels and lam; mixed images if those were drawn."""
        device, size = generator.device, len(batch.image_BCHW)
        self._stage = self._draw_stage(generator)
        # Beta(a, a) as a ratio of gammas: torch.distributions takes no generator.
        gamma_2 = torch._standard_gamma(torch.full((2,), self.alpha, device=device), generator=generator)
        self._lam = gamma_2[0] / gamma_2.sum()
        self._order_B = torch.randperm(size, generator=generator, device=device)
        target = replace(batch.target, other_B=batch.target.label_B[self._order_B], lam=self._lam.expand(size))
        return batch.with_(image_BCHW=batch.image_BCHW if self._stage is not None else self._mix(batch.image_BCHW), target=target)

    def _draw_stage(self, generator: torch.Generator) -> int | None:
        """Position in `stages`, or None for the images, each equally likely."""
        if self._places is None or (self._given is not None and self._given is not generator):
            self._places = torch.Generator().manual_seed(derive("regularizer", generator.initial_seed(), "place of manifold mixup"))
        self._given = generator
        place = int(torch.randint(len(self.stages) + self.images, (), generator=self._places))
        return place if place < len(self.stages) else None

    def state_dict(self) -> dict[str, Any]:
        """The generator of the places; all else is drawn anew for each batch."""
        return {"places": None if self._places is None else self._places.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing places, with whatever generator comes next."""
        self._given, self._places = None, None
        if state["places"] is not None:
            self._places = torch.Generator()
            self._places.set_state(state["places"])

    def _mix(self, map_BCHW: Tensor) -> Tensor:
        assert self._lam is not None
        return torch.lerp(map_BCHW[self._order_B], map_BCHW, self._lam.to(map_BCHW.dtype))

    def _mixer(self, position: int, point: nn.Module) -> Callable[[nn.Module, object, Tensor], Tensor]:
        original = weakref.ref(point)  # a copy of the network carries this hook along, but is another object

        def mix(module: nn.Module, _given: object, map_BCHW: Tensor) -> Tensor:
            wanted = module.training and position == self._stage and module is original()
            return self._mix(map_BCHW) if wanted else map_BCHW

        return mix
