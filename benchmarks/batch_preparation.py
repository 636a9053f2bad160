"""Making training batches: our batched feed with crop and flip, against torchvision's DataLoader on PIL images.

Both make the same kind of batch: 32x32 RGB, zero-padded by 4, cropped, flipped, normalised, 128 images, shuffled, on the device.
"""

from __future__ import annotations

import numpy as np
import torch
from measure import Row, arguments, interleaved, report, synchronize, table
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.data.image_data import ImageData
from pipeline.study.trial_config import Augment
from pipeline.training.feed import TrainFeed

COUNT, BATCH, MEAN, STD = 128 * 40, 128, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's CIFAR classes hand them out: an array row becomes a PIL image and then a tensor."""

    def __init__(self, image_NHWC: np.ndarray, label_N: np.ndarray) -> None:
        self.image_NHWC, self.label_N = image_NHWC, label_N
        self.transform = transforms.Compose([
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.label_N)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.image_NHWC[row])), int(self.label_N[row])


def main() -> None:
    """Time one epoch of batches for each variant in turn."""
    options = arguments(__doc__ or "", repeats=5)
    device = options.device
    pixels, label_N = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8), np.arange(COUNT) % 10
    data = ImageData("noise", pixels, label_N, None, tuple("abcdefghij"), {"train": (0, COUNT)}, MEAN, STD, "")
    feed = TrainFeed(
        data,
        device,
        batch_size=BATCH,
        augment=Augment(crop_padding=4, flip=True),
        order=torch.Generator(),
        augment_rng=torch.Generator(device),
    )

    def ours() -> None:
        for batch in feed.epoch():
            assert len(batch.image_BCHW) == BATCH

    def theirs(loader: DataLoader[tuple[torch.Tensor, int]]) -> None:
        for image_BCHW, label_B in loader:
            image_BCHW.to(device, non_blocking=True)
            label_B.to(device, non_blocking=True)
        synchronize(device)

    variants = {"ours": ours}
    for workers in (0, 2):
        loader = DataLoader(
            PilImages(pixels, label_N),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        variants[f"torchvision, {workers} workers"] = lambda loader=loader: theirs(loader)  # type: ignore[misc]
    seconds = interleaved(variants, repeats=options.repeats, device=device, warmup=1)
    rows = [Row(name, "images/s", [COUNT / s for s in values]) for name, values in seconds.items()]
    for name in list(variants)[1:]:
        speedup = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[name], strict=True)]
        rows.append(Row(f"**ours over {name}**", "times faster", speedup))
    report("batch_preparation", "Preparation of training batches", table(rows), options)


if __name__ == "__main__":
    main()
