"""Figures of all tables, as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.figures.accuracy import accuracy_over_epochs
from pipeline.analysis.figures.captions import Drawing
from pipeline.analysis.figures.convergence import convergence
from pipeline.analysis.figures.cost import cost
from pipeline.analysis.figures.panels import Caption, Images, image_rows
from pipeline.analysis.figures.per_class import per_class
from pipeline.analysis.figures.ranks import ranks
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.figures.sweep import sweep
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import file_stem


def write_figures(document: Mapping[str, Any], results: Iterable[TableResult], *, trials: pa.Table, history: pa.Table, folder: Path,
                  panels: pa.Table | None = None, images: pa.Table | None = None) -> list[Path]:  # fmt: skip
    """The paths that `write_captioned` returns, without their captions."""
    return list(write_captioned(document, results, trials=trials, history=history, folder=folder, panels=panels, images=images))


def write_captioned(document: Mapping[str, Any], results: Iterable[TableResult], *, trials: pa.Table, history: pa.Table, folder: Path,
                    panels: pa.Table | None = None, images: pa.Table | None = None) -> dict[Path, Caption]:  # fmt: skip
    """Write `<table>.<kind>.{svg,png}`, of each kind in `captions.WORDS` that says something of the table.

    Args:
        document: tables.json.
        results: its tables, filled.
        trials, history: results/trials.parquet, results/history.parquet.
        panels, images: results/panels.parquet and data/images.parquet; without panels nothing is drawn by class, without images
            classes have numbers for names.

    Returns:
        The paths with their captions, tables in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = image_rows(images) if images is not None else {}
    by_name = {result.name: result for result in results}
    captions: dict[Path, Caption] = {}
    for spec in document["tables"]:
        for kind, draw in _kinds(spec, by_name[spec["name"]], trials, history, panels, known).items():
            drawing = draw()
            if drawing is not None:
                captions.update(dict.fromkeys(save_figure(drawing[0], folder / f"{file_stem(spec['name'])}.{kind}"), drawing[1]))
    return captions


def _kinds(
    spec: Mapping[str, Any], result: TableResult, trials: pa.Table, history: pa.Table, panels: pa.Table | None, images: Images
) -> dict[str, Callable[[], Drawing | None]]:
    """What draws each kind; called one by one, so that no more than one figure is in memory."""
    return {
        "accuracy": lambda: accuracy_over_epochs(spec, history, trials),
        "convergence": lambda: convergence(spec, result, history, trials),
        "sweep": lambda: sweep(spec, result),
        "per_class": lambda: None if panels is None else per_class(result, panels, images),
        "ranks": lambda: ranks(result),
        "cost": lambda: cost(result, trials, history),
    }
