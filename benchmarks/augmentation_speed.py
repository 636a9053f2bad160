"""Regularizers that change the images: ours on a batch, against torchvision's transform of the same kind, image by image.

Both start from the same 128 images of 32x32 RGB, uint8 tensors (normalised floats for random erasing), on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Row, arguments, interleaved, report, table
from torch import Tensor
from torchvision import transforms

from pipeline import regularizers
from pipeline.batch import Batch, Target

BATCH, SIDE, CHANNELS = 128, 32, 3
THEIRS: dict[str, Callable[[], torch.nn.Module]] = {
    "auto_augment": lambda: transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
    "rand_augment": transforms.RandAugment,
    "trivial_augment": transforms.TrivialAugmentWide,
    "augmix": transforms.AugMix,
    "random_erasing": transforms.RandomErasing,
}


def pair(name: str, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """One batch by each of the two."""
    method, transform, rng = regularizers.create(name), THEIRS[name](), torch.Generator(device)
    pixels_BHWC = torch.randint(256, (BATCH, SIDE, SIDE, CHANNELS), dtype=torch.uint8, device=device)
    planes_BCHW = pixels_BHWC.permute(0, 3, 1, 2).contiguous()
    if name == "random_erasing":
        planes_BCHW, label_B = planes_BCHW.float().div_(255), torch.zeros(BATCH, dtype=torch.long, device=device)
        batch = Batch(planes_BCHW.contiguous(memory_format=torch.channels_last), Target(label_B))

    def ours() -> Tensor:
        return method.on_batch(batch, rng).image_BCHW if name == "random_erasing" else method.on_pixels(pixels_BHWC, rng)

    def theirs() -> Tensor:
        return torch.stack([transform(image_CHW) for image_CHW in planes_BCHW])

    return {"ours": ours, "torchvision": theirs}


def main() -> None:
    """Time each method in turn."""
    options = arguments(__doc__ or "", repeats=40)
    rows = []
    for name in THEIRS:
        seconds = interleaved(pair(name, options.device), repeats=options.repeats, device=options.device)
        rows += [Row(f"{name}: {who}", "images/s", [BATCH / s for s in values]) for who, values in seconds.items()]
        speedup = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["torchvision"], strict=True)]
        rows.append(Row(f"**{name}: ours over torchvision**", "times faster", speedup))
    report("augmentation_speed", "Regularizers that change the images", table(rows), options)


if __name__ == "__main__":
    main()
