"""Asking about tables: table, verify."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.cli.app import JsonOption, StudyOption, app, planned, print_json, say
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


@app.command(epilog="Example:  ablate verify")
def verify(as_json: JsonOption = False) -> None:
    """Recompute every published cell from the store; exit status 1 and the cells' names when any has drifted."""
    from pipeline.orchestration.explain import verify_tables
    from pipeline.study.params import load_params

    checked, drift = verify_tables(load_params())
    if as_json:
        print_json({"cells": checked, "drift": drift})
    else:
        for line in drift:
            say(line)
        say(f"{counted(checked, 'cell')} checked against the store, {len(drift)} differ.")
    if drift:
        raise typer.Exit(1)
