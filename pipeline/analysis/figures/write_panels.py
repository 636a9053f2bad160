"""Pictures of all tables, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from pipeline.analysis.figures.panel_maps import maps_figure
from pipeline.analysis.figures.panel_points import features_figure
from pipeline.analysis.figures.panels import Caption, groups_of, image_rows
from pipeline.analysis.figures.style import save_figure
from pipeline.analysis.wording import file_stem


def write_panels(document: Mapping[str, Any], *, panels: pa.Table, images: pa.Table, trials: pa.Table, folder: Path) -> dict[Path, Caption]:
    """Write `<table>.maps_<row>.{svg,png}` and `<table>.features.{svg,png}`; returns the paths, tables in order, with their captions.

    A table none of whose trials of the first seed has pictures gets no file.

    Args:
        document: tables.json.
        panels, trials: results/panels.parquet, results/trials.parquet.
        images: data/images.parquet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = image_rows(images)
    captions: dict[Path, Caption] = {}

    def save(name: str, drawn: tuple[Figure, Caption]) -> None:
        captions.update(dict.fromkeys(save_figure(drawn[0], folder / name), drawn[1]))

    for spec in document["tables"]:
        groups, hidden = groups_of(spec, panels, trials)
        stem = file_stem(spec["name"])
        for group in groups:
            save(f"{stem}.maps_{group.kind}".rstrip("_"), maps_figure(spec, group, known))
        if groups:
            save(f"{stem}.features", features_figure(spec, groups, known, hidden))
    return captions
