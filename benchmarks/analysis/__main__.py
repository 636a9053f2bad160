"""Print what tables and the report of many trials take: `python -m benchmarks.analysis [--trials 10000] [--epochs 200] [--write]`.

tables     join of plan and store, tables in five formats, metrics.json (target 2 s without imports, memory 2 GB)
stage      all of `stages/aggregate.py`: histories, results/*.parquet and curves on top
report     `stages/report.py`: figures, index.html and a page a trial (memory 2 GB)
Each also for a tenth of the trials, to show how it grows; those beside `mlflow.search_runs` over runs with the same numbers.
Exit status 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.analysis.parts import ALL, IMPORTS, MLFLOW
from benchmarks.measure import RESULTS, Row, processor, table
from benchmarks.orchestration.scratch import Scratch, fill, make_scratch, trained
from pipeline.orchestration.outcome import Outcome, write_outcomes
from pipeline.orchestration.planning import write_plan
from pipeline.store.trial_store import TrialStore
from pipeline.study.project import OUTCOMES, PLAN, REPORT
from tests.e2e.project import ROOT

LIBRARIES = ("pyarrow", "numpy", "scipy", "matplotlib", "jinja2", "mlflow", "pandas")
TABLES_TARGET_S = 2.0
MEMORY_TARGET_MIB = 2e9 / 2**20
ARMS, SEEDS, AT_ONCE = 2, 5, 50
WAYS = ("tables", "stage", "report")
# Words in the name of a ratio -> what its minimum may be at most; quadratic time would give a ratio of 10 in the second.
LIMITS = {"over the target": 1.0, "time of a trial": 2.0}
Measured = list[dict[str, float]]  # one a round


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.analysis", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="a multiple of 100 (default: 10000)")
    parser.add_argument("--epochs", type=int, default=200, help="of a history (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="of all but the report, which has one (default: 5)")
    parser.add_argument("--only", nargs="+", choices=(*WAYS, "peer"), default=[*WAYS, "peer"], help="these sections")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results/analysis-cpu.md")
    options = parser.parse_args()
    if options.trials < 100 or options.trials % 100 or min(options.epochs, options.rounds) < 1:
        parser.error("--trials must be a multiple of 100, --epochs and --rounds at least 1")
    return options


def main() -> None:
    """Measure and print."""
    options, began = arguments(), time.time()
    with tempfile.TemporaryDirectory(prefix="analysis-") as place:
        sizes = (options.trials, options.trials // 10)
        projects = {trials: make_study(Path(place) / str(trials), trials, options.epochs) for trials in sizes}
        measured: dict[tuple[str, int], Measured] = {}
        for way in (way for way in WAYS if way in options.only):
            rounds = 1 if way == "report" else options.rounds
            for _ in range(rounds):
                for trials, scratch in projects.items():
                    measured.setdefault((way, trials), []).append(measure(scratch, way))
        sections = {f"`{way}`": rows_of(way, measured, *sizes) for way in WAYS if (way, options.trials) in measured}
        if "report" in options.only:
            sections["`report`"] += report_size(projects[options.trials])
        if "peer" in options.only:
            sections[f"Beside MLflow, {sizes[1]:,} runs"] = beside_mlflow(projects[sizes[1]], options.rounds)
    text = "\n".join(["# Tables and report", "", *circumstances(options, time.time() - began), *bodies(sections)]) + "\n"
    print(text)
    if options.write:
        (RESULTS / "analysis-cpu.md").write_text(text, encoding="utf-8")
    rows = [row for section in sections.values() for row in section]
    if missed := [row.name for row in rows for words, most in LIMITS.items() if words in row.name and min(row.values) > most]:
        sys.exit(f"Missed: {'; '.join(missed)}.")


def make_study(folder: Path, trials: int, epochs: int) -> Scratch:
    """A project after a run of so many trials: one table of trials / 10 rows, two arms and five seeds."""
    scratch = Scratch(make_scratch(folder).folder, also=str(ROOT))
    scratch.write("pattern", rates=1, seeds=1)
    scratch.write("many", rates=trials // (ARMS * SEEDS), seeds=SEEDS, epochs=epochs)
    scratch.choose("many", store="store")
    short, params = scratch.plan("pattern")
    pattern = trained(scratch, next(iter(short.trials.values())), params)
    plan, _ = scratch.plan("many")
    store = TrialStore(scratch.folder / "store")
    fill(store, list(plan.trials.values()), pattern, epochs, at_once=AT_ONCE)
    with contextlib.chdir(scratch.folder):
        write_plan(plan, PLAN)
        write_outcomes(Outcome.of(plan, store.records(), 0), OUTCOMES)
    scratch.run(sys.executable, "stages/prepare.py")
    measure(scratch, "stage")  # the report reads what it writes; and modules are compiled
    return scratch


def measure(scratch: Scratch, way: str) -> dict[str, float]:
    """Seconds by part and peak memory of one process."""
    done = scratch.run(sys.executable, "-m", "benchmarks.analysis.parts", way, timeout=1800)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def rows_of(way: str, measured: Mapping[tuple[str, int], Measured], many: int, few: int) -> list[Row]:
    """What one way took: all of it, its parts, its memory, and how that grew with the trials."""
    large, small = measured[way, many], measured[way, few]
    name = f"{many:,} trials"
    rows = [Row(f"{name}: imports", "s", values(large, IMPORTS)), Row(f"{name}: all but imports", "s", values(large, ALL))]
    rows += [Row(f"... {part}", "s", values(large, part)) for part in large[0] if part not in (IMPORTS, ALL, "peak_mib")]
    if way == "tables":
        rows.append(
            Row(f"**all but imports over the target of {TABLES_TARGET_S:g} s**", "ratio", over(values(large, ALL), TABLES_TARGET_S))
        )
    peaks = values(large, "peak_mib")
    rows += [
        Row(f"{name}: peak memory", "MiB", peaks),
        Row("**peak memory over the target of 2 GB**", "ratio", over(peaks, MEMORY_TARGET_MIB)),
    ]
    rows.append(Row(f"{few:,} trials: all but imports", "s", values(small, ALL)))
    growth = [b / a * few / many for a, b in zip(values(small, ALL), values(large, ALL), strict=True)]
    return [*rows, Row(f"**time of a trial, {many:,} trials over {few:,}**", "ratio", growth)]


def beside_mlflow(scratch: Scratch, rounds: int) -> list[Row]:
    """Reading all trials, here and from MLflow's database, in turn."""
    filled = measure(scratch, "fill_peer")
    seconds: dict[str, list[float]] = {"records": [], "search_runs": [], "tables": []}
    for _ in range(rounds):
        for way, taken in seconds.items():
            taken.append(measure(scratch, way)[ALL])
    ratio = [a / b for a, b in zip(seconds["search_runs"], seconds["tables"], strict=True)]
    return [
        Row("all records of the store as a table", "s", seconds["records"]),
        Row("join of plan and store, all tables written, metrics.json", "s", seconds["tables"]),
        Row(f"`mlflow.search_runs`, {MLFLOW.partition(':')[0]}, one table of all runs", "s", seconds["search_runs"]),
        Row("**`mlflow.search_runs` over all tables written**", "ratio", ratio),
        Row("logging the runs, without histories", "s", [filled[ALL]]),
    ]


def report_size(scratch: Scratch) -> list[Row]:
    """Bytes of the report."""
    pages = list((scratch.folder / REPORT).rglob("*.html"))
    index = (scratch.folder / REPORT / "index.html").stat().st_size
    return [
        Row("index.html", "MB", [index / 1e6]),
        Row(f"all {len(pages):,} pages", "MB", [sum(page.stat().st_size for page in pages) / 1e6]),
    ]


def values(rounds: Iterable[Mapping[str, float]], part: str) -> list[float]:
    """One number a round."""
    return [each[part] for each in rounds]


def over(numbers: Iterable[float], target: float) -> list[float]:
    """Shares of a target."""
    return [number / target for number in numbers]


def bodies(sections: Mapping[str, list[Row]]) -> list[str]:
    """Markdown of the sections."""
    return [line for title, rows in sections.items() for line in ("", f"## {title}", "", table(rows))]


def circumstances(options: argparse.Namespace, took_s: float) -> list[str]:
    """What the numbers were measured with and on."""
    only = "" if options.only == [*WAYS, "peer"] else f" --only {' '.join(options.only)}"
    return [
        f"- command: `python -m benchmarks.analysis --trials {options.trials} --epochs {options.epochs} --rounds {options.rounds}{only}`",
        f"- hardware: {processor()}, {os.cpu_count()} cores; each measurement is a process of its own",
        f"- load average when done: {os.getloadavg()[0]:.1f} (well above 1 means that other work disturbed the clock: the minima count)",
        f"- versions: Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}",
        f"- measured: {time.strftime('%Y-%m-%d')}, in {took_s / 60:.0f} minutes; what is compared takes turns within a round",
    ]


if __name__ == "__main__":
    main()
