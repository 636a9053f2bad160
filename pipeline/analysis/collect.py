"""Results: the plan joined with the store. A pure function of both, so results can always be made again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.store.records import SCHEMA_VERSION, Record, panel_types, rows_to_table
from pipeline.store.trial_store import TrialStore

FIRST = ("trial_id", "cell_id", "name", "state", "reason", "failure", "attempt", "schema_version")
NOT_TABULAR = ("traceback", "spec", "code", "adopted_checked", "segment")


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
    try:
        planned = pq.read_table(plan_file).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ConfigError(f"No readable plan at {plan_file}: {error}. Run `dvc repro plan`.") from error
    records = store.records()
    rows = [_row(plan, records.get(plan["trial_id"]), run_ids) for plan in planned]
    ids = [row["trial_id"] for row in rows if row["state"] in ("complete", "failed")]
    history = store.history_table(ids)
    if history is None:
        history = pa.table({"trial_id": pa.array([], pa.string()), "epoch": pa.array([], pa.int64())})
    panels = store.panels_table(ids)
    if panels is None:
        panels = pa.schema([("trial_id", pa.string()), *panel_types().items()]).empty_table()
    return Results(
        rows_to_table(rows),
        history.sort_by([("trial_id", "ascending"), ("epoch", "ascending")]),
        panels.sort_by("trial_id"),
        len(records.keys() - {r["trial_id"] for r in rows}),
    )


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


def _row(plan: dict[str, Any], record: Record | None, run_ids: dict[str, str]) -> dict[str, Any]:
    factors = {key: value for key, value in plan.items() if key.startswith("factor_")}
    stored: dict[str, Any] = {} if record is None else {key: value for key, value in record.items() if key not in NOT_TABULAR}
    if plan["state"] == "skipped":
        stored = {"state": "skipped", "reason": plan["reason"]}
    elif record is None:
        stored = {"state": "planned", "reason": "not trained yet"}
    row = {"schema_version": SCHEMA_VERSION, "attempt": 0, "failure": "", **stored, "run_id": run_ids.get(plan["trial_id"])}
    row |= {"trial_id": plan["trial_id"], "cell_id": plan["cell_id"], "name": plan["name"], "seed": plan["seed"], **factors}
    return {key: row[key] for key in FIRST} | {key: row[key] for key in sorted(row) if key not in FIRST}
