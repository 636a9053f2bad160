"""Print what orchestration costs, as ratios: `python -m benchmarks.orchestration [--only NAME ...] [--markdown]`.

nothing    no-op `ablate run` on a finished study of 1,000 trials (target 5 s, no Ray started);
           `ablate plan` of 10,000 (target 2 s without imports)
repro      the same through `dvc repro`
volume     a store of 10,000 trials x 200 epochs: files, bytes, reading
pool       64 trials of a second on 2 slots, wall over ideal (target 1.10), beside bare Ray actors, Ray Tune and Optuna
growth     driver CPU, memory and pace over 2,000 trials that do next to nothing
Each runs in a throw-away project of its own. All together about 13 minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, Row, processor, table
from benchmarks.orchestration import growth, nothing_to_do, pool, volume
from benchmarks.orchestration.scratch import make_scratch

LIBRARIES = ("torch", "ray", "mlflow", "optuna", "dvc", "pyarrow")


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.orchestration", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("nothing", "repro", "volume", "pool", "growth"), help="these sections")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table for the terminal")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results/orchestration-cpu.md")
    parser.add_argument("--rounds", type=int, default=2, help="of pool; nothing and volume have three more (default: 2)")
    parser.add_argument("--trials", type=int, default=2000, help="of growth (default: 2000)")
    parser.add_argument("--stored", type=int, default=1000, help="of nothing, and a tenth of volume (default: 1000)")
    parser.add_argument("--raced", type=int, default=64, help="of pool (default: 64)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial of pool (default: 1)")
    return parser.parse_args()


def main() -> None:
    """Run the sections and print their tables."""
    options = arguments()
    wanted = options.only or ("nothing", "repro", "volume", "pool", "growth")
    done: dict[str, list[Row]] = {}
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="orchestration-") as place:

        def section(name: str, title: str, run: Callable[[], list[Row]]) -> None:
            if name in wanted:
                started = time.time()
                done[title] = run()
                if not options.markdown:
                    _show(title, done[title], time.time() - started)

        stored, rounds = options.stored, options.rounds
        quiet = make_scratch(Path(place) / "nothing")
        if "repro" in wanted and "nothing" not in wanted:
            nothing_to_do.measure(quiet, trials=stored, rounds=1)
        section("nothing", "Nothing to do", lambda: nothing_to_do.measure(quiet, trials=stored, rounds=rounds + 3))
        section("repro", "Nothing to do, through DVC", lambda: nothing_to_do.measure_dvc(quiet, rounds + 1))
        big = make_scratch(Path(place) / "volume")
        section("volume", "A large store", lambda: volume.measure(big, trials=10 * stored, epochs=200, rounds=rounds + 3))
        race = make_scratch(Path(place) / "pool")
        section("pool", "Two slots", lambda: pool.measure(race, trials=options.raced, seconds=options.seconds, rounds=rounds))
        many = make_scratch(Path(place) / "growth")
        section("growth", "Many trials", lambda: growth.measure(many, trials=options.trials, mirrored=options.trials // 128 * 16))
    text = _markdown(done, options, time.time() - began)
    if options.markdown:
        print(text)
    else:
        print("\n".join(_circumstances(options, time.time() - began)))
    if options.write:
        (RESULTS / "orchestration-cpu.md").write_text(text, encoding="utf-8")


def _markdown(done: dict[str, list[Row]], options: argparse.Namespace, took_s: float) -> str:
    parts = ["# Orchestration", "", *_circumstances(options, took_s)]
    for title, rows in done.items():
        parts += ["", f"## {title}", "", table(rows)]
    return "\n".join(parts) + "\n"


def _circumstances(options: argparse.Namespace, took_s: float) -> list[str]:
    sizes = " ".join(f"--{name} {getattr(options, name):g}" for name in ("rounds", "trials", "stored", "raced", "seconds"))
    only = f" --only {' '.join(options.only)}" if options.only else ""
    return [
        f"- command: `python -m benchmarks.orchestration{only} {sizes}`",
        f"- hardware: {processor()}, {os.cpu_count()} cores, shared by driver, Ray and workers; a trial has one thread",
        f"- load average when done: {os.getloadavg()[0]:.1f} (Ray, driver and workers come to about 2 at the end of the last section)",
        f"- versions: Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}",
        f"- measured: {time.strftime('%Y-%m-%d')}, in {took_s / 60:.0f} minutes; what is compared takes turns within a round",
        "- wall over ideal: from the first trial's start to the last one's end, over the sum of the trials' own times in that very run, "
        "shared out evenly over the slots",
    ]


def _show(title: str, rows: list[Row], took_s: float) -> None:
    shown = Table("what", "unit", *("min", "median", "max", "rounds"), title=f"{title} ({took_s:.0f} s)", title_justify="left")
    for line in table(rows).splitlines()[2:]:
        shown.add_row(*(cell.strip().replace("**", "") for cell in line.strip("|").split("|")))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


if __name__ == "__main__":
    main()
