"""The `ablate` command."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import PipelineError, UnknownNameError, counted
from pipeline.stage import stage
from pipeline.study.project import enter_root

if TYPE_CHECKING:
    from pipeline.orchestration.planning import Plan
    from pipeline.store.records import Record
    from pipeline.study.config import StudyFile
    from pipeline.study.params import Params

app = typer.Typer(
    help="Ablation and benchmark studies in image classification: declare a study, run it, get tables you can defend.",
    epilog="Examples:  ablate plan · ablate run --study cifar10_small · ablate table backbones · ablate why 3f9c0a12",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
StudyOption = Annotated[str | None, typer.Option("--study", "-s", help="Study to use: studies/NAME.yaml, or a path. Default: params.yaml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

STARTED_IN = Path.cwd()


def main() -> None:
    """Entry point: errors become messages and exit statuses, see `pipeline.stage`."""
    with stage():
        enter_root()
        app()


@app.command(epilog="Example:  ablate prepare --study cifar10_small")
def prepare(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Prepare the datasets of the study; what is prepared already is left alone."""
    from pipeline.orchestration.preparing import prepare_study

    file, params = _load(study)
    summary = prepare_study(file, params, log=None if as_json else _note)
    if as_json:
        _print_json(summary)
        return
    for folder, entry in summary.items():
        splits = ", ".join(f"{name} {count}" for name, count in entry["splits"].items())
        kind = f"{'x'.join(map(str, entry['shape']))}, {counted(entry['classes'], 'class', 'classes')}"
        place = f"digest {entry['digest'][:12]} in {params.data.prepared}/{folder}"
        _say(f"{entry['name']}: {splits}; {kind}, {place}")


@app.command(epilog="Example:  ablate plan --study quick --json")
def plan(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would do, table by table; trains and changes nothing.

    new: to be trained · stored: done · shared: counted in an earlier table · blocked: waits for data · failed: stored as failed.
    """
    from pipeline.orchestration.planning import count, estimate_hours

    file, params = _load(study)
    made, records, _ = _planned(study)
    counts = count(made, records)
    hours, source = estimate_hours(made, records)
    skipped = [trial for trial in made.trials.values() if trial.reason]
    if as_json:
        _print_json({**counts, "hours": hours, "hours_from": source, "skipped": len(skipped)})
        return
    table = Table("table", *counts["totals"], "skipped", title=f"{made.study}: trials", title_justify="left")
    for name, row in counts["tables"].items():
        table.add_row(name, *map(str, row.values()), str(sum(name == trial.tables[0] for trial in skipped)))
    table.add_section()
    table.add_row("total", *map(str, counts["totals"].values()), str(len(skipped)))
    Console().print(table)
    _say(f"Estimate: {'unknown' if hours is None else f'{hours:.2f} trial-hours'} ({source}).")
    for reason, number in Counter(trial.reason for trial in skipped).items():
        _say(f"skipped ({number}): {reason}")
    if params.seeds is not None:
        _say(f"params.yaml overrides the study's seeds: {params.seeds} instead of {file.study.seeds} (`seeds: null` takes that back).")
    for reason in dict.fromkeys(reason for reasons in made.blocked.values() for reason in reasons):
        _say(f"blocked: {reason}")


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

    file, params = _load(study)
    make_plan(file, params)  # what is wrong with the study is said before hours of preparing data
    prepare_study(file, params, log=_note)
    made = make_plan(file, params)
    only = None if not trial else [_find(made.trials, prefix) for prefix in trial]
    try:
        outcome = run_plan(made, params, only=only)
    except KeyboardInterrupt as interrupt:  # typer would only say "Aborted."
        _note("\nInterrupted. Finished trials are stored; run the same command again to continue.")
        raise typer.Exit(130) from interrupt
    if as_json:
        keys = {"started": outcome.started, "complete": outcome.complete, "skipped": outcome.skipped}
        troubles = {name: [dict(record)["trial_id"] for record in getattr(outcome, name)] for name in ("diverged", "failed")}
        _print_json({**keys, **troubles, "missing": [t.spec.trial_id for t in outcome.missing]})
    else:
        _say(outcome.line())
        for record in [*outcome.diverged, *outcome.failed]:
            _say(f"  {record['failure']}: {record.get('name', '')} [{record['trial_id']}]: {record['reason']}")
    if outcome.diverged or outcome.failed or (outcome.missing and only is None):
        raise typer.Exit(1)


@app.command(epilog="Example:  ablate status --study quick")
def status(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """State of every trial of the plan; for a failed one the last line of the error and how to rerun it."""
    made, records, _ = _planned(study)
    rows = [_trial_entry(made, trial_id, records) for trial_id in made.trials]
    if as_json:
        _print_json([{key: row[key] for key in ("trial_id", "name", "tables", "state", "reason")} for row in rows])
        return
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    _say(f"{made.study}: " + (", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"))
    for row in rows:
        if row["state"] == "failed":
            _say(f"  failed {row['name']}: {row['reason']}")
            _say(f"         rerun: ablate run --study {made.study} --trial {row['trial_id']}")
    for reason in dict.fromkeys(reason for reasons in made.blocked.values() for reason in reasons):
        _say(f"  blocked: {reason}")


@app.command(epilog="Example:  ablate trials --json | python -m json.tool")
def trials(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """One line a trial: id, state, test accuracy at the last epoch, name, tables; as JSON with resolved configuration and all metrics."""
    made, records, _ = _planned(study)
    rows = [_trial_entry(made, trial_id, records) for trial_id in made.trials]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        accuracy = row["metrics"].get("metric_test_acc_top1_last")
        shown = "      -" if accuracy is None else f"{100 * accuracy:6.2f}%"
        _say(f"{row['trial_id']}  {row['state']:8}  {shown}  {row['name']}  [{', '.join(row['tables'])}]")


@app.command(epilog="Example:  ablate why 3f9c0a12")
def why(
    trial_id: Annotated[str, typer.Argument(help="Trial id, or its beginning.")], study: StudyOption = None, as_json: JsonOption = False
) -> None:
    """What the identity of a trial is made of; for one that is not stored, the nearest stored trial and what differs."""
    from pipeline.orchestration.explain import explain

    made, records, _ = _planned(study)
    found = _find(made.trials, trial_id)
    answer = explain(made.trials[found], records)
    if as_json:
        _print_json(answer)
        return
    _say(f"{answer['name']}  [{found}]  {answer['state']}")
    for key, value in answer["identity"].items():
        _say(f"  {key}: {json.dumps(value, sort_keys=True)}")
    if answer["nearest"]:
        _say(f"Nearest stored trial: {answer['nearest']['trial_id']}. It differs in:")
        for key, (mine, theirs) in answer["nearest"]["differs"].items():
            _say(f"  {key}: {mine} here, {theirs} there")
    elif answer["state"] == "planned":
        _say("The store is empty, so there is no trial to compare with.")


@app.command(epilog="Examples:  ablate table · ablate table backbones · ablate table backbones --json")
def table(
    name: Annotated[str | None, typer.Argument(help="Name of a table of the study; all of them without it.")] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print tables from what is stored now; missing seeds are named, never averaged over."""
    from pipeline.analysis.render_json import render_json
    from pipeline.analysis.render_text import render_text
    from pipeline.analysis.tables import build_table
    from pipeline.orchestration.explain import current_results

    made, _, params = _planned(study)
    specs = {spec["name"]: spec for spec in made.tables}
    if name is not None and name not in specs:
        raise UnknownNameError("table", name, specs, where=f"study {made.study}")
    stored = current_results(made, params).trials
    results = [build_table(spec, stored, study=made.study) for spec in specs.values() if name in (None, spec["name"])]
    if as_json:
        sys.stdout.write(render_json(results[0]) if name else f"[{','.join(render_json(result) for result in results)}]\n")
    else:
        sys.stdout.write("\n\n".join(render_text(result).rstrip() for result in results) + "\n")


@app.command(epilog="Example:  ablate verify")
def verify(as_json: JsonOption = False) -> None:
    """Recompute every published cell from the store; exit status 1 and the cells' names when any has drifted."""
    from pipeline.orchestration.explain import verify_tables
    from pipeline.study.params import load_params

    checked, drift = verify_tables(load_params())
    if as_json:
        _print_json({"cells": checked, "drift": drift})
    else:
        for line in drift:
            _say(line)
        _say(f"{counted(checked, 'cell')} checked against the store, {len(drift)} differ.")
    if drift:
        raise typer.Exit(1)


@app.command(epilog="Example:  ablate ui --port 5001")
def ui(
    port: Annotated[int, typer.Option(help="Port; the nearest free one if it is taken.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you know who can reach it.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on this machine; Ctrl-C ends it."""
    from pipeline.orchestration.ui import serve_ui
    from pipeline.study.params import load_params

    uri = load_params().tracking.uri
    if uri is None:
        raise PipelineError("tracking.uri is null in params.yaml: there is nothing to show. Set it, for example to sqlite:///mlflow.db.")
    serve_ui(uri, host=host, port=port, log=_say)


mlflow_app = typer.Typer(help="The MLflow mirror.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")


@mlflow_app.command("rebuild", epilog="Example:  ablate mlflow rebuild")
def mlflow_rebuild(study: StudyOption = None) -> None:
    """Bring MLflow up to date with the store: missing runs are made, nothing is duplicated."""
    from pipeline.orchestration.explain import mirror

    made, records, params = _planned(study)
    total = mirror(made, records, params, log=_note)
    _say(f"{counted(total, 'trial')} of {made.study} {'is' if total == 1 else 'are'} in MLflow.")
    _say("`dvc repro -sf run && dvc repro` puts their run ids into the tables; it trains nothing.")


@app.command(epilog="Example:  ablate doctor")
def doctor(study: StudyOption = None) -> None:
    """Look at this environment, the study, the data and the store, and say what is wrong."""
    from pipeline.orchestration.doctor import examine

    problems = 0
    for fine, line in examine(study):
        _say(("ok     " if fine else "wrong  ") + line)
        problems += not fine
    if problems:
        raise typer.Exit(2)


@app.command(epilog="Examples:  ablate schema > study.schema.json · ablate schema --study mine")
def schema(study: StudyOption = None) -> None:
    """JSON Schema of a study file, with the options of every registered method under $defs; with --study those of its plugins too."""
    from pipeline.orchestration.explain import study_schema

    if study is not None:
        _load(study)
    _print_json(study_schema())


@app.command(epilog="Examples:  ablate methods · ablate methods losses · ablate methods backbones --json · ablate methods --study mine")
def methods(
    kind: Annotated[str | None, typer.Argument(help="losses, regularizers, backbones or datasets; all without it.")] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a study may name: losses, regularizers, backbones and datasets with options, purpose and module; + marks plugins."""
    from pipeline.orchestration.methods import list_methods, options_text

    plugins: list[str] = []
    try:
        plugins = _load(study)[0].study.plugins
    except PipelineError as error:
        if study is not None:
            raise
        _note(f"Without the plugins of the active study: {error}")
    listing = list_methods(kind, plugins)
    if as_json:
        _print_json(listing)
        return
    for word, entries in listing.items():
        _say(f"{word} ({len(entries)})")
        for entry in entries:
            if "module" in entry:
                label = f" ({entry['label']})" if entry["label"] != entry["name"] else ""
                _say(f"{'+' if entry['plugin'] else ' '} {entry['name']}{label}: {entry['purpose']}  [{entry['module']}]")
                if entry["options"]:
                    _say(f"      {options_text(entry['options'])}")
        if any("module" not in entry for entry in entries):
            _say(f"  `ablate methods {word}` lists them all.")


@app.command(
    epilog="Examples:  ablate models · ablate models vgg · ablate models 'timm_resnet5*' --size 224 · ablate models swin --unsupported"
)
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a shape such as 'resnet*_cifar'; without it, all families.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Rows and columns of the image.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the image: 1 grey, 3 colour.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 10,
    unsupported: Annotated[bool, typer.Option("--unsupported", help="Networks without exact class activation maps, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Backbones: their families; with a pattern parameters, multiply-adds, feature map, stages and class activation maps of each.

    The feature map is channels x rows x columns before global average pooling. Multiply-adds are those of convolutions and linear
    layers for one image. Of many matches the first 40 are described and the others named: this builds every network without weights.
    """
    from pipeline.models import describe

    pattern = (pattern or "").strip() or None
    if unsupported:
        reasons = describe.reasons(pattern)
        if as_json:
            _print_json(reasons)
        else:
            _say("\n".join(reasons.values()))
        return
    if pattern is None:
        families = describe.families()
        if as_json:
            _print_json(families)
            return
        table = Table("family", "backbones", "names", title="Families of backbones", title_justify="left")
        for family, names in families.items():
            table.add_row(family, str(len(names)), ", ".join(names[:8]) + (" ..." if len(names) > 8 else ""))
        Console().print(table)
        _say(f"{sum(map(len, families.values()))} backbones. `ablate models PATTERN` describes some; --unsupported says what is left out.")
        return
    matches = describe.match(pattern)
    rows = [describe.describe(name, size=size, in_channels=channels, num_classes=classes) for name in matches[: describe.MOST]]
    if as_json:
        _print_json([dataclasses.asdict(row) for row in rows] + [{"name": name} for name in matches[describe.MOST :]])
        return
    title = f"{counted(len(matches), 'backbone')}, {channels}x{size}x{size} images, {counted(classes, 'class', 'classes')}"
    heads = ("name", "parameters", "multiply-\nadds", "feature\nmap", "stages", "library", "class activation\nmap")
    table = Table(*heads, title=title, title_justify="left")
    for column in table.columns[:-1]:
        column.no_wrap = True
    table.columns[-1].max_width = 48
    for row in rows:
        shape = "x".join(map(str, row.feature_map)) if row.feature_map else "-"
        counts = ("-" if count is None else f"{count / 1e6:.2f} M" for count in (row.parameters, row.multiply_adds))
        table.add_row(row.name, *counts, shape, "-" if row.stages is None else str(row.stages), row.library or "-", row.reason or "yes")
    console = Console()
    # Where the terminal is too narrow it breaks lines; rich would cut names.
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
    console.print(table)
    for row in rows:
        if row.problem:
            _say(f"{row.name}: {row.problem}")
    if len(matches) > len(rows):
        _say(f"Not described: {', '.join(matches[describe.MOST :])}")


def _load(study: str | None) -> tuple[StudyFile, Params]:
    from pipeline.study.config import load_study
    from pipeline.study.params import load_params

    params = load_params()
    if study and study.endswith((".yaml", ".yml")) and not Path(study).exists() and (STARTED_IN / study).exists():
        study = str(STARTED_IN / study)  # a path is meant from where the user stands
    return load_study(study or params.study), params


def _planned(study: str | None) -> tuple[Plan, dict[str, Record], Params]:
    from pipeline.orchestration.planning import make_plan
    from pipeline.store.trial_store import TrialStore
    from pipeline.study.project import absolute_url

    file, params = _load(study)
    return make_plan(file, params), TrialStore(absolute_url(params.store.url)).records(), params


def _trial_entry(made: Plan, trial_id: str, records: dict[str, Record]) -> dict[str, Any]:
    trial, record = made.trials[trial_id], records.get(trial_id)
    state = trial.state if trial.reason or record is None else record["state"]
    return {
        "trial_id": trial_id,
        "cell_id": trial.spec.cell_id,
        "name": trial.name,
        "tables": list(trial.tables),
        "state": state,
        "reason": trial.reason or (record or {}).get("reason", ""),
        "seed": trial.spec.seed,
        "config": trial.spec.config,
        "metrics": {key: value for key, value in (record or {}).items() if key.startswith("metric_")},
    }


def _find(known: dict[str, Any], prefix: str) -> str:
    matches = [trial_id for trial_id in known if trial_id.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise PipelineError(f"{prefix!r} is the beginning of {len(matches)} trial ids: {', '.join(matches[:5])}. Give more digits.")
    raise UnknownNameError("trial", prefix, list(known)[:10], where="the plan", next_step="`ablate trials` lists them all.")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
