"""Doing: prepare, plan, run."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, find, load, note, planned, print_json, say
from pipeline.errors import counted


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


@app.command(epilog="Example:  ablate plan --study quick --json")
def plan(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would do, table by table; trains and changes nothing.

    new: to be trained · stored: done · shared: counted in an earlier table · blocked: waits for data · failed: stored as failed.
    """
    from pipeline.orchestration.planning import count, estimate_hours

    file, params = load(study)
    made, records, _ = planned(study)
    counts = count(made, records)
    hours, source = estimate_hours(made, records)
    skipped = [trial for trial in made.trials.values() if trial.reason]
    if as_json:
        print_json({**counts, "hours": hours, "hours_from": source, "skipped": len(skipped)})
        return
    table = Table("table", *counts["totals"], "skipped", title=f"{made.study}: trials", title_justify="left")
    for name, row in counts["tables"].items():
        table.add_row(name, *map(str, row.values()), str(sum(name == trial.tables[0] for trial in skipped)))
    table.add_section()
    table.add_row("total", *map(str, counts["totals"].values()), str(len(skipped)))
    Console().print(table)
    say(f"Estimate: {'unknown' if hours is None else f'{hours:.2f} trial-hours'} ({source}).")
    for reason, number in Counter(trial.reason for trial in skipped).items():
        say(f"skipped ({number}): {reason}")
    if params.seeds is not None:
        say(f"params.yaml overrides the study's seeds: {params.seeds} instead of {file.study.seeds} (`seeds: null` takes that back).")
    for reason in dict.fromkeys(reason for reasons in made.blocked.values() for reason in reasons):
        say(f"blocked: {reason}")


@app.command(epilog="Examples:  ablate run · ablate run --study cifar10_small · ablate run --trial 3f9c0a12")
def run(
    study: StudyOption = None,
    trial: Annotated[
        list[str] | None, typer.Option("--trial", "-t", help="Only this trial (id or its beginning); may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train what is missing, with live progress. Ctrl-C is safe: finished trials are stored, the next run continues.

    Prepares data first where that is missing. `dvc repro` does this and makes the tables as well.
    """
    from pipeline.orchestration.planning import make_plan
    from pipeline.orchestration.preparing import prepare_study
    from pipeline.orchestration.run import run_plan

    file, params = load(study)
    make_plan(file, params)  # what is wrong with the study is said before hours of preparing data
    prepare_study(file, params, log=note)
    made = make_plan(file, params)
    only = None if not trial else [find(made.trials, prefix) for prefix in trial]
    try:
        outcome = run_plan(made, params, only=only)
    except KeyboardInterrupt as interrupt:  # typer would only say "Aborted."
        note("\nInterrupted. Finished trials are stored; run the same command again to continue.")
        raise typer.Exit(130) from interrupt
    if as_json:
        keys = {"started": outcome.started, "complete": outcome.complete, "skipped": outcome.skipped}
        troubles = {name: [dict(record)["trial_id"] for record in getattr(outcome, name)] for name in ("diverged", "failed")}
        print_json({**keys, **troubles, "missing": [t.spec.trial_id for t in outcome.missing]})
    else:
        say(outcome.line())
        for record in [*outcome.diverged, *outcome.failed]:
            say(f"  {record['failure']}: {record.get('name', '')} [{record['trial_id']}]: {record['reason']}")
    if outcome.diverged or outcome.failed or (outcome.missing and only is None):
        raise typer.Exit(1)
