"""Which trial of a table's cell gives the model that stands for it: chosen on validation images, never on test images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.errors import ConfigError, StoreError, UnknownNameError, counted
from pipeline.metric_names import METRICS
from pipeline.orchestration.planning import Plan
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.trial import weights_digest

Cell = dict[str, Any]  # an entry of `cells` in plan/tables.json


@dataclass(frozen=True)
class Choice:
    """The trial whose model stands for a cell.

    Attributes:
        study, table, row, column: the cell.
        trial_id: the chosen trial.
        metric: column of the record that decided, of the validation split.
        value: its value.
        notes: what was passed over, a sentence each.
    """

    study: str
    table: str
    row: str
    column: str
    trial_id: str
    metric: str
    value: float
    notes: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        """'study.table.row.column'; what is awkward in a `models:/` address becomes '_'."""
        return ".".join(re.sub(r"[^\w.\-+=(),]+", "_", part) for part in (self.study, self.table, self.row, self.column))


def choose(
    plan: Plan, records: Mapping[str, Record], store: TrialStore, table: str, *, row: str | None = None, column: str | None = None
) -> Choice:
    """The trial with the best validation metric of a cell, of those whose weights are stored; among equals the first seed.

    The metric is the one that the cell shows, measured on the validation split, or accuracy where that one is measured on test images
    only: at the last epoch for `selection: last`, else at the best validation epoch. Where row and column leave several cells, the one
    with the best mean over its seeds is taken; a cell with a seed missing has no mean.

    Raises:
        ConfigError: a name is unknown, the table shows several metrics and none is named, no trial is complete or has a validation
            metric, or no weights were kept.
    """
    spec = _table(plan, table)
    cells = _matching(spec, row, column)
    metric, sign = _decisive(cells, spec["selection"], table)
    cell, notes = (cells[0], []) if len(cells) == 1 else _best_cell(cells, records, metric, sign)
    values, problems = _values(cell, records, metric)
    if not values:
        raise ConfigError(f"No model of {_place(cell)} in table {table!r} can be chosen: {problems[0]}.")
    notes += problems
    having = {trial_id: value for trial_id, value in values.items() if store.has_weights(trial_id)}
    if not having:
        raise ConfigError(_no_weights(plan.study, cell, store))
    chosen, top = (max(found, key=lambda trial_id, found=found: sign * found[trial_id]) for found in (having, values))  # type: ignore[misc]
    if values[chosen] != values[top]:
        notes.append(f"a better trial of the cell has no weights in the store: {plan.trials[top].name} [{top}]")
    return Choice(plan.study, table, cell["row"], cell["column"], chosen, metric, values[chosen], tuple(notes))


def weights_rule(record: Mapping[str, Any], weights: bytes) -> str:
    """'last' or 'best_val': which epoch stored weights are of, told by the digest of the last ones in the record.

    Raises:
        StoreError: they are of neither, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = weights_digest(load(weights))
    except SafetensorError as error:
        raise StoreError(f"The weights of trial {record['trial_id']} cannot be read: {error}. `ablate doctor` looks for damage.") from error
    expected = record.get("weights_sha256")
    if found == expected:
        return "last"
    if not expected or record.get("best_val_epoch") in (None, record.get("epochs_done")):
        raise StoreError(f"The stored weights of trial {record['trial_id']} are not those of its record: their digest is another one.")
    return "best_val"


def _table(plan: Plan, name: str) -> dict[str, Any]:
    specs = {spec["name"]: spec for spec in plan.tables}
    if name not in specs:
        raise UnknownNameError("table", name, specs, where=f"study {plan.study}")
    if not specs[name]["cells"]:
        reasons = [*plan.blocked.get(name, ()), *(reason for found in plan.blocked.values() for reason in found)]
        raise ConfigError(f"Table {name!r} has no trials yet: {reasons[0]}.")
    return specs[name]


def _matching(spec: dict[str, Any], row: str | None, column: str | None) -> list[Cell]:
    """Cells of these names, one for each row and column: of several metrics at one place, the first."""
    for kind, name in (("row", row), ("column", column)):
        known = dict.fromkeys(cell[kind] for cell in spec["cells"])
        if name is not None and name not in known:
            raise UnknownNameError(kind, name, known, where=f"table {spec['name']}")
    places: dict[tuple[str, str], Cell] = {}
    for cell in spec["cells"]:
        if row in (None, cell["row"]) and column in (None, cell["column"]):
            places.setdefault((cell["row"], cell["column"]), cell)
    return list(places.values())


def _decisive(cells: list[Cell], selection: str, table: str) -> tuple[str, int]:
    """The column of the records that decides among these cells, and 1 where more is better, else -1."""
    found = {_validation_metric(cell["metric"], selection) for cell in cells}
    if len(found) > 1:
        columns = ", ".join(dict.fromkeys(cell["column"] for cell in cells))
        raise ConfigError(f"The columns of table {table!r} show different metrics: none is the best. Name one by --column: {columns}.")
    return found.pop()


def _validation_metric(metric: str, selection: str) -> tuple[str, int]:
    name = metric.removeprefix("metric_").partition("_")[2].removesuffix(f"_{selection}")
    if name not in METRICS or METRICS[name].when != "epoch":
        name = "acc_top1"
    rule = "last" if selection == "last" else "best_val"  # the best epoch by test images decides nothing here
    return f"metric_val_{name}_{rule}", 1 if METRICS[name].higher_is_better else -1


def _best_cell(cells: list[Cell], records: Mapping[str, Record], metric: str, sign: int) -> tuple[Cell, list[str]]:
    """The cell with the best mean, the first of equals, and why others had none."""
    means: list[tuple[float, Cell]] = []
    problems: list[str] = []
    for cell in cells:
        values, missing = _values(cell, records, metric)
        problems += missing
        if not missing:
            means.append((fmean(values.values()), cell))
    if not means:
        raise ConfigError(f"No cell has all its seeds, so none is the best: {problems[0]}. Name one by --row and --column.")
    notes = [f"{counted(len(cells) - len(means), 'cell')} without a mean passed over, the first because {problems[0]}"] if problems else []
    return max(means, key=lambda entry: sign * entry[0])[1], notes


def _values(cell: Cell, records: Mapping[str, Record], metric: str) -> tuple[dict[str, float], list[str]]:
    """Trial id -> validation metric of a cell's trials, and what is wrong with those that have none."""
    values, problems = {}, []
    for entry in cell["trials"]:
        record = records.get(entry["trial_id"])
        if entry["reason"]:
            problems.append(f"{_place(cell)} is skipped, {entry['reason']}")
        elif record is None or record["state"] != "complete":
            state = "not trained yet" if record is None else record["state"]
            problems.append(f"seed {entry['seed']} of {_place(cell)} is {state}")
        elif record.get(metric) is None:
            problems.append(f"{_place(cell)} has no {metric}, as without validation images, and test images never choose")
        else:
            values[entry["trial_id"]] = record[metric]
    return values, problems


def _place(cell: Cell) -> str:
    return f"{cell['row']} / {cell['column']}"


def _no_weights(study: str, cell: Cell, store: TrialStore) -> str:
    trials = " ".join(f"--trial {entry['trial_id']}" for entry in cell["trials"])
    return (
        f"No trial of {_place(cell)} has its weights in {store.url}: `store.weights` was none in params.yaml when they were trained. "
        "Set it to last or best: it acts on trials that are trained from then on. Stored trials are not trained again for it, as weights "
        "are no part of a trial's identity; to have theirs, also point `store.url` at a new folder and run "
        f"`ablate run --study {study} {trials}`."
    )
