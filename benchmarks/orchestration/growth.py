"""What a trial costs the driver, from the first to the last of many that do next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.measure import Row
from benchmarks.orchestration.scratch import Scratch
from benchmarks.orchestration.watched import Watched, run_watched

PARTS = 4


def measure(scratch: Scratch, *, trials: int, mirrored: int) -> list[Row]:
    """Run trials of one epoch on 32 images, two at a time.

    Args:
        trials: without the mirror, a multiple of 16.
        mirrored: with it, likewise.
    """
    rows = []
    scratch.write("trivial", rates=trials // 4, seeds=2, epochs=1, images=32)
    scratch.choose("trivial", store="trivial")
    off = run_watched(scratch, "trivial")
    rows += [*_rows(f"{trials:,} trivial trials, tracking off", off)]
    if mirrored:
        scratch.write("trivial_mirrored", rates=mirrored // 4, seeds=2, epochs=1, images=32)
        scratch.choose("trivial_mirrored", store="trivial_mirrored", mirrored=True)
        on = run_watched(scratch, "trivial_mirrored")
        rows += _rows(f"{mirrored:,} trivial trials, mirrored to sqlite", on)
        rows.append(Row("driver CPU of a trial, mirrored over not", "ratio", [_all_ms(on) / _all_ms(off)]))
    return rows


def _rows(what: str, run: Watched) -> list[Row]:
    """Four equal parts of the trials, one after the other."""
    size = len(run.ends) // PARTS
    marks = [run.starts[0], *(run.ends[(part + 1) * size - 1] for part in range(PARTS))]
    seen = [run.at(mark) for mark in marks]
    cpu_ms = [1e3 * (b.cpu_s - a.cpu_s) / size for a, b in pairwise(seen)]
    pace = [size / (b - a) for a, b in pairwise(marks)]
    rss_mib = [sample.rss / 2**20 for sample in seen[1:]]
    return [
        *(_parts(f"{what}: driver CPU", "ms/trial", cpu_ms, size)),
        Row("**driver CPU of a trial, last quarter over first**", "ratio", [cpu_ms[-1] / cpu_ms[0]]),
        *(_parts(f"{what}: driver RSS", "MiB", rss_mib, size)),
        Row("**driver RSS, end over first quarter**", "ratio", [rss_mib[-1] / rss_mib[0]]),
        *(_parts(f"{what}: pace", "trials/s", pace, size)),
        Row("**pace, last quarter over first**", "ratio", [pace[-1] / pace[0]]),
    ]


def _parts(what: str, unit: str, values: Sequence[float], size: int) -> list[Row]:
    return [Row(f"{what}, to trial {(part + 1) * size:,}", unit, [value]) for part, value in enumerate(values)]


def _all_ms(run: Watched) -> float:
    return 1e3 * run.driver_cpu_s() / len(run.ends)
