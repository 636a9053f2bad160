"""Models of a study in MLflow's registry: mlflow register."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli.app import JsonOption, StudyOption, note, planned, print_json, say
from pipeline.cli.mlflow import mlflow_app


@mlflow_app.command(
    "register", epilog="Examples:  ablate mlflow register backbones · ablate mlflow register backbones --row resnet8 --column cam"
)
def mlflow_register(
    table: Annotated[str, typer.Argument(help="Name of a table of the study.")],
    row: Annotated[str | None, typer.Option("--row", help="Row, as the table prints it. Default: of the best cell.")] = None,
    column: Annotated[str | None, typer.Option("--column", help="Column, as the table prints it. Default: of the best cell.")] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register the best model of a cell in MLflow, under the alias 'best'; validation images decide, never test images.

    Of the cell the trial with the best validation metric is taken; without --row and --column the cell with the best mean. Its weights
    must have been kept: `store.weights` in params.yaml. The same trial twice makes no second version.
    """
    from pipeline.orchestration.registered.registry import ALIAS, register_cell

    made, records, params = planned(study)
    done = register_cell(made, records, params, table, row=row, column=column, log=note)
    choice = done.choice
    if as_json:
        print_json({**asdict(done), "model": choice.model_name, "uri": done.uri, "alias": ALIAS})
        return
    for line in choice.notes:
        note(f"note: {line}")
    word = "registered as" if done.is_new else "is already"
    say(f"{made.trials[choice.trial_id].name} [{choice.trial_id}] {word} version {done.version} of {choice.model_name}, alias {ALIAS!r}.")
    say(f"  chosen by {choice.metric} = {choice.value:.4f}; test images decided nothing")
    epoch = "last epoch" if done.weights == "last" else "best validation epoch"
    accuracy = done.metrics.get(f"test_acc_top1_{done.weights}")
    say(f"  weights of the {epoch}" + ("" if accuracy is None else f", test accuracy {100 * accuracy:.2f} %"))
    say(f"  load it with mlflow.pyfunc.load_model({done.uri!r}) and MLFLOW_TRACKING_URI={done.tracking_uri}")
