"""From plan and store to the files of a study: results, tables, curves and metrics."""

from __future__ import annotations

import json
from collections.abc import Callable

from pipeline.analysis.aggregate import summary_metrics
from pipeline.analysis.collect import collect, read_run_ids, write_results
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
        ConfigError: there is no plan or no outcome of a run.
        StoreError: the store cannot be read.
    """
    if not OUTCOMES.exists():
        raise ConfigError(f"No {OUTCOMES}: the study has not been run. Run `dvc repro`.")
    results = collect(PLAN / "trials.parquet", TrialStore(absolute_url(store_url)), read_run_ids(OUTCOMES))
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
