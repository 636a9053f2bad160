"""Figures of all tables, as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.figures.accuracy import accuracy_over_epochs
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.figures.sweep import sweep
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import file_stem


def write_figures(
    document: Mapping[str, Any], results: Iterable[TableResult], *, trials: pa.Table, history: pa.Table, folder: Path
) -> list[Path]:
    """Write `<table>.accuracy.{svg,png}` and, for sweeps, `<table>.sweep.{svg,png}`; returns the paths, tables in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    by_name = {result.name: result for result in results}
    for spec in document["tables"]:
        figures = {"sweep": sweep(spec, by_name[spec["name"]], trials), "accuracy": accuracy_over_epochs(spec, history, trials)}
        for kind, figure in figures.items():
            if figure is not None:
                paths += save_figure(figure, folder / f"{file_stem(spec['name'])}.{kind}")
    return paths
