"""Share of a training step spent outside forward, backward and update: feed, augmentation, regularizer, schedule, meter.

The pieces are the real ones of the training loop, timed one by one; on CUDA each is waited for, which overstates the small ones.
Goal: at most 5 % on a CPU.
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import torch
from measure import Row, arguments, report, synchronize, table

from pipeline import models, regularizers
from pipeline.data.image_data import ImageData
from pipeline.study.trial_config import Augment, Optimizer, Schedule
from pipeline.training.feed import TrainFeed
from pipeline.training.loop import LossMeter, autocast_for, losses_of
from pipeline.training.objective import Objective
from pipeline.training.optim import build_optimizer, lr_factor, set_lr

CASES = (  # backbone, side in pixels, channels, batch, regularizer, steps a round
    ("resnet20", 32, 3, 128, None, 6),
    ("resnet20", 32, 3, 128, "cutmix", 6),
    ("resnet8", 24, 1, 32, None, 40),
    ("resnet8", 24, 1, 32, "cutmix", 40),
)
NETWORK = ("forward", "backward", "update")


class Pieces:
    """Seconds by piece of the loop; `lap` books the time since the last lap."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, piece: str) -> None:
        """Book the time since the last lap on `piece`."""
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[piece] += now - self.last
        self.last = now


def images(count: int, side: int, channels: int) -> ImageData:
    """Noise as a dataset of 10 classes, all of it training split."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return ImageData(
        "noise", pixels, np.arange(count) % 10, None, tuple("abcdefghij"), {"train": (0, count)}, (0.5,) * channels, (0.3,) * channels, ""
    )


def rounds(case: tuple[str, int, int, int, str | None, int], device: torch.device, repeats: int) -> list[dict[str, float]]:
    """Shares of a step by piece, one dictionary an epoch; the first epoch is warm-up and left out."""
    name, side, channels, batch_size, regularizer, steps = case
    torch.manual_seed(0)
    net = models.create(name, num_classes=10, in_channels=channels).to(device, memory_format=torch.channels_last).train()
    feed = TrainFeed(
        images(batch_size * steps, side, channels),
        device,
        batch_size=batch_size,
        augment=Augment(crop_padding=side // 8, flip=True),
        order=torch.Generator(),
        augment_rng=torch.Generator(device),
    )
    method = None if regularizer is None else regularizers.create(regularizer)
    rng, autocast, objective = torch.Generator(device), autocast_for("auto", device), Objective({"ce": {}, "cam": {}})
    optimizer, schedule, taken = build_optimizer(list(net.parameters()), Optimizer(lr=1e-3)), Schedule(warmup_epochs=1), 0
    shares = []
    for epoch in range(repeats + 1):
        pieces, meter = Pieces(device), LossMeter(taken, epoch)
        for batch in feed.epoch():
            pieces.lap("feed and augmentation")
            set_lr(optimizer, 1e-3 * lr_factor(taken, steps_per_epoch=steps, epochs=repeats + 1, schedule=schedule))
            pieces.lap("schedule")
            if method is not None:
                batch = method.on_batch(batch, rng)
            pieces.lap("regularizer")
            optimizer.zero_grad(set_to_none=True)
            values = losses_of(net, batch, objective, epoch, autocast)
            pieces.lap("forward")
            values["total"].backward()
            pieces.lap("backward")
            optimizer.step()
            pieces.lap("update")
            meter.add(values)
            taken += 1
            pieces.lap("meter")
        meter.means()
        pieces.lap("meter")
        whole = sum(pieces.seconds.values())
        shares.append({piece: seconds / whole for piece, seconds in pieces.seconds.items()})
    return shares[1:]


def main() -> None:
    """Measure all cases and print the shares."""
    options = arguments(__doc__ or "", repeats=6)
    rows = []
    for case in CASES:
        name, side, channels, batch_size, regularizer, _ = case
        what = f"{name} {side}x{side}x{channels} batch {batch_size}, regularizer {regularizer or 'none'}"
        shares = rounds(case, options.device, options.repeats)
        outside = [100 * sum(share for piece, share in one.items() if piece not in NETWORK) for one in shares]
        rows.append(Row(f"**{what}: outside the network**", "% of a step", outside))
        rows += [Row(f"{what}: {piece}", "% of a step", [100 * one[piece] for one in shares]) for piece in shares[0]]
    report("loop_share", "Share of a training step outside forward, backward and update", table(rows), options)


if __name__ == "__main__":
    main()
