"""Whether runs that are published are still in MLflow."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import PipelineError
from pipeline.orchestration.mirror.uri import check_reachable, database_path, prepare_environment, redact, resolve_uri

_A_CALL = 500  # run ids in one search: the filter stays short enough for every database


def missing_runs(uri: str, run_ids: Iterable[str]) -> dict[str, str]:
    """What is wrong with runs: run id -> 'deleted' or 'not found'; runs that are there are not named.

    One search for 500 runs, and none to a server that does not answer within seconds.

    Args:
        uri: the study's `tracking.uri`.
        run_ids: MLflow run ids.

    Raises:
        ConfigError: the URI has a scheme that is not supported.
        PipelineError: MLflow cannot be asked.
    """
    uri, wanted = resolve_uri(uri), list(dict.fromkeys(run_ids))
    path = database_path(uri)
    if path and not path.is_file():
        raise PipelineError(f"There is no MLflow database at {path}. `ablate mlflow rebuild` makes it again from the store.")
    prepare_environment()
    try:
        check_reachable(uri)
        stages = _stages(uri, wanted)
    except Exception as error:  # each backend raises its own
        cause = redact(f"{type(error).__name__}: {error}", uri)[:300]
        raise PipelineError(f"MLflow at {redact(uri)} does not answer ({cause}). Start it, or correct tracking.uri.") from error
    wrong = {"deleted": "deleted", None: "not found"}
    return {run_id: wrong[stages.get(run_id)] for run_id in wanted if stages.get(run_id) in wrong}


def _stages(uri: str, run_ids: list[str]) -> dict[str, str]:
    """Run id -> 'active' or 'deleted', of those that exist."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    experiments: list[str] = []
    token: str | None = None
    while True:
        page = client.search_experiments(ViewType.ALL, max_results=1000, page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            break
    stages: dict[str, str] = {}
    for start in range(0, len(run_ids), _A_CALL):
        part = run_ids[start : start + _A_CALL]
        quoted = ", ".join("'" + run_id.replace("'", "") + "'" for run_id in part)
        found = client.search_runs(experiments, f"attributes.run_id IN ({quoted})", ViewType.ALL, max_results=len(part))
        stages |= {run.info.run_id: run.info.lifecycle_stage for run in found}
    return stages
