"""A reference column: the published number beside each row of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.analysis.published.find import find
from pipeline.analysis.published.read import FIELDS, Published
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.study.config import level_label


def match_column(spec: Mapping[str, Any], row_levels: Sequence[Mapping[str, Any]]) -> list[Published | None]:
    """The published number that fits each row of a table; None where there is none.

    Args:
        spec: `where`: fields of published.csv that all rows share; `by`: the field of the rows, or several, by which rows differ;
            `names`: level -> name in published.csv. A level that is not in `names` stands for the published name of the same spelling.
        row_levels: for each row of the table, field -> level. A field `backbone`, `dataset`, `teacher`, `task` (or a part of it, such as
            `backbone.depth`) picks by the published field of that name; any other, such as `regularizers` or `loss`, by `method`.

    Raises:
        UnknownNameError: a name that was not published with `where`, a level that no row has, a field that the rows lack.
        ConfigError: two published numbers fit a row, two rows agree in all levels of `by`, or a field is given twice.
    """
    fields = [spec["by"]] if isinstance(spec["by"], str) else list(spec["by"])
    names = {str(level): name for level, name in (spec.get("names") or {}).items()}
    published = find(spec["where"])
    rows = [_labels(fields, levels) for levels in row_levels]
    published_fields = _published_fields(fields, spec["where"])
    _check_rows(fields, rows)
    _check_names(names, rows, published_fields, spec["where"])
    result = []
    for row in rows:
        wanted = {field: names.get(label, label) for field, label in zip(published_fields, row, strict=True)}
        fitting = [each for each in published if all(getattr(each, field) == name for field, name in wanted.items())]
        if len(fitting) > 1:
            raise _ambiguous(fitting, " · ".join(row))
        result.append(fitting[0] if fitting else None)
    return result


def _published_fields(fields: Sequence[str], where: Mapping[str, str]) -> list[str]:
    """The field of published.csv that each field of the rows picks by."""
    result: list[str] = []
    for field in fields:
        head = field.partition(".")[0]
        picks = head if head in FIELDS else "method"
        if picks in where or picks in result:
            other = f"`where` fixes {picks}" if picks in where else f"another field of `by` picks by {picks}"
            raise ConfigError(
                f"`by: {field}` of a reference picks published numbers by their {picks}, but {other}. Take one of the two away."
            )
        result.append(picks)
    return result


def _labels(fields: Sequence[str], levels: Mapping[str, Any]) -> tuple[str, ...]:
    for field in fields:
        if field not in levels:
            raise UnknownNameError("row field", field, levels, where="`by` of a reference")
    return tuple(level_label(levels[field]) for field in fields)


def _check_rows(fields: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    for row in rows:
        if rows.count(row) > 1:
            raise ConfigError(
                f"`by: {', '.join(fields)}` of a reference cannot tell rows apart: {rows.count(row)} rows are {' · '.join(row)}. "
                "Name in `by` every field by which the rows differ."
            )


def _check_names(
    names: Mapping[str, str], rows: Sequence[tuple[str, ...]], published_fields: Sequence[str], where: Mapping[str, str]
) -> None:
    """Each level of `names` is that of a row, and its name was published."""
    for level, name in names.items():
        fields = [field for index, field in enumerate(published_fields) if any(row[index] == level for row in rows)]
        if not fields:
            levels = {label for row in rows for label in row}
            raise UnknownNameError("level", level, levels, where="`names` of a reference", next_step="`names` reads our level: their name.")
        for field in fields:
            find({**where, field: name})


def _ambiguous(fitting: Sequence[Published], row: str) -> ConfigError:
    differing = {field: sorted({getattr(each, field) for each in fitting}) for field in FIELDS}
    differing = {field: names for field, names in differing.items() if len(names) > 1}
    listed = "; ".join(f"{field} ({', '.join(names)})" for field, names in differing.items())
    field, (name, *_) = next(iter(differing.items()))
    return ConfigError(
        f"{len(fitting)} published numbers fit row {row!r}. They differ in {listed}. Add to `where` of the reference "
        f"what tells them apart, e.g. {field}: {name}."
    )
