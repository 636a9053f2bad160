"""Cost of a training step: CAM-loss over plain cross-entropy, in many paired rounds. For all methods see method_cost.py.

Expected: CAM-loss costs at most 2 % of a step of resnet20 on 32x32 images in batches of 128.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Row, arguments, interleaved, ratios, report, table

from pipeline import models
from pipeline.batch import Batch, Target
from pipeline.study.trial_config import Optimizer
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective
from pipeline.training.optim import build_optimizer

CASES = (("resnet20", 32, 3, 128), ("resnet8", 24, 1, 32))  # backbone, side in pixels, channels, batch


def step(name: str, side: int, channels: int, batch_size: int, device: torch.device, *, loss: tuple[str, ...]) -> Callable[[], None]:
    """One whole training step, from the batch to the updated weights, as the training loop does it."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=10, in_channels=channels).to(device, memory_format=torch.channels_last).train()
    image_BCHW = torch.randn(batch_size, side, side, channels, device=device).permute(0, 3, 1, 2)
    batch = Batch(image_BCHW, Target(torch.randint(10, (batch_size,), device=device)))
    objective, autocast = Objective({term: {} for term in loss}), autocast_for("auto", device)
    optimizer = build_optimizer(list(net.parameters()), Optimizer(lr=1e-3))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses_of(net, batch, objective, 0, autocast)["total"].backward()
        optimizer.step()

    return run


def main() -> None:
    """Time all cases and print the ratios."""
    options = arguments(__doc__ or "", repeats=15)
    rows = []
    for name, side, channels, batch_size in CASES:
        case = (name, side, channels, batch_size, options.device)
        what = f"{name} {side}x{side}x{channels} batch {batch_size}"
        # More rounds for the small network: its steps are short, and the clock's noise is a larger share of them.
        repeats = options.repeats if name == "resnet20" else 4 * options.repeats
        arms = {"ce": step(*case, loss=("ce",)), "ce + cam": step(*case, loss=("ce", "cam"))}
        seconds = interleaved(arms, repeats=2 * repeats, device=options.device)
        rows += [Row(f"{what}: {arm}", "ms/step", [1e3 * s for s in seconds[arm]]) for arm in arms]
        rows.append(Row(f"**{what}: ce + cam over ce**", "ratio", ratios(seconds, "ce + cam", "ce")))
    report("step_cost", "Cost of a training step", table(rows), options)


if __name__ == "__main__":
    main()
