"""The `ablate` command; each module here holds the commands of one kind."""

from __future__ import annotations

from pipeline.cli import (
    environment,
    mlflow,
    models_registry,
    published,
    run,
    search,
    seeds,
    tables,
    trials,
)  # each registers its commands with the app
from pipeline.cli.app import app, lay_out_help
from pipeline.cli.mlflow import mlflow_app
from pipeline.stage import stage
from pipeline.study.project import enter_root

__all__ = ["app", "environment", "main", "mlflow", "models_registry", "published", "run", "search", "seeds", "tables", "trials"]

lay_out_help(app)
lay_out_help(mlflow_app)


def main() -> None:
    """Entry point: errors become messages and exit statuses, see `pipeline.stage`."""
    with stage():
        enter_root()
        app()
