"""What each loss and each regularizer costs over plain cross-entropy: parameters, FLOPs, memory and time of a training step.

A step goes from a batch of uint8 images on the device to the updated weights, as the training loop does it. With --docs it also
writes the table of docs/method-cost.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import arguments, interleaved, ratios, report
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline import losses, models, regularizers
from pipeline.batch import Batch, Target
from pipeline.models.backbone import num_parameters
from pipeline.study.trial_config import Optimizer
from pipeline.training.loop import autocast_for, losses_of
from pipeline.training.objective import Objective
from pipeline.training.optim import build_optimizer

BACKBONE, SIDE, CHANNELS, CLASSES, BATCH = "resnet20", 32, 3, 10, 128
DOCS = Path(__file__).parents[1] / "docs" / "method-cost.md"


@dataclass
class Step:
    """A training step with one method, and what it adds.

    Attributes:
        run: does one step.
        parameters: trained scalars of the network and of the loss.
    """

    run: Callable[[], object]
    parameters: int


def build(device: torch.device, *, loss: str = "ce", regularizer: str | None = None) -> Step:
    """The step of a fresh network with this loss (on top of cross-entropy where it does not classify by itself) and regularizer."""
    torch.manual_seed(0)
    net = models.create(BACKBONE, num_classes=CLASSES, in_channels=CHANNELS).to(device, memory_format=torch.channels_last).train()
    image_BHWC = torch.randint(256, (BATCH, SIDE, SIDE, CHANNELS), dtype=torch.uint8, device=device)
    label_B = torch.arange(BATCH, device=device) % CLASSES
    method = None if regularizer is None else regularizers.create(regularizer)
    if method is not None:
        method.on_model(net)
    alone = getattr(losses.registry.get(loss).factory, "trains_classifier", True)
    objective = Objective({loss: {}} if alone else {"ce": {}, loss: {}})
    objective.attach(net.classifier, lambda name: 0)
    trained = [p for p in (*net.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer, rng, autocast = build_optimizer(trained, Optimizer(lr=1e-3)), torch.Generator(device), autocast_for("auto", device)

    def run() -> None:
        pixels_BHWC = image_BHWC if method is None else method.on_pixels(image_BHWC, rng)
        batch = Batch(pixels_BHWC.float().sub_(128).mul_(1 / 64).permute(0, 3, 1, 2), Target(label_B))
        if method is not None:
            batch = method.on_batch(batch, rng)

        def gradients() -> dict[str, Tensor]:
            optimizer.zero_grad(set_to_none=True)
            values = losses_of(net, batch, objective, 0, autocast)
            values["total"].backward()
            return values

        gradients()
        if method is not None:
            method.before_update(trained, gradients)
        optimizer.step()

    return Step(run, num_parameters(net) + sum(p.numel() for p in objective.parameters()))


def flops(step: Step) -> int:
    """Floating-point operations of the convolutions and matrix products of a step, two a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        step.run()
    return int(counter.get_total_flops())


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most that tensors made during a step take at once, on top of what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step.run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.run()
    events = sorted((e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    taken = peak = 0
    for event in events:
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak


def measure(device: torch.device, repeats: int) -> str:
    """Markdown table, a row a method."""
    steps = {"ce": build(device)}
    labels = {"ce": "plain CE"}
    for name in losses.names():
        if name != "ce":
            alone = getattr(losses.registry.get(name).factory, "trains_classifier", True)
            steps[f"loss {name}"] = build(device, loss=name)
            labels[f"loss {name}"] = f"`{name}`" if alone else f"`ce` + `{name}`"
    for name in regularizers.names():
        steps[f"regularizer {name}"], labels[f"regularizer {name}"] = build(device, regularizer=name), f"`{name}`"
    seconds = interleaved({name: step.run for name, step in steps.items()}, repeats=repeats, device=device)
    base_flops, base_bytes = flops(steps["ce"]), peak_bytes(steps["ce"], device)
    lines = [
        f"Plain CE: {steps['ce'].parameters:,} parameters, {base_flops / 1e9:.1f} GFLOP and {base_bytes / 2**20:.0f} MiB a step, "
        f"median {1e3 * statistics.median(seconds['ce']):.1f} ms.",
        "",
        "| kind | method | added parameters | FLOPs | peak memory | step time (median) | quartiles |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, step in steps.items():
        if name == "ce":
            continue
        over = ratios(seconds, name, "ce")
        low, middle, high = statistics.quantiles(over, n=4)
        lines.append(
            f"| {name.split()[0]} | {labels[name]} | {step.parameters - steps['ce'].parameters:,} | {flops(step) / base_flops:.3f} x "
            f"| {peak_bytes(step, device) / base_bytes:.2f} x | {middle:.3f} x | {low:.3f}-{high:.3f} |"
        )
    return "\n".join(lines)


def write_docs(body: str, options: argparse.Namespace) -> None:
    """Put the table for this kind of device between its two marks in the documentation."""
    text, kind = DOCS.read_text(encoding="utf-8"), options.device.type
    start, end = f"<!-- {kind} table -->", f"<!-- end of {kind} table -->"
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    DOCS.write_text(f"{head}{start}\n{body}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Measure all methods and print the table."""
    options = arguments(__doc__ or "", repeats=20, docs=True)
    body = f"{BACKBONE}, {SIDE}x{SIDE}x{CHANNELS}, batch {BATCH}. " + measure(options.device, options.repeats)
    report("method_cost", "Cost of each loss and regularizer over plain cross-entropy", body, options)
    if options.docs:
        write_docs(body, options)


if __name__ == "__main__":
    main()
