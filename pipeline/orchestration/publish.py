"""Figures and report of a study, and its tables in MLflow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.analysis.figures.write import write_figures
from pipeline.analysis.figures.write_panels import write_panels
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.analysis.wording import caption, file_stem
from pipeline.orchestration.notes import warn
from pipeline.orchestration.tracking import open_tracker
from pipeline.study.params import Params
from pipeline.study.project import DATASETS, FIGURES, IMAGES, PLAN, REPORT, RESULTS, TABLES

VERSIONS = ("torch", "torchvision", "torchdistill", "ray", "mlflow", "dvc")


def publish(params: Params, *, log: Callable[[str], None] = warn, say: Callable[[str], None] = print) -> Path:
    """Write figures/ and report/index.html from results/, and one MLflow run a table; returns the report."""
    document = load_tables(PLAN / "tables.json")
    trials, history = pq.read_table(RESULTS / "trials.parquet"), pq.read_table(RESULTS / "history.parquet")
    results = build_tables(document, trials)
    figures = write_figures(document, results, trials=trials, history=history, folder=FIGURES)
    panels, images = pq.read_table(RESULTS / "panels.parquet"), pq.read_table(IMAGES)
    pictures = write_panels(document, panels=panels, images=images, trials=trials, folder=FIGURES)
    figures += pictures
    study = document["study"]
    report = write_report(
        REPORT, study=study, results=results, figure_paths=figures, captions=pictures, trials=trials, provenance=provenance()
    )
    with open_tracker(params.tracking, study, log) as tracker:
        for result in results:
            files = [TABLES / f"{file_stem(result.name)}.{suffix}" for suffix in FORMATS]
            files += [path for path in figures if path.name.startswith(f"{file_stem(result.name)}.")]
            tracker.table(
                study, result.name, title=result.title, metrics=table_metrics(result), artifacts=files, description=caption(result)
            )
        tracker.wait(60.0)
    say(f"Report: {report}. Tables: {TABLES}/." + (" Runs: `ablate ui`." if params.tracking.uri else ""))
    return report


def table_metrics(result: TableResult) -> dict[str, float]:
    """Summary metrics of a table's MLflow run: mean, sd and n of each complete cell, by 'row/column/...'."""
    metrics: dict[str, float] = {}
    for cell in result.cells:
        name = f"{cell.row}/{cell.column}"
        metrics[f"{name}/n"] = float(cell.n)
        if cell.mean is not None:
            metrics[f"{name}/mean"] = cell.mean
        if cell.sd is not None:
            metrics[f"{name}/sd"] = cell.sd
    return metrics


def provenance() -> dict[str, Any]:
    """What made these numbers: code, versions and data."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = {name: metadata.version(name) for name in VERSIONS if _installed(name)}
    content = json.loads(DATASETS.read_text(encoding="utf-8")) if DATASETS.exists() else {}
    return {
        "commit": commit or "not a git checkout",
        "versions": versions,
        "data": {entry["name"]: entry["digest"] for entry in content.values()},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
