"""A run with nothing to do, and a plan of ten times as many trials."""

from __future__ import annotations

import json
import sys

from benchmarks.measure import Row
from benchmarks.orchestration.scratch import Scratch, fill, trained
from pipeline.store.trial_store import TrialStore

RUN_TARGET_S = 5.0
PLAN_TARGET_S = 2.0
HEAVY = ("ray", "mlflow", "optuna", "pandas")
# As `ablate run --json`; then a line with the heavy libraries that it imported.
RUN_AND_TELL = f"""\
import atexit, sys
sys.argv = ["ablate", "run", "--json"]
atexit.register(lambda: print("imported:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
from pipeline.cli import main
main()
"""
# The command itself, once all that it imports is there.
PLAN_WITHOUT_IMPORTS = """\
import sys, time
import pipeline.cli, pipeline.cli.run, pipeline.orchestration.outlook, pipeline.orchestration.probe, pipeline.store.trial_store
started = time.perf_counter()
pipeline.cli.run.plan(study="ten_thousand", as_json=True)
print(time.perf_counter() - started, file=sys.stderr)
"""


def measure(scratch: Scratch, *, trials: int, rounds: int) -> list[Row]:
    """No-op runs and plans, each a process, in turn with an import of torch.

    Args:
        trials: of the finished study, a multiple of 10; the plan has ten times as many, and these among them.

    Raises:
        RuntimeError: a run trained something, or imported what it should not.
    """
    scratch.write("thousand", rates=trials // 10, seeds=5)
    scratch.write("ten_thousand", rates=trials, seeds=5)
    scratch.choose("thousand", store="store")
    plan, params = scratch.plan("thousand")
    wanted = list(plan.trials.values())
    pattern = trained(scratch, wanted[0], params)
    filled = fill(TrialStore(scratch.folder / "store"), wanted, pattern, pattern["epochs_done"])
    _check_nothing_done(scratch, trials)
    scratch.choose("thousand", store="store", mirrored=True)
    first_sync_s, _ = scratch.ablate_timed("run")
    for _ in range(5):  # one goes on for 90 s at most
        if "mlflow" not in _check_nothing_done(scratch, trials, allowed=("mlflow", "pandas")):
            break
    seconds: dict[str, list[float]] = {name: [] for name in ("torch", "null", "mirrored", "plan", "inside")}
    for _ in range(rounds):
        seconds["torch"].append(scratch.timed(sys.executable, "-c", "import torch")[0])
        scratch.choose("thousand", store="store")
        seconds["null"].append(scratch.ablate_timed("run")[0])
        scratch.choose("thousand", store="store", mirrored=True)
        seconds["mirrored"].append(scratch.ablate_timed("run")[0])
        seconds["plan"].append(scratch.ablate_timed("plan", "--study", "ten_thousand", "--json")[0])
        done = scratch.run(sys.executable, "-c", PLAN_WITHOUT_IMPORTS)
        seconds["inside"].append(float(done.stderr.split()[-1]))
        _check_plan(json.loads(done.stdout)["totals"], trials)
    _check_nothing_done(scratch, trials)
    return [
        Row("`python -c 'import torch'`", "s", seconds["torch"]),
        Row(f"no-op `ablate run`, {trials:,} trials stored, tracking off", "s", seconds["null"]),
        Row(f"no-op `ablate run`, {trials:,} trials stored and mirrored", "s", seconds["mirrored"]),
        Row("**no-op run over its target of 5 s**", "ratio", [s / RUN_TARGET_S for s in seconds["mirrored"]]),
        Row("no-op run over `import torch`", "ratio", _over(seconds["mirrored"], seconds["torch"])),
        Row(f"`ablate plan`, {10 * trials:,} trials, {trials:,} stored: the process", "s", seconds["plan"]),
        Row("... without imports", "s", seconds["inside"]),
        Row("**plan without imports over its target of 2 s**", "ratio", [s / PLAN_TARGET_S for s in seconds["inside"]]),
        Row("store: append of a trial", "ms/trial", [1e3 * filled.append_s / trials]),
        Row("store: merging of segments", "ms/trial", [1e3 * filled.compact_s / trials]),
        Row(f"mirror: first sync of {trials:,} stored trials, at most 90 s a run", "s", [first_sync_s]),
    ]


def measure_dvc(scratch: Scratch, rounds: int) -> list[Row]:
    """`dvc repro` of the study that `measure` left, after one that brought its outs up to date."""
    scratch.choose("thousand", store="store", mirrored=True)
    first, _ = scratch.timed("dvc", "repro", "--quiet")
    again = [scratch.timed("dvc", "repro", "--quiet")[0] for _ in range(rounds)]
    return [
        Row("first `dvc repro`, no trial to train: plan, tables, figures, report", "s", [first]),
        Row("second `dvc repro`, nothing to do", "s", again),
    ]


def _check_nothing_done(scratch: Scratch, trials: int, allowed: tuple[str, ...] = ()) -> list[str]:
    done = scratch.run(sys.executable, "-c", RUN_AND_TELL)
    said = json.loads(done.stdout)
    imported = next(line for line in done.stderr.splitlines() if line.startswith("imported:")).split()[1:]
    if (said["started"], said["complete"]) != (0, trials) or set(imported) - set(allowed):
        raise RuntimeError(f"The no-op run did something: {said}, and imported {imported}.")
    return imported


def _check_plan(totals: dict[str, int], trials: int) -> None:
    if (totals["stored"], totals["new"]) != (trials, 9 * trials):
        raise RuntimeError(f"The plan is not the one that was meant: {totals}.")


def _over(values: list[float], base: list[float]) -> list[float]:
    return [a / b for a, b in zip(values, base, strict=True)]
