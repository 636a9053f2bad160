"""Factorial expansion: a study file becomes tables of cells, each with its resolved configuration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.metric_names import METRICS
from pipeline.registry import Registry
from pipeline.study.config import StudyFile, TableSpec, level_label
from pipeline.study.identity import canonical_json
from pipeline.study.place import Path_
from pipeline.study.presentation import merged
from pipeline.study.resolve import Layer, Resolver, Vocabulary, nested
from pipeline.study.search_points import base_layers, check_tuned, field_layers, resolve_corners

PLAIN_COLUMNS = ("time_train_s", "time_step_s", "time_total_s", "mem_peak_bytes")
NOT_SCIENCE = ("seed", "seeds")

Winners = Mapping[str, Mapping[str, Any]]  # arm -> dotted field -> value


@dataclass(frozen=True)
class Cell:
    """One number of a table before it exists.

    Attributes:
        row, column: labels.
        row_levels, column_levels: field -> level as declared.
        arm: name of the arm, or None in a table without arms.
        metrics: columns of results/trials.parquet that are averaged.
        config: resolved trial configuration.
        tuned: whether its arm carries the winner of the search.
    """

    row: str
    column: str
    row_levels: dict[str, Any]
    column_levels: dict[str, Any]
    arm: str | None
    metrics: tuple[str, ...]
    config: dict[str, Any] = field(repr=False)
    tuned: bool = False


@dataclass(frozen=True)
class TableDesign:
    """One table: its cells in row-major order, how they are judged and shown, and what its caption says.

    Attributes:
        rows, columns: labels; `row_parts` and `column_parts` hold the label of each field by itself.
        reference: columns of published numbers, as the study file has them.
    """

    name: str
    title: str
    row_fields: list[str]
    rows: list[str]
    row_parts: list[list[str]]
    column_fields: list[str]
    columns: list[str]
    column_parts: list[list[str]]
    column_kind: str
    baseline: str | None
    selection: str
    cells: list[Cell]
    fixed: dict[str, Any]
    statistics: dict[str, Any] = field(default_factory=dict)
    style: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False


@dataclass(frozen=True)
class _Level:
    label: str
    value: Any
    place: Path_


def expand(file: StudyFile, vocabulary: Vocabulary, winners: Winners | None = None) -> list[TableDesign]:
    """All tables of a study, every cell resolved and checked.

    Args:
        winners: the best point of each searched arm; None: not known, so cells of tuned tables are checked without.

    Raises:
        ConfigError: with the place in the study file.
    """
    resolver = Resolver(file, vocabulary)
    if file.study.search is not None:
        resolve_corners(resolver, file.study.search)
    tables = [_table(file, resolver, name, spec, winners or {}) for name, spec in file.study.tables.items()]
    _check_unused(file, resolver, tables)
    return tables


def expand_datasets(file: StudyFile, datasets: Registry[Any]) -> list[dict[str, Any]]:
    """The distinct resolved dataset components of a study, in order; looks at nothing else.

    Raises:
        ConfigError: with the place in the study file.
    """
    nothing: Registry[Any] = Registry("name", __name__)
    resolver = Resolver(file, Vocabulary(datasets, nothing, nothing, nothing))
    unique: dict[str, dict[str, Any]] = {}
    for name, spec in file.study.tables.items():
        sides = [*spec.rows.items()], [*spec.columns.items()]
        factors = {
            field_name: _levels(levels, ("tables", name, side, field_name))
            for side, items in zip(("rows", "columns"), sides, strict=True)
            for field_name, levels in items
            if field_name == "arm" or field_name.split(".")[0] == "dataset"
        }
        for levels in _cross(factors):
            component = resolver.resolve_dataset(_layers(file, name, spec, levels, {}))
            unique.setdefault(canonical_json(component), component)
    if (search := file.study.search) is not None:
        for arm in search.arm_names(file.study.arms):
            component = resolver.resolve_dataset(base_layers(file, search, arm))
            unique.setdefault(canonical_json(component), component)
    return list(unique.values())


def _check_unused(file: StudyFile, resolver: Resolver, tables: list[TableDesign]) -> None:
    """Resolve arms and datasets that no table uses, in place of those in the first cell, so that a slip there is not passed over."""
    name, spec = next(iter(file.study.tables.items()))
    factors = {**spec.rows, **({} if "metric" in spec.columns else spec.columns)}
    first = {f: _levels(levels, ("tables", name, "rows" if f in spec.rows else "columns", f))[0] for f, levels in factors.items()}
    used = {cell.arm for table in tables for cell in table.cells}
    for arm in file.study.arms:
        if arm not in used:
            resolver.resolve(_layers(file, name, spec, {**first, "arm": _Level(arm, arm, ("arms", arm))}, {}))
    used = {cell.config["dataset"]["name"] for table in tables for cell in table.cells}
    for alias in file.study.datasets:
        if alias not in used:
            resolver.resolve_dataset([Layer({"dataset": {"name": alias}}, ("datasets", alias), "dataset")])


def _table(file: StudyFile, resolver: Resolver, name: str, spec: TableSpec, winners: Winners) -> TableDesign:
    base: Path_ = ("tables", name)
    if spec.tuned:
        levels = spec.rows.get("arm") or spec.columns.get("arm") or []
        check_tuned(file, name, [str(arm) for arm in (levels.values() if isinstance(levels, dict) else levels)])
    selection = spec.selection or file.study.protocol.selection
    metrics = _metrics(file, spec, base, selection)
    by_metric = "metric" in spec.columns
    if by_metric and len(spec.columns) > 1:
        raise ConfigError(f"{file.locate((*base, 'columns'))}: `metric` columns cannot be crossed with other fields; give them as rows.")
    if "metric" in spec.rows:
        raise ConfigError(f"{file.locate((*base, 'rows', 'metric'))}: `metric` belongs under columns.")
    if by_metric and spec.metric:
        raise ConfigError(f"{file.locate((*base, 'metric'))}: the columns are metrics already. Leave `metric` out.")
    doubled = set(spec.rows) & set(spec.columns)
    if doubled:
        raise ConfigError(f"{file.locate((*base, 'columns'))}: {sorted(doubled)[0]!r} is in the rows already.")

    for key in spec.set:
        if key.split(".")[0] == "regularizers" and "regularizers" in {*spec.rows, *spec.columns}:
            where = file.locate((*base, "set", key))
            raise ConfigError(
                f"{where}: each level of `regularizers` replaces all of them, so this would never act. Put it into the levels."
            )

    rows = _cross({f: _levels(v, (*base, "rows", f)) for f, v in spec.rows.items()})
    columns = _cross({f: _levels(v, (*base, "columns", f)) for f, v in spec.columns.items()})
    labels = [_label(column) for column in columns]
    cells = []
    for row, column in itertools.product(rows, columns):
        levels = {**row, **({} if by_metric else column)}
        arm = levels.get("arm")
        own = (_metric_column(str(column["metric"].value), selection, file, column["metric"].place),) if by_metric else metrics
        cells.append(
            Cell(
                row=_label(row),
                column=_label(column),
                row_levels={f: level.value for f, level in row.items()},
                column_levels={f: level.value for f, level in column.items()},
                arm=None if arm is None else str(arm.value),
                metrics=own,
                config=resolver.resolve(_layers(file, name, spec, levels, winners)),
                tuned=spec.tuned,
            )
        )
    looks_back = {cell.config["evaluate_test"] for cell in cells if any(metric.endswith("_best_test") for metric in cell.metrics)}
    if looks_back - {"each_epoch"}:
        place = (*base, "selection") if spec.selection else ("protocol", "selection")
        raise ConfigError(
            f"{file.locate(place)}: best_test needs the test metric of every epoch, but evaluate_test is 'selected'. "
            "Set evaluate_test: each_epoch, or another selection."
        )
    arms = {cell.arm for cell in cells if cell.arm}
    if spec.baseline is not None and spec.baseline not in arms:
        raise UnknownNameError(
            "baseline", spec.baseline, arms, where=file.locate((*base, "baseline")), next_step="A baseline is one of the table's own arms."
        )
    return TableDesign(
        name=name,
        title=spec.title or name.replace("_", " "),
        row_fields=list(spec.rows),
        rows=[_label(row) for row in rows],
        row_parts=[[level.label for level in row.values()] for row in rows],
        column_fields=list(spec.columns),
        columns=labels,
        column_parts=[[level.label for level in column.values()] for column in columns],
        column_kind="metric" if by_metric else "level",
        baseline=spec.baseline,
        selection=selection,
        cells=cells,
        fixed=_fixed(cells, {*spec.rows, *spec.columns}) | ({"arms": "each with the best point of its search"} if spec.tuned else {}),
        statistics=file.study.statistics.model_dump(),
        style=merged(file.study.style, spec.style),
        reference=_reference(file, spec, base),
        tuned=spec.tuned,
    )


def _metrics(file: StudyFile, spec: TableSpec, base: Path_, selection: str) -> tuple[str, ...]:
    """Result columns of the metrics that each cell shows."""
    place = (*base, "metric") if spec.metric else ("protocol", "metric")
    names = spec.metric or file.study.protocol.metric
    if isinstance(names, str):
        return (_metric_column(names, selection, file, place),)
    return tuple(_metric_column(name, selection, file, (*place, index)) for index, name in enumerate(names))


def _reference(file: StudyFile, spec: TableSpec, base: Path_) -> dict[str, Any]:
    own = {_label(column) for column in _cross({name: _levels(levels, ()) for name, levels in spec.columns.items()})}
    for header, reference in spec.reference.items():
        place = (*base, "reference", header)
        for field_name in [reference.by] if isinstance(reference.by, str) else reference.by:
            if field_name not in spec.rows:
                step = "Published numbers are matched row by row."
                raise UnknownNameError("row field", field_name, spec.rows, where=file.locate((*place, "by")), next_step=step)
        if header in own:
            raise ConfigError(f"{file.locate(place)}: the table has a column {header!r} already. Give the published one another name.")
    return {header: reference.model_dump() for header, reference in spec.reference.items()}


def _layers(file: StudyFile, name: str, spec: TableSpec, levels: dict[str, _Level], winners: Winners) -> list[Layer]:
    """What a cell is made of, from the bottom up: defaults, the table's own settings, its arm, the arm's winner, its other levels."""
    layers = [Layer(file.study.defaults, ("defaults",))]
    layers += [Layer(nested(key, value), ("tables", name, "set", key), key) for key, value in spec.set.items()]
    for field_name, level in levels.items():
        if field_name in NOT_SCIENCE:
            raise ConfigError(f"{file.locate(level.place)}: seeds are repetitions, not a factor; set `seeds:` of the study.")
        if field_name == "arm":
            arm = str(level.value)
            if arm not in file.study.arms:
                raise UnknownNameError("arm", arm, file.study.arms, where=file.locate(level.place), next_step="Declare it under `arms:`.")
            layers.append(Layer(file.study.arms[arm], ("arms", arm)))
            if spec.tuned:
                layers += field_layers(winners.get(arm, {}))
    # A field before its parts, so that `backbone` never undoes `backbone.dropout`.
    others = sorted((f for f in levels if f != "arm"), key=lambda f: f.count("."))
    return layers + [Layer(nested(f, levels[f].value), levels[f].place, f) for f in others]


def _levels(levels: Any, place: Path_) -> list[_Level]:
    if isinstance(levels, dict):
        return [_Level(str(label), value, (*place, label)) for label, value in levels.items()]
    return [_Level(level_label(value), value, (*place, index)) for index, value in enumerate(levels)]


def _cross(factors: dict[str, list[_Level]]) -> list[dict[str, _Level]]:
    return [dict(zip(factors, combination, strict=True)) for combination in itertools.product(*factors.values())]


def _label(levels: dict[str, _Level]) -> str:
    return " · ".join(level.label for level in levels.values())


def _metric_column(name: str, selection: str, file: StudyFile, place: Path_) -> str:
    """'metric_test_acc_top1_last' from 'acc_top1', 'test/acc_top1' or 'val/loss'; times and memory as they are."""
    split, _, bare = name.rpartition("/")
    split = split or "test"
    if name in PLAIN_COLUMNS:
        return name
    if bare not in METRICS or split not in ("test", "val"):
        known, step = [*METRICS, *PLAIN_COLUMNS], "Prefix val/ for the validation split."
        raise UnknownNameError("metric", name, known, where=file.locate(place), next_step=step)
    if METRICS[bare].when == "end":
        if split != "test":
            raise ConfigError(f"{file.locate(place)}: {bare} is measured on the test split only; write {bare} instead of {name}.")
        if selection == "best_test":
            raise ConfigError(
                f"{file.locate(place)}: {bare} is measured once, at the end, so there is none under best_test, which looks back over all "
                "epochs. Set selection: last or best_val, or another metric."
            )
    return f"metric_{split}_{bare}_{selection}"


def _fixed(cells: list[Cell], varied: set[str]) -> dict[str, Any]:
    """What a caption says of a table's cells when it is the same in all of them."""
    facts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "dataset": lambda c: c["dataset"]["name"],
        "backbone": lambda c: c["backbone"]["name"],
        "loss": loss_label,
        "regularizers": regularizers_label,
        "epochs": lambda c: c["epochs"],
        "batch_size": lambda c: c["batch_size"],
        "optimizer": lambda c: f"{c['optimizer']['name']}, lr {c['optimizer']['lr']:g}, weight decay {c['optimizer']['weight_decay']:g}",
        "schedule": lambda c: c["schedule"]["name"],
    }
    fixed = {}
    for name, fact in facts.items():
        values = {str(fact(cell.config)) for cell in cells}
        if len(values) == 1 and name not in varied:
            fixed[name] = fact(cells[0].config)
    return fixed


def loss_label(config: dict[str, Any]) -> str:
    """'ce + 1 cam' for the terms of a loss."""
    terms = sorted(config["loss"].items(), key=lambda item: (item[0] != "ce", item[0]))
    return " + ".join(name if term["weight"] == 1 else f"{term['weight']:g} {name}" for name, term in terms)


def regularizers_label(config: dict[str, Any]) -> str:
    """'cutmix + label_smoothing', or 'none'."""
    return " + ".join(component["name"] for component in config["regularizers"]) or "none"
