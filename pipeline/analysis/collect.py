"""Results: the plan joined with the store. A pure function of both, so results can always be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.store.bare_arrays import int32_array, numpy_of
from pipeline.store.records import SCHEMA_VERSION, panel_types
from pipeline.store.trial_store import TrialStore

FIRST = ("trial_id", "cell_id", "name", "state", "reason", "failure", "attempt", "schema_version")
NOT_TABULAR = ("traceback", "spec", "code", "adopted_checked", "segment")
_OF_THE_PLAN = ("trial_id", "cell_id", "name", "seed")


@dataclass(frozen=True)
class Results:
    """What tables and figures are made of.

    Attributes:
        trials: a row a planned trial.
        history: a row a trial and epoch.
        panels: a row a trial that has pictures.
        ignored: number of stored records that this plan does not ask for.
    """

    trials: pa.Table
    history: pa.Table
    panels: pa.Table
    ignored: int


def collect(plan_file: Path, store: TrialStore, run_ids: dict[str, str]) -> Results:
    """Join the planned trials with their records and histories.

    Args:
        plan_file: plan/trials.parquet.
        store: trial store.
        run_ids: MLflow run of each mirrored trial.

    Raises:
        ConfigError: there is no plan.
        StoreError: the store cannot be read.
    """
    trials, ignored = collect_trials(plan_file, store, run_ids)
    ids = trials.filter(pc.is_in(trials["state"], value_set=pa.array(["complete", "failed"])))["trial_id"].to_pylist()
    history = store.history_table(ids)
    if history is None:
        history = pa.table({"trial_id": pa.array([], pa.string()), "epoch": pa.array([], pa.int64())})
    panels = store.panels_table(ids)
    if panels is None:
        panels = pa.schema([("trial_id", pa.string()), *panel_types().items()]).empty_table()
    return Results(trials, _by_trial_and_epoch(history), panels.sort_by("trial_id"), ignored)


def collect_trials(plan_file: Path, store: TrialStore, run_ids: dict[str, str]) -> tuple[pa.Table, int]:
    """`trials` and `ignored` of the results, as `collect` makes them, without reading a history.

    Raises:
        ConfigError: there is no plan.
        StoreError: the store cannot be read.
    """
    planned = _read_plan(plan_file)
    stored = store.summary(["trial_id"])
    return _join(planned, store.records_table(stored), run_ids), len(stored.keys() - set(planned["trial_id"].to_pylist()))


def write_results(results: Results, folder: Path) -> None:
    """Write trials.parquet, history.parquet and panels.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(results.trials, folder / "trials.parquet")
    pq.write_table(results.history, folder / "history.parquet")
    pq.write_table(results.panels, folder / "panels.parquet")


def read_run_ids(outcomes: Path) -> dict[str, str]:
    """MLflow run ids out of results/outcomes.json; none where a trial was not mirrored."""
    content = json.loads(outcomes.read_text(encoding="utf-8"))
    return {trial_id: entry["run_id"] for trial_id, entry in content["trials"].items() if entry.get("run_id")}


def _read_plan(plan_file: Path) -> pa.Table:
    """What the results repeat of the plan, and the state of each trial in it."""
    try:
        names = [*_OF_THE_PLAN, "state", "reason"]
        names += [name for name in pq.read_schema(plan_file).names if name.startswith("factor_")]
        return pq.read_table(plan_file, columns=names)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no plan at {plan_file}. Run `dvc repro plan`.") from error
    except pa.ArrowInvalid as error:
        cause = str(error).splitlines()[0]
        raise ConfigError(f"No readable plan at {plan_file}: {cause}. Write it anew with `dvc repro -f plan`.") from error


def _join(planned: pa.Table, records: pa.Table | None, run_ids: dict[str, str]) -> pa.Table:
    """A row a planned trial; columns without any value are left out. By column, as rows of 10,000 trials are a million Python objects."""
    skipped = pc.equal(planned["state"], "skipped")
    records = pa.table({"trial_id": pa.array([], pa.string())}) if records is None else records
    found = pc.index_in(planned["trial_id"], value_set=records["trial_id"].combine_chunks())
    place = pc.if_else(skipped, pa.scalar(None, found.type), found)
    untrained = pc.if_else(pc.is_null(place), "not trained yet", "")
    columns = _tabular(records.take(place))
    fallback = {
        "state": planned["state"],
        "reason": pc.if_else(skipped, planned["reason"], untrained),
        "failure": pa.repeat("", len(planned)),
        "attempt": pa.repeat(0, len(planned)),
        "schema_version": pa.repeat(SCHEMA_VERSION, len(planned)),
    }
    columns |= {name: pc.coalesce(columns[name], other) if name in columns else other for name, other in fallback.items()}
    columns["run_id"] = pa.array([run_ids.get(trial_id) for trial_id in planned["trial_id"].to_pylist()])
    columns |= {name: planned[name] for name in planned.column_names if name in _OF_THE_PLAN or name.startswith("factor_")}
    always = {*fallback, "run_id", *planned.column_names}
    return pa.table({name: columns[name] for name in _in_order(columns, always)})


def _in_order(columns: Mapping[str, pa.ChunkedArray], always: Set[str]) -> list[str]:
    """The names as the trials, one after the other, bring them: `FIRST` before what goes by name. Each has those of `always`."""
    first = {name: 0 if name in always else pc.index(pc.is_valid(column), True).as_py() for name, column in columns.items()}
    return sorted(columns, key=lambda name: (first[name], FIRST.index(name) if name in FIRST else len(FIRST), name))


def _tabular(records: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns of records that a table of trials holds and in which there is a value."""
    columns = {name: records[name] for name in records.column_names if name not in NOT_TABULAR}
    return {name: column for name, column in columns.items() if column.null_count < len(column)}


def _by_trial_and_epoch(history: pa.Table) -> pa.Table:
    """Sorted; by numbers that stand for the trials, as texts take several times as long."""
    trials = history["trial_id"].combine_chunks().dictionary_encode()
    rank = np.argsort(numpy_of(pc.sort_indices(trials.dictionary)))
    return history.take(int32_array(np.lexsort((numpy_of(history["epoch"]), rank[numpy_of(trials.indices)]))))
