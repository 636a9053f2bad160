"""What the benchmarks share: interleaved timing, paired ratios, and a table that names hardware and versions."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

RESULTS = Path(__file__).parent / "results"


def arguments(description: str, *, repeats: int, docs: bool = False) -> argparse.Namespace:
    """Command line of a benchmark: --device, --repeats, --threads, --write, and --docs where its table stands in the documentation."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds; each round times every variant once")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU; trials in parallel have one each")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results/<name>-<device>.md")
    if docs:
        parser.add_argument("--docs", action="store_true", help="also put the table into the documentation")
    options = parser.parse_args()
    options.device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    return options


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each variant in each round. All variants run in every round, each round starting with another one.

    So a slow second of the machine hits all variants alike, and ratios within a round are paired.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            synchronize(device)
            started = time.perf_counter()
            variants[name]()
            synchronize(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Time of `name` over time of `base`, round by round."""
    return [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, in which unit, and one number a round."""

    name: str
    unit: str
    values: Sequence[float]


def table(rows: Sequence[Row]) -> str:
    """Markdown table with min, median and max of each row."""
    lines = ["| what | unit | min | median | max | rounds |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        numbers = " | ".join(f"{value:.4g}" for value in (min(row.values), statistics.median(row.values), max(row.values)))
        lines.append(f"| {row.name} | {row.unit} | {numbers} | {len(row.values)} |")
    return "\n".join(lines)


def processor() -> str:
    """Model name of the CPU, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report(name: str, title: str, body: str, options: argparse.Namespace) -> None:
    """Print the table with hardware and versions, and write it down where asked to."""
    gpu = f", {torch.cuda.get_device_name(options.device)}" if options.device.type == "cuda" else ""
    text = "\n".join([
        f"# {title}",
        "",
        f"- command: `python benchmarks/{name}.py --device {options.device.type} --repeats {options.repeats} --threads {options.threads}`",
        f"- hardware: {processor()}, {os.cpu_count()} cores, torch threads: {options.threads}{gpu}",
        f"- load average when done: {os.getloadavg()[0]:.1f} (well above the number of threads means that other work disturbed the clock)",
        f"- versions: Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}",
        f"- measured: {time.strftime('%Y-%m-%d')}; variants take turns within a round, ratios are paired within a round",
        "",
        body,
        "",
    ])  # fmt: skip
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{name}-{options.device.type}.md"
        file.write_text(text, encoding="utf-8")
        print(f"written: {file}")
