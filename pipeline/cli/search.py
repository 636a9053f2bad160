"""Searching hyperparameters."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, load, note, print_json, say


@app.command(
    epilog="Examples:  ablate search --study search_digits · ablate search --json · ablate plan (then shows what the winners feed)"
)
def search(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Search the hyperparameters that the study file declares, at the same budget for every arm, on the validation split.

    Goes on where an earlier search stopped; points that are stored are not trained again. Writes search/: ledger, plots, and best.yaml,
    from which tables with `tuned: true` are made. Exit status 1 when the search has not ended: points failed by a bug or were lost.
    """
    from pipeline.orchestration.preparing import prepare_study
    from pipeline.orchestration.search.arms import plan_search
    from pipeline.orchestration.search.ledger import HEADS, as_text
    from pipeline.orchestration.search.run import run_search
    from pipeline.study.project import SEARCH

    file, params = load(study)
    if file.study.search is None:
        plan_search(file, params)  # says what is missing
    prepare_study(file, params, log=note)
    try:
        outcome = run_search(file, params)
    except KeyboardInterrupt as interrupt:  # typer would only say "Aborted."
        note("\nInterrupted. Finished points are stored; run the same command again to go on.")
        raise typer.Exit(130) from interrupt
    if as_json:
        best = outcome.best.model_dump()["arms"] if outcome.best else None
        print_json(
            {
                "study": outcome.plan.study,
                "digest": outcome.plan.digest,
                "epochs_trained_now": outcome.trained,
                "ledger": [asdict(row) for row in outcome.rows],
                "best": best,
                "problems": outcome.problems,
                "notes": outcome.notes,
            }
        )
    else:
        table = Table(*HEADS.values(), title=f"{outcome.plan.study}: budget and what came of it", title_justify="left")
        for cells in as_text(outcome.plan.arms, outcome.rows):
            table.add_row(*cells)
        console = Console()
        # Where the terminal is too narrow it breaks lines; rich would cut numbers.
        console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
        console.print(table)
        for name, winner in (outcome.best.arms if outcome.best else {}).items():
            fields = ", ".join(
                f"{field} {value:.4g}" if isinstance(value, float) else f"{field} {value}" for field, value in winner.fields.items()
            )
            say(f"best of {name}: {fields}  [{winner.trial_id}]")
        for line in outcome.notes:
            say(line)
        say(f"{outcome.trained} epochs trained now. Written: {SEARCH}/")
    outcome.raise_unless_done()
