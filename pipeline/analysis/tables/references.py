"""What maps that do not look at the image get, beside the metrics that compare maps with object masks; and which data a cell is on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.analysis.metrics import baselines
from pipeline.analysis.tables.cells import CellResult, Reference


def data_levels(cell: CellResult) -> str:
    """What a cell says of its data: numbers on different data are not compared and not averaged."""
    return repr(_dataset_levels(cell))


def _dataset_levels(cell: CellResult) -> list[tuple[str, Any]]:
    levels = {**cell.row_levels, **cell.column_levels}
    return sorted((name, level) for name, level in levels.items() if name.split(".")[0] == "dataset")


def _dataset_words(cell: CellResult) -> str:
    """'birds', or 'birds, size = 32' where options of the dataset are levels too."""
    words = []
    for name, level in _dataset_levels(cell):
        option = name.partition(".")[2]
        plain = level.get("name", level) if isinstance(level, Mapping) else level
        words.append(f"{option} = {plain}" if option else str(plain))
    return ", ".join(words)


def map_references(cells: Sequence[CellResult], records: Mapping[str, dict[str, Any]]) -> tuple[Reference, ...]:
    several = len({data_levels(cell) for cell in cells}) > 1
    references = []
    pairs = dict.fromkeys(pair for cell in cells for pair in baselines(cell.metric).items())
    for words, column in pairs:
        by_data: dict[str, dict[str, float]] = {}
        datasets: dict[str, None] = {}
        for cell in (each for each in cells if column in baselines(each.metric).values()):
            values = {trial_id: records[trial_id].get(column) for trial_id in cell.trial_ids}
            finite = {trial_id: value for trial_id, value in values.items() if value is not None and math.isfinite(value)}
            by_data.setdefault(data_levels(cell), {}).update(finite)
            if finite and several:
                datasets[_dataset_words(cell)] = None
        means = [statistics.fmean(values.values()) for values in by_data.values() if values]
        if means:
            references.append(Reference(column, words, min(means), max(means), tuple(datasets)))
    return tuple(references)
