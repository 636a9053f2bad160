"""Figures and report of a study, and its tables in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.figures.write import write_captioned
from pipeline.analysis.figures.write_panels import write_panels
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.orchestration.mirror.tables import mirror_tables
from pipeline.orchestration.mirror.tracker import open_tracker
from pipeline.orchestration.mirror.uri import run_url
from pipeline.orchestration.notes import warn
from pipeline.orchestration.provenance import provenance
from pipeline.study.params import Params
from pipeline.study.project import FIGURES, IMAGES, PLAN, REPORT, RESULTS, TABLES


def publish(params: Params, *, log: Callable[[str], None] = warn, say: Callable[[str], None] = print) -> Path:
    """Write figures/ and report/ from results/, and one MLflow run a table; returns the report's index."""
    document = load_tables(PLAN / "tables.json")
    trials, history, panels = (pq.read_table(RESULTS / f"{name}.parquet") for name in ("trials", "history", "panels"))
    results = build_tables(document, trials)
    captions = draw(document, results, trials=trials, history=history, panels=panels, folder=FIGURES)
    report = write_report(
        REPORT,
        study=document["study"],
        description=document.get("description", ""),
        results=results,
        figure_paths=captions,
        captions=captions,
        trials=trials,
        provenance=provenance(),
        history=history,
        planned=pq.read_table(PLAN / "trials.parquet"),
        run_links=run_links(params.tracking.uri, trials),
    )
    with open_tracker(params.tracking, document["study"], log) as tracker:
        mirror_tables(tracker, results, list(captions))
        tracker.wait(60.0)
    say(f"Report: {report}. Tables: {TABLES}/." + (" Runs: `ablate ui`." if params.tracking.uri else ""))
    return report


def draw(
    document: Mapping[str, Any],
    results: Sequence[TableResult],
    *,
    trials: pa.Table,
    history: pa.Table,
    panels: pa.Table,
    folder: Path,
) -> dict[Path, Caption]:
    """Draw all figures of a study into a folder; returns the paths with their captions, those with numbers before the pictures."""
    images = pq.read_table(IMAGES)
    drawn = write_captioned(document, results, trials=trials, history=history, panels=panels, images=images, folder=folder)
    return drawn | write_panels(document, panels=panels, images=images, trials=trials, folder=folder)


def run_links(uri: str | None, trials: pa.Table) -> dict[str, str]:
    """MLflow run id -> address of the run in the UI; nothing where tracking is off."""
    if uri is None or "run_id" not in trials.column_names:
        return {}
    return {run_id: run_url(uri, None, run_id) for run_id in trials["run_id"].to_pylist() if run_id}
