"""Asking about tables: table, verify."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli.app import JsonOption, StudyOption, app, note, planned, print_json, say
from pipeline.errors import UnknownNameError, counted


@app.command(epilog="Examples:  ablate table · ablate table backbones · ablate table backbones --json")
def table(
    name: Annotated[str | None, typer.Argument(help="Name of a table of the study; all of them without it.")] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print tables from what is stored now; missing seeds are named, never averaged over."""
    from pipeline.analysis.render.json_table import render_json
    from pipeline.analysis.render.text_table import render_text
    from pipeline.analysis.tables import build_table
    from pipeline.orchestration.explain import current_results

    made, _, params = planned(study)
    specs = {spec["name"]: spec for spec in made.tables}
    if name is not None and name not in specs:
        raise UnknownNameError("table", name, specs, where=f"study {made.study}")
    stored = current_results(made, params).trials
    results = [build_table(spec, stored, study=made.study) for spec in specs.values() if name in (None, spec["name"])]
    if as_json:
        sys.stdout.write(render_json(results[0]) if name else f"[{','.join(render_json(result) for result in results)}]\n")
    else:
        sys.stdout.write("\n\n".join(render_text(result).rstrip() for result in results) + "\n")


@app.command(epilog="Examples:  ablate verify · ablate verify --no-mlflow · ablate verify --figures --json")
def verify(
    mlflow: Annotated[
        bool | None,
        typer.Option(
            "--mlflow/--no-mlflow",
            help="Fail also where a server does not answer, or do not look at all. Without either: look, and say so.",
        ),
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw the figures anew, too, and compare their files and the report with them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute every published number anew from the store; exit status 1, and the name of each place, where something has drifted.

    Compared are the segments of the store with their digests, its records with those that the study was run with, the tables in all
    formats, results/, curves/, metrics.json, the report and its pages of trials, and what the runs in MLflow say. Figures are compared
    with --figures only, as they have to be drawn for that.
    """
    from pipeline.orchestration.verify import verify as verify_published
    from pipeline.study.params import load_params

    verdict = verify_published(load_params(), mlflow=mlflow, figures=figures, progress=_progress)
    drift = [str(problem) for problem in verdict.problems]
    if as_json:
        problems = [asdict(problem) for problem in verdict.problems]
        print_json({"cells": verdict.cells, "drift": drift, "problems": problems, "checked": verdict.checked, "notices": verdict.notices})
    else:
        for line in [*drift, *verdict.notices]:
            say(line)
        if any(problem.kind in ("cell", "file") for problem in verdict.problems):
            say("`dvc repro` writes published files anew where they were changed by hand.")
        say(f"{counted(verdict.cells, 'cell')} checked against the store, {counted(len(drift), 'difference')}.")
        say("Looked at: " + ", ".join(f"{number} {word}" for word, number in verdict.checked.items()) + ".")
    if drift:
        raise typer.Exit(1)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        note(f"{line} ...")
