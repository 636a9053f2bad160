"""A table is a pure function of its plan and the records: cells with n, mean, sample SD and paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.published import PublishedColumn, published_columns
from pipeline.analysis.tables.cells import TableResult
from pipeline.analysis.tables.comparisons import averages, complete_rows, rankings, versus, with_best, with_deltas, with_summaries
from pipeline.analysis.tables.references import map_references
from pipeline.analysis.tables.values import fill, in_order, records_of
from pipeline.errors import ConfigError, did_you_mean
from pipeline.study.place import dotted

_REQUIRED = ("name", "title", "row_fields", "rows", "column_fields", "columns", "column_kind", "selection", "seeds", "cells")
# What a plan of an earlier version, which does not say, means.
_STATISTICS = {"test": "sign_flip", "alpha": 0.05, "confidence": 0.95}
_STYLE = {"spread": "sd", "decimals": None, "deltas": True, "p_values": False, "averages": True, "ranks": False, "bold": "group"}


def load_tables(path: Path) -> dict[str, Any]:
    """Read the planner's `tables.json`.

    Raises:
        ConfigError: the file is absent or is no such document.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; it is written by the plan stage. Run: dvc repro plan") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON ({error}); write it anew with: dvc repro plan") from error
    if not isinstance(document, dict) or not {"study", "tables"} <= set(document):
        raise ConfigError(f"{path} must hold an object with 'study' and 'tables'; write it anew with: dvc repro plan")
    return document


def build_tables(document: Mapping[str, Any], trials: pa.Table) -> list[TableResult]:
    """All tables of a `tables.json` document, in its order."""
    return [build_table(spec, trials, study=document["study"]) for spec in document["tables"]]


def build_table(spec: Mapping[str, Any], trials: pa.Table, *, study: str = "") -> TableResult:
    """Fill one table.

    mean and SD are taken over all planned seeds of a cell or not at all: with s values x_1..x_s, mean = sum x / s and
    SD = sqrt(sum (x - mean)^2 / (s - 1)). A difference to the baseline is taken seed by seed, then averaged.

    Args:
        spec: one entry of `tables` in tables.json.
        trials: results/trials.parquet, one row a trial.
        study: name of the study, kept in the result.

    Raises:
        ConfigError: the spec lacks a field, names a row or column twice or an unknown one, its baseline is not in the table, or its
            published numbers cannot be told apart.
        StoreError: a trial has two rows, or a row of another seed than planned.
    """
    _check(spec)
    judged = _STATISTICS | spec.get("statistics", {})
    test, alpha, confidence = judged["test"], judged["alpha"], judged["confidence"]
    metrics = tuple(dict.fromkeys(cell["metric"] for cell in spec["cells"]))
    records = records_of(trials, metrics)
    cells = [fill(cell, spec["seeds"], records, trials.column_names) for cell in spec["cells"]]
    position = {(row, column): i for i, (row, column) in enumerate((r, c) for r in spec["rows"] for c in spec["columns"])}
    cells.sort(key=lambda cell: position[cell.row, cell.column])
    cells = with_summaries(cells, confidence)
    baseline, by_level = spec.get("baseline"), spec["column_kind"] == "level"
    if baseline is not None:
        cells = with_deltas(cells, baseline, spec["name"], test=test, alpha=alpha, confidence=confidence)
    cells = with_best(cells, "row" if by_level else "column", test=test, alpha=alpha)
    places = {(cell.row, cell.column, cell.metric): cell for cell in cells}
    whole = complete_rows(cells, spec)
    compared_rows = whole if by_level else ()
    return TableResult(
        study=study,
        name=spec["name"],
        title=spec["title"],
        row_fields=tuple(spec["row_fields"]),
        rows=tuple(spec["rows"]),
        row_parts=_parts(spec, "row"),
        column_fields=tuple(spec["column_fields"]),
        columns=tuple(spec["columns"]),
        column_parts=_parts(spec, "column"),
        column_kind=spec["column_kind"],
        metrics=metrics,
        baseline=baseline,
        selection=spec["selection"],
        seeds=tuple(spec["seeds"]),
        fixed=in_order(spec.get("fixed") or {}),
        test=test,
        alpha=alpha,
        confidence=confidence,
        comparisons=sum(cell.delta is not None and cell.delta.p is not None for cell in cells),
        style=_STYLE | spec.get("style", {}),
        cells=tuple(cells),
        complete_rows=whole,
        averages=averages(places, compared_rows, spec["columns"], metrics, test=test, confidence=confidence),
        versus=versus(places, spec["rows"], spec["columns"], metrics) if by_level else (),
        rankings=rankings(places, compared_rows, spec["columns"], metrics, alpha),
        references=map_references(cells, records),
        published=_published(spec, metrics),
    )


def _parts(spec: Mapping[str, Any], axis: str) -> tuple[tuple[str, ...], ...]:
    """The labels of rows or columns, field by field; whole labels where an earlier plan does not tell."""
    return tuple(map(tuple, spec.get(f"{axis}_parts") or [[label] for label in spec[f"{axis}s"]]))


def _published(spec: Mapping[str, Any], metrics: tuple[str, ...]) -> tuple[PublishedColumn, ...]:
    """Columns of published numbers; none in a table without cells, whose metrics are not known."""
    if not metrics:
        return ()
    parts = dict(zip(spec["rows"], _parts(spec, "row"), strict=True))
    base = ("tables", spec["name"], "reference")
    return published_columns(spec.get("reference") or {}, spec["row_fields"], parts, metrics, lambda path: dotted((*base, *path)))


def _check(spec: Mapping[str, Any]) -> None:
    lacking = [key for key in _REQUIRED if key not in spec]
    if lacking:
        raise ConfigError(f"table {spec.get('name', '?')!r} of tables.json lacks {', '.join(lacking)}; write it anew with: dvc repro plan")
    where = f"table {spec['name']!r}"
    if spec["column_kind"] not in ("level", "metric"):
        raise ConfigError(f"column_kind of {where} must be 'level' or 'metric', got {spec['column_kind']!r}")
    for axis in ("rows", "columns"):
        if len(set(spec[axis])) != len(spec[axis]):
            raise ConfigError(f"{axis} of {where} must differ from each other, got {', '.join(spec[axis])}")
    seen: set[tuple[str, str, str]] = set()
    for cell in spec["cells"]:
        for axis, known in (("row", spec["rows"]), ("column", spec["columns"])):
            if cell[axis] not in known:
                hint = did_you_mean(cell[axis], known)
                raise ConfigError(f"a cell of {where} names the {axis} {cell[axis]!r}; known: {', '.join(known)}.{hint}")
        if (cell["row"], cell["column"], cell["metric"]) in seen:
            raise ConfigError(f"{where} has two cells at row {cell['row']!r}, column {cell['column']!r}; one is allowed")
        seen.add((cell["row"], cell["column"], cell["metric"]))
