"""How far the numbers in a table can be trusted with few seeds: coverage of the intervals, false claims, power, and what they cost.

The figures stand in docs/statistics.md. Everything but the cost is seeded and comes out the same on every machine.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis.statistics.families import holm
from pipeline.analysis.statistics.intervals import summarize
from pipeline.analysis.statistics.paired import compare, sign_flip_p
from pipeline.analysis.statistics.planner import smallest_difference

RESULTS = Path(__file__).parent / "results"
SEEDS = (3, 5, 10)
CELLS = 20_000
STUDIES = 10_000
ROWS, ARMS = 6, 2
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed (exponential)": lambda rng, shape: rng.exponential(size=shape) - 1,
}


def main() -> None:
    """Measure all and print it; --write keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results/statistics_coverage-cpu.md")
    options = parser.parse_args()
    text = "\n".join([
        "# Trust in the statistics of few seeds",
        "",
        "- command: `python benchmarks/statistics_coverage.py`",
        f"- versions: Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}",
        f"- measured: {time.strftime('%Y-%m-%d')}",
        "",
        *coverage(),
        *false_claims(),
        *planner(),
        *cost(),
    ])  # fmt: skip
    print(text)
    if options.write:
        file = RESULTS / "statistics_coverage-cpu.md"
        file.write_text(text, encoding="utf-8")
        print(f"written: {file}")


def coverage() -> list[str]:
    """Share of the 95 % intervals that hold the true mean."""
    lines = [f"## 95 % intervals that hold the true mean ({CELLS:,} cells each, standard error at most 0.4 points)", ""]
    lines += ["| noise | seeds | Student t | bootstrap percentile |", "|---|---:|---:|---:|"]
    for name, noise in NOISES.items():
        for n in SEEDS:
            summaries = summarize(noise(np.random.default_rng(n), (CELLS, n)).tolist())
            shares = [
                np.mean([low <= 0 <= high for low, high in ends]) for ends in zip(*[(s.ci, s.bootstrap_ci) for s in summaries], strict=True)
            ]
            lines.append(f"| {name} | {n} | {100 * shares[0]:.1f} % | {100 * shares[1]:.1f} % |")
    return [*lines, ""]


def false_claims() -> list[str]:
    """Share of studies without any effect that claim one after Holm."""
    lines = [
        f"## Studies without any effect that claim one: {ROWS * ARMS} comparisons, Holm at 5 % ({STUDIES:,} studies each)",
        "",
    ]
    lines += ["| noise of a run | seeds | sign-flip | paired t | t without Holm |", "|---|---:|---:|---:|---:|"]
    for name, noise in NOISES.items():
        for n in SEEDS:
            value = noise(np.random.default_rng(n), (STUDIES, ROWS, ARMS + 1, n))
            rows = (value[:, :, 1:] - value[:, :, :1]).reshape(-1, n)
            both = [p.reshape(STUDIES, -1) for p in (sign_flip_p(rows), stats.ttest_1samp(rows, 0, axis=1).pvalue)]
            held = [100 * np.mean([min(holm(study)) <= 0.05 for study in p.tolist()]) for p in both]
            lines.append(f"| {name} | {n} | {held[0]:.1f} % | {held[1]:.1f} % | {100 * np.mean(both[1].min(axis=1) <= 0.05):.1f} % |")
    return [*lines, ""]


def planner() -> list[str]:
    """The smallest difference with 80 % power, in SDs of the paired differences."""
    lines = ["## Smallest difference with 80 % power at 5 %, in SDs of the paired differences", ""]
    lines += ["| seeds | t, 1 comparison | sign-flip, 1 | t, 12 comparisons | sign-flip, 12 |", "|---:|---:|---:|---:|---:|"]
    for n in (3, 5, 6, 7, 8, 10, 12, 20, 40):
        found = [smallest_difference(1.0, n, comparisons=comparisons, test=test) for comparisons in (1, 12) for test in ("t", "sign_flip")]
        lines.append(f"| {n} | {' | '.join('none' if each is None else f'{each:.2f}' for each in found)} |")
    return [*lines, ""]


def cost() -> list[str]:
    """Time of the statistics of a large study."""
    lines = ["## Cost of 3,300 summaries and 3,300 comparisons (CPU time of the process, best of 5)", ""]
    lines += ["| seeds | summarize | compare | Holm |", "|---:|---:|---:|---:|"]
    for n in SEEDS:
        cells = np.random.default_rng(n).normal(0.9, 0.01, (3300, n)).round(4).tolist()
        differences = np.random.default_rng(n + 1).normal(0, 0.01, (3300, n)).round(4).tolist()
        p_values = [each.p_sign_flip for each in compare(differences)]
        calls: tuple[Callable[[], object], ...] = (
            lambda c=cells: summarize(c),
            lambda d=differences: compare(d),
            lambda p=p_values: holm(p),
        )
        lines.append(f"| {n} | {' | '.join(f'{seconds(call):.3f} s' for call in calls)} |")
    return [*lines, ""]


def seconds(call: Callable[[], object]) -> float:
    """Least CPU time of five calls."""
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        call()
        best = min(best, time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
