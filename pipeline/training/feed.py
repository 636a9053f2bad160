"""From a prepared dataset to batches on the device. Letters: B batch, N images, H W image, C channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Batch, Target
from pipeline.data.image_data import ImageData, Split
from pipeline.regularizers import Regularizer
from pipeline.study.trial_config import Augment
from pipeline.training.augment import crop_flip

RESIDENT_SHARE = 0.5  # of the free device memory that images may take before they stay on the host


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # The arrays are memory-mapped read-only on purpose (many trials share the pages) and nothing writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class SplitFeed:
    """The images of one split as uint8 on the device where they fit, else on the host and copied batch by batch.

    Args:
        split: the split.
        mean, std: channel statistics of pixels scaled to [0, 1], for normalisation.
        device: where batches are wanted.
    """

    def __init__(self, split: Split, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.device = device
        image_NHWC = _tensor(split.image_NHWC)
        if device.type == "cuda" and image_NHWC.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            image_NHWC = image_NHWC.to(device)
        self.image_NHWC = image_NHWC
        self.label_N = _tensor(split.label_N).to(device)
        self.mask_NHW = None if split.mask_NHW is None else _tensor(split.mask_NHW)
        width = image_NHWC.shape[2]
        # Repeated along a row of pixels: broadcasting over three channels at a time is slow on a CPU.
        self._shift_WC = (torch.tensor(mean, device=device) * 255).repeat(width)
        self._scale_WC = torch.tensor(std, device=device).mul(255).reciprocal().repeat(width)

    def __len__(self) -> int:
        return len(self.label_N)

    def images(self, index_B: Tensor | slice) -> Tensor:
        """image_BHWC as uint8 on the device."""
        index = index_B.to(self.image_NHWC.device) if isinstance(index_B, Tensor) else index_B
        return self.image_NHWC[index].to(self.device, non_blocking=True)

    def normalise(self, image_BHWC: Tensor) -> Tensor:
        """image_BCHW as float32 with mean 0 and standard deviation 1 a channel; its memory is channels-last."""
        scaled_BHWC = image_BHWC.float().flatten(2).sub_(self._shift_WC).mul_(self._scale_WC).view(image_BHWC.shape)
        return scaled_BHWC.permute(0, 3, 1, 2)


class TrainFeed(SplitFeed):
    """Shuffled, augmented training batches; every random draw comes from the two generators given.

    Args:
        order: CPU generator of the data order.
        augment_rng: generator of the augmentation, on the device.
    """

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        *,
        batch_size: int,
        augment: Augment,
        order: torch.Generator,
        augment_rng: torch.Generator,
    ) -> None:
        super().__init__(data.split("train"), data.mean, data.std, device)
        # A last, smaller batch is dropped so that every step weighs the same; a split smaller than one batch is one batch.
        self.batch_size = min(batch_size, len(self))
        self.augment, self.order, self.augment_rng = augment, order, augment_rng
        self._order_at_start = order.get_state()  # of the epoch
        self._taken = self._to_skip = 0  # batches of the epoch

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self) // self.batch_size

    def epoch(self, regularizers: Sequence[tuple[Regularizer, torch.Generator]] = ()) -> Iterator[Batch]:
        """The batches of one epoch in a fresh order: crop and flip, the regularizers' pixels, normalisation, the regularizers' batch.

        After `load_state_dict`, the batches that were still to come.
        """
        self._taken, self._to_skip = self._to_skip, 0
        self._order_at_start = self.order.get_state()
        order_N = torch.randperm(len(self), generator=self.order)
        if self.image_NHWC.device.type == "cuda":
            order_N = order_N.to(self.device)
        for step in range(self._taken, self.steps_per_epoch):
            index_B = order_N[step * self.batch_size : (step + 1) * self.batch_size]
            image_BHWC = crop_flip(
                self.images(index_B), padding=self.augment.crop_padding, flip=self.augment.flip, generator=self.augment_rng
            )
            for regularizer, generator in regularizers:
                image_BHWC = regularizer.on_pixels(image_BHWC, generator)
            batch = Batch(self.normalise(image_BHWC), Target(self.label_N[index_B.to(self.device)]))
            for regularizer, generator in regularizers:
                batch = regularizer.on_batch(batch, generator)
            self._taken = step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where in an epoch the feed stands, for whoever holds its last batch: no draw of a later one has been made."""
        return {"order": self._order_at_start, "augment": self.augment_rng.get_state(), "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next epoch is the rest of the one that the state was taken of; regularizers' generators are not the feed's."""
        self.order.set_state(state["order"])
        self.augment_rng.set_state(state["augment"])
        self._to_skip = state["taken"]
