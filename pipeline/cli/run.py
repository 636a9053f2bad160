"""Doing: prepare, plan, run."""

from __future__ import annotations

import os
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, find, load, note, print_json, say
from pipeline.errors import ConfigError, counted


@app.command(epilog="Example:  ablate prepare --study cifar10_small")
def prepare(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Prepare the datasets of the study; what is prepared already is left alone."""
    from pipeline.orchestration.preparing import prepare_study

    file, params = load(study)
    summary = prepare_study(file, params, log=None if as_json else note)
    if as_json:
        print_json(summary)
        return
    for folder, entry in summary.items():
        splits = ", ".join(f"{name} {count}" for name, count in entry["splits"].items())
        kind = f"{'x'.join(map(str, entry['shape']))}, {counted(entry['classes'], 'class', 'classes')}"
        place = f"digest {entry['digest'][:12]} in {params.data.prepared}/{folder}"
        say(f"{entry['name']}: {splits}; {kind}, {place}")


@app.command(epilog="Examples:  ablate plan --study quick --json · ablate plan --no-probe")
def plan(
    study: StudyOption = None,
    probe: Annotated[
        bool, typer.Option(help="Time a few steps of networks of which no trial is stored yet; what is found is remembered.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do and cost, table by table; trains and changes nothing.

    new: to be trained · stored: done · shared: counted in an earlier table · blocked: waits for data · failed: stored as failed.
    """
    from pipeline.orchestration.forecast import span
    from pipeline.orchestration.outlook import look_ahead
    from pipeline.orchestration.planning import count, make_plan
    from pipeline.store.trial_store import TrialStore
    from pipeline.study.project import absolute_url

    file, params = load(study)
    made, store = make_plan(file, params), TrialStore(absolute_url(params.store.url))
    records = store.records()
    counts = count(made, records)
    outlook = look_ahead(made, records, params, store, probe=probe, log=note)
    skipped = [trial for trial in made.trials.values() if trial.reason]
    if as_json:
        print_json({**counts, **outlook.to_json(), "skipped": len(skipped), "notes": outlook.troubles})
        return
    table = Table("table", *counts["totals"], "skipped", "time", title=f"{made.study}: trials", title_justify="left")
    for name, row in counts["tables"].items():
        times = span(_seconds(outlook.table_hours[name]))
        table.add_row(name, *map(str, row.values()), str(sum(name == trial.tables[0] for trial in skipped)), times)
    table.add_section()
    table.add_row("total", *map(str, counts["totals"].values()), str(len(skipped)), span(_seconds(outlook.hours)))
    Console().print(table)
    for line in outlook.lines():
        say(line)
    for reason, number in Counter(trial.reason for trial in skipped).items():
        say(f"skipped ({number}): {reason}")
    if params.seeds is not None:
        say(f"params.yaml overrides the study's seeds: {params.seeds} instead of {file.study.seeds} (`seeds: null` takes that back).")
    for reason in made.why_blocked():
        say(f"blocked: {reason}")


def _seconds(hours: float | None) -> float | None:
    return None if hours is None else 3600 * hours


@app.command(epilog="Examples:  ablate run · ablate run --study cifar10_small · ablate run --trial 3f9c0a12 · ablate run --cluster")
def run(
    study: StudyOption = None,
    trial: Annotated[
        list[str] | None, typer.Option("--trial", "-t", help="Only this trial (id or its beginning), also if it failed; may be repeated.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Also trials that failed by a bug; they are left alone otherwise.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="On the Ray cluster of this machine, or the one at RAY_ADDRESS.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train what is missing, with live progress. Ctrl-C is safe: finished trials are stored, the next run continues.

    Prepares data first where that is missing. `dvc repro` does this and makes the tables as well. Lost workers and nodes, and memory
    that runs out, are met by trying again; several runs may share one store. Exit status 1 when a trial failed or is missing.
    """
    from pipeline.orchestration.planning import make_plan
    from pipeline.orchestration.preparing import prepare_study
    from pipeline.orchestration.run import run_plan

    if cluster:
        os.environ.setdefault("RAY_ADDRESS", "auto")
    file, params = load(study)
    if cluster and params.resources.executor != "ray":
        raise ConfigError(f"--cluster needs resources.executor: ray, but params.yaml has {params.resources.executor}. Change it there.")
    made = make_plan(file, params)  # what is wrong with the study is said before hours of preparing data
    if made.blocked:
        prepare_study(file, params, log=note)
        made = make_plan(file, params)
    only = None if not trial else [find(made.trials, prefix) for prefix in trial]
    try:
        outcome = run_plan(made, params, only=only, again=failed)
    except KeyboardInterrupt as interrupt:  # typer would only say "Aborted."
        note("\nInterrupted. Finished trials are stored; run the same command again to continue.")
        raise typer.Exit(130) from interrupt
    if as_json:
        keys = {"started": outcome.started, "complete": outcome.complete, "skipped": outcome.skipped}
        troubles = {name: [dict(record)["trial_id"] for record in getattr(outcome, name)] for name in ("diverged", "failed")}
        print_json({**keys, **troubles, "missing": [t.spec.trial_id for t in outcome.missing]})
    else:
        say(outcome.line())
        for record in [r for r in (*outcome.diverged, *outcome.failed) if only is None or r["trial_id"] in only]:
            say(f"  {record['failure']}: {record.get('name', '')} [{record['trial_id']}]: {record['reason']}")
        if outcome.failed:
            say("  `ablate status` shows where their tracebacks are; `ablate run --failed` runs them again.")
    if outcome.diverged or outcome.failed or (outcome.missing and only is None):
        raise typer.Exit(1)
