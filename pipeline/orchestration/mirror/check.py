"""Whether the runs that were published are still in MLflow, and still say what plan and store give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.analysis.tables import TableResult
from pipeline.analysis.verify import Problem
from pipeline.errors import PipelineError, counted
from pipeline.orchestration.mirror.content import Content, Difference, KnownRun, differences, table_content
from pipeline.orchestration.mirror.tables import cell_tags, table_view
from pipeline.orchestration.mirror.uri import check_reachable, database_path, prepare_environment, redact, resolve_uri
from pipeline.orchestration.mirror.views import NOTE, is_ours_to_describe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST = 10  # differences of one run that are told one by one
NAMED = 3  # cells that one message names

_A_CALL = 500  # run ids in one search: the filter stays short enough for every database
_REBUILD = "`ablate mlflow rebuild`"
_ANEW = f"{_REBUILD}, then `dvc repro -sf run && dvc repro`, makes the run again"
_IN_PLACE = f"{_REBUILD} mends it"


@dataclass(frozen=True)
class PublishedRuns:
    """What MLflow should have of a study.

    Attributes:
        study: its name.
        run_ids: trial id -> run of each trial that was mirrored.
        trials: what the runs of trials say; the run of a trial that is not among them is only looked for.
        tables: each with a run; of those in `only_looked_for` it is not compared.
        only_looked_for: names of tables.
    """

    study: str
    run_ids: Mapping[str, str]
    trials: Mapping[str, Content]
    tables: Sequence[TableResult] = ()
    only_looked_for: frozenset[str] = field(default=frozenset())


def run_problems(uri: str, published: PublishedRuns) -> list[Problem]:
    """What is wrong with the runs of a study: those that are deleted or not found, and each value that is not what it should be.

    One search for 500 runs and one for those of tables, and none to a server that does not answer within seconds.

    Args:
        uri: the study's `tracking.uri`.
        published: what should be there.

    Raises:
        ConfigError: the URI has a scheme that is not supported.
        PipelineError: MLflow cannot be asked.
    """
    uri = resolve_uri(uri)
    path = database_path(uri)
    if path and not path.is_file():
        raise PipelineError(f"there is no MLflow database at {path}. {_REBUILD} makes it again from the store")
    prepare_environment()
    try:
        check_reachable(uri)
        trials, tables = _read(uri, published)
    except PipelineError:
        raise
    except OSError as error:
        raise PipelineError(f"MLflow at {redact(uri)} does not answer. Start it, or correct tracking.uri in params.yaml") from error
    except Exception as error:  # each backend raises its own
        cause = redact(f"{type(error).__name__}: {error}", uri).partition("\n")[0][:200]
        raise PipelineError(f"MLflow at {redact(uri)} cannot be read ({cause}). Mend it, or correct tracking.uri in params.yaml") from error
    return [*_trial_problems(redact(uri), published, trials), *_table_problems(published, trials, tables)]


def _read(uri: str, published: PublishedRuns) -> tuple[dict[str, Run], list[Run]]:
    """Runs of trials by run id, and runs of tables, the oldest first; those that were deleted, too."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    experiments = _experiments(client)
    trials: dict[str, Run] = {}
    run_ids = list(dict.fromkeys(published.run_ids.values()))
    for start in range(0, len(run_ids), _A_CALL):
        part = run_ids[start : start + _A_CALL]
        quoted = ", ".join(map(_quoted, part))
        found = client.search_runs(experiments, f"attributes.run_id IN ({quoted})", ViewType.ALL, max_results=len(part))
        trials |= {run.info.run_id: run for run in found}
    tables: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments,
            f"tags.kind = 'table' AND tags.study = {_quoted(published.study)}",
            ViewType.ALL,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        tables += page
        token = page.token
        if not token:
            return trials, tables


def _experiments(client: MlflowClient) -> list[str]:
    """Ids of all experiments: one that was renamed or deleted may hold the runs."""
    from mlflow.entities import ViewType

    found: list[str] = []
    token: str | None = None
    while True:
        page = client.search_experiments(ViewType.ALL, max_results=1000, page_token=token)
        found += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return found


def _trial_problems(place: str, published: PublishedRuns, found: Mapping[str, Run]) -> Iterator[Problem]:
    if published.run_ids and not found.keys() & set(published.run_ids.values()):
        number = counted(len(published.run_ids), "run")
        message = f"not one of its {number} of trials is in MLflow at {place}. Is tracking.uri right? {_ANEW}"
        yield Problem("mlflow", f"study {published.study}", message.replace("the run again", "them again"))
        return
    behind, by_tables = _cells_behind(published.tables), _tags_by_tables(published)
    for trial_id, run_id in published.run_ids.items():
        where, run = f"run {run_id} (trial {trial_id})", found.get(run_id)
        if run is None or _is_deleted(run):
            cells = behind.get(trial_id, [])
            more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
            said = f". It is behind {', '.join(cells[:NAMED])}{more}" if cells else ""
            yield Problem("mlflow", where, f"{'not found' if run is None else 'deleted'} in MLflow{said}. {_ANEW}")
        elif trial_id in published.trials:
            content = published.trials[trial_id]
            tags = {key: value for key, value in by_tables.get(trial_id, {}).items() if key != NOTE or is_ours_to_describe(run.data.tags)}
            yield from _told(where, differences(replace(content, tags={**content.tags, **tags}), KnownRun.of(run)), lasting=_ANEW)


def _tags_by_tables(published: PublishedRuns) -> dict[str, dict[str, str]]:
    """What tables say in the runs of their trials; not of trials that are in a table which is only looked for."""
    unsure = {trial_id for table in published.tables if table.name in published.only_looked_for for trial_id in _ids_of(table)}
    return {trial_id: tags for trial_id, tags in cell_tags(published.tables).items() if trial_id not in unsure}


def _table_problems(published: PublishedRuns, trials: Mapping[str, Run], found: Iterable[Run]) -> Iterator[Problem]:
    there = {trial_id for trial_id, run_id in published.run_ids.items() if run_id in trials and not _is_deleted(trials[run_id])}
    there |= {trial_id for table in published.tables for trial_id in _ids_of(table) if trial_id not in published.run_ids}
    by_name: dict[str, list[Run]] = {}
    for run in found:
        by_name.setdefault(run.data.tags.get("table", ""), []).append(run)
    for table in published.tables:
        runs = by_name.get(table.name, [])
        run = next((run for run in runs if not _is_deleted(run)), None)
        if run is None:
            said = f"its run was deleted in MLflow (run {runs[-1].info.run_id})" if runs else "has no run in MLflow"
            yield Problem("mlflow", f"table {table.name}", f"{said}. {_REBUILD} makes it again")
        elif table.name not in published.only_looked_for:
            content = table_content(table_view(table, published.run_ids, run.info.experiment_id))
            if not _ids_of(table) <= there:  # its description links to runs of trials, and some were told of above
                content = replace(content, tags={key: value for key, value in content.tags.items() if key != NOTE})
            yield from _told(f"run {run.info.run_id} (table {table.name})", differences(content, KnownRun.of(run)), lasting=_IN_PLACE)


def _told(where: str, found: Iterable[Difference], *, lasting: str) -> Iterator[Problem]:
    """A problem a difference; `lasting` is what to do about those that MLflow cannot take back."""
    several = list(found)
    for each in several[:MOST]:
        yield Problem("mlflow", where, f"{each}. {lasting if each.is_lasting else _IN_PLACE}")
    if len(several) > MOST:
        remedy = lasting if any(each.is_lasting for each in several) else _IN_PLACE
        yield Problem("mlflow", where, f"{len(several) - MOST} more values differ. {remedy}")


def _cells_behind(tables: Iterable[TableResult]) -> dict[str, list[str]]:
    """Trial id -> the cells that it is behind, each once though it may show several metrics."""
    cells: dict[str, dict[str, None]] = {}
    for table in tables:
        for cell in table.cells:
            for trial_id in cell.trial_ids:
                cells.setdefault(trial_id, {})[f"{table.name}: {cell.row} / {cell.column}"] = None
    return {trial_id: list(names) for trial_id, names in cells.items()}


def _ids_of(table: TableResult) -> set[str]:
    """The trials of a table, those without a number among them."""
    return {trial_id for cell in table.cells for trial_id in (*cell.trial_ids, *(gone.trial_id for gone in cell.missing)) if trial_id}


def _is_deleted(run: Run) -> bool:
    return run.info.lifecycle_stage == "deleted"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "") + "'"
