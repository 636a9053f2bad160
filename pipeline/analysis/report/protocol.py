"""How the trials of a study were set up: the settings that all share, and what each level of each table stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.analysis.report.listing import Listing
from pipeline.analysis.report.trial_page import flat
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import PROTOCOL_WORDS, join_words, one_line

Settings = Mapping[str, str]  # dotted name -> value, of one trial


def protocol_of(results: Sequence[TableResult], planned: pa.Table | None) -> list[Listing]:
    """All settings behind the tables: one listing of those that all trials share, and one a table; [] without configurations.

    Args:
        planned: plan/trials.parquet.
    """
    plans = dict(zip(planned["trial_id"].to_pylist(), planned["planned"].to_pylist(), strict=True)) if planned is not None else {}
    by_table = [[(cell, settings) for cell in result.cells if (settings := _settings(cell, plans))] for result in results]
    everywhere = [settings for cells in by_table for _, settings in cells]
    if not everywhere:
        return []
    shared = _shared(everywhere)
    common = Listing("Settings that all trials share", ("setting", "value"), tuple(shared.items()), texts=2)
    return [common, *(_levels(result, cells, shared) for result, cells in zip(results, by_table, strict=True) if cells)]


def _settings(cell: CellResult, plans: Mapping[str, str]) -> Settings:
    """The settings of a cell's trials, which differ in their seeds only; {} where none is planned."""
    ids = (*cell.trial_ids, *(missing.trial_id or "" for missing in cell.missing))
    planned = next((plans[trial_id] for trial_id in ids if trial_id in plans), None)
    return {} if planned is None else dict(flat(json.loads(planned).get("spec", {}).get("config", {})))


def _shared(settings: Sequence[Settings]) -> dict[str, str]:
    """The settings that are equal in all."""
    return {name: value for name, value in settings[0].items() if all(each.get(name) == value for each in settings)}


def _levels(result: TableResult, cells: Sequence[tuple[CellResult, Settings]], shared: Settings) -> Listing:
    """What each level of a table sets beside what all its cells do."""
    throughout = _shared([settings for _, settings in cells])
    own = {name: value for name, value in throughout.items() if name not in shared}
    rows = [("", "every cell", _text(own))] if own else []
    axes = [("row", result.row_fields, result.rows)]
    if result.column_kind == "level":
        axes.append(("column", result.column_fields, result.columns))
    for axis, fields, levels in axes:
        for level in levels:
            of_level = [settings for cell, settings in cells if getattr(cell, axis) == level]
            if of_level:
                beside = {name: value for name, value in _shared(of_level).items() if name not in throughout}
                rows.append((" · ".join(map(one_line, fields)), one_line(level), _text(beside) or "nothing beside the shared settings"))
    seeds = f"Seed{'s' * (len(result.seeds) > 1)} {join_words(result.seeds)}" if result.seeds else "No seeds"
    note = f"{seeds}; shown: {PROTOCOL_WORDS[result.selection]}."
    return Listing(f"Levels of “{one_line(result.title)}”", ("field", "level", "what it sets"), tuple(rows), texts=3, note=note)


def _text(settings: Settings) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())
