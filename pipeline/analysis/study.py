"""From plan and store to the files of a study: results, tables, curves and metrics."""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa

from pipeline.analysis.aggregate import summary_metrics
from pipeline.analysis.collect import Results, collect, read_run_ids, write_results
from pipeline.analysis.curves import write_curves
from pipeline.analysis.render.text_table import render_text
from pipeline.analysis.render.write import write_tables
from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.errors import ConfigError, counted
from pipeline.store.trial_store import TrialStore
from pipeline.study.project import CURVES, METRICS, OUTCOMES, PLAN, RESULTS, TABLES, absolute_url


def aggregate(store_url: str, *, say: Callable[[str], None] = print) -> list[TableResult]:
    """Write results/, tables/, curves/ and metrics.json of the planned study, and print its tables.

    Raises:
        ConfigError: there is no plan or no outcome of a run, or the store lacks what the outcome calls finished.
        StoreError: the store cannot be read.
    """
    # Arrow's usual allocator hands memory back at once: histories of gigabytes then take three times as long, for page faults.
    pa.set_memory_pool(pa.system_memory_pool())
    if not OUTCOMES.exists():
        raise ConfigError(f"No {OUTCOMES}: the study has not been run. Run `dvc repro`.")
    results = collect(PLAN / "trials.parquet", TrialStore(absolute_url(store_url)), read_run_ids(OUTCOMES))
    _refuse_lost_records(results, store_url)
    write_results(results, RESULTS)
    document = load_tables(PLAN / "tables.json")
    tables = build_tables(document, results.trials)
    write_tables(tables, TABLES)
    write_curves(document, trials=results.trials, history=results.history, folder=CURVES)
    METRICS.write_text(json.dumps(summary_metrics(tables), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for table in tables:
        say(render_text(table) + "\n")
    say(f"{counted(len(results.trials), 'planned trial')}; {counted(results.ignored, 'stored record')} of other plans ignored.")
    return tables


def _refuse_lost_records(results: Results, store_url: str) -> None:
    """DVC restores the outcome of a run, not the store: tables without the records would replace good ones by empty ones."""
    finished = json.loads(OUTCOMES.read_text(encoding="utf-8"))["trials"]
    states = zip(results.trials["trial_id"].to_pylist(), results.trials["state"].to_pylist(), strict=True)
    lost = [trial_id for trial_id, state in states if state == "planned" and trial_id in finished]
    if lost:
        raise ConfigError(
            f"The store at {store_url!r} lacks {len(lost)} of the {len(finished)} trials that {OUTCOMES} calls finished, e.g. {lost[0]}. "
            "DVC brings results, not the store. Train them with `ablate run`, or let store.url name the store that has them."
        )
