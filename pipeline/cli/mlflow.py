"""The MLflow UI and mirror: ui, mlflow rebuild."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.app import StudyOption, app, note, planned, say
from pipeline.errors import PipelineError


@app.command(epilog="Example:  ablate ui --port 5001")
def ui(
    port: Annotated[int, typer.Option(help="Port; the nearest free one if it is taken.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you know who can reach it.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on this machine; Ctrl-C ends it."""
    from pipeline.orchestration.mirror.ui import serve_ui
    from pipeline.study.params import load_params

    uri = load_params().tracking.uri
    if uri is None:
        raise PipelineError("tracking.uri is null in params.yaml: there is nothing to show. Set it, for example to sqlite:///mlflow.db.")
    serve_ui(uri, host=host, port=port, log=say)


mlflow_app = typer.Typer(help="The MLflow mirror.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")


@mlflow_app.command("rebuild", epilog="Example:  ablate mlflow rebuild")
def mlflow_rebuild(study: StudyOption = None) -> None:
    """Bring MLflow up to date with the store and the published tables: missing runs are made, nothing is duplicated."""
    from pipeline.orchestration.mirror.rebuild import rebuild
    from pipeline.orchestration.mirror.uri import require_reachable, resolve_uri

    made, records, params = planned(study)
    if params.tracking.uri is not None:
        require_reachable(resolve_uri(params.tracking.uri))
    done = rebuild(made, records, params, log=note)
    say(f"{made.study}: {done.line()}")
    if done.made:
        say("`dvc repro -sf run && dvc repro` puts the run ids into the tables; it trains nothing.")
