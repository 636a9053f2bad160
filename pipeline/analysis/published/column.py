"""Reference columns: the published number beside each row of a table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.analysis.metrics import describe
from pipeline.analysis.published.find import bare, find, unknown
from pipeline.analysis.published.read import FIELDS, Published
from pipeline.errors import ConfigError, UnknownNameError, did_you_mean
from pipeline.study.config import level_label
from pipeline.study.place import dotted
from pipeline.study.validate import Locate

_MOST = 8  # names of one field that a message lists


@dataclass(frozen=True)
class PublishedColumn:
    """Published numbers beside the table's own: copied from their source, not run here.

    Attributes:
        header: as the study file calls the column.
        metric: the metric of the table that they are numbers of.
        entries: row -> number; None where the source has none.
        names: level -> name in published.csv, as the study file equates them.
    """

    header: str
    metric: str
    entries: Mapping[str, Published | None]
    names: Mapping[str, str] = field(default_factory=dict)


def published_columns(
    reference: Mapping[str, Mapping[str, Any]],
    row_fields: Sequence[str],
    row_parts: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    locate: Locate = dotted,
) -> tuple[PublishedColumn, ...]:
    """The reference columns of a table, each under the metric that it is about. Needs no result: a study is checked as it is planned.

    Args:
        reference: header -> `spec` of `match_column`.
        row_parts: row -> its labels, one for each of `row_fields`.
        metrics: columns of results/trials.parquet that the table shows.
        locate: turns a path of keys inside `reference` into words for the user.

    Raises:
        ConfigError: as `match_column`; or the numbers are of no metric that the table shows, or of several.
    """
    levels = [dict(zip(row_fields, parts, strict=False)) for parts in row_parts.values()]
    columns = []
    for header, spec in reference.items():

        def place(path: tuple[str | int, ...], header: str = header) -> str:
            return locate((header, *path))

        entries = dict(zip(row_parts, match_column(spec, levels, place), strict=True))
        quantities = {entry.quantity for entry in entries.values() if entry is not None}
        # Published are results on the test split: they belong under none of the others.
        ours = [metric for metric in metrics if not metric.startswith(("metric_val_", "metric_train_"))]
        fitting = [metric for metric in ours if describe(metric).stem in quantities]
        if len(quantities) > 1 or not fitting:
            raise ConfigError(
                f"{place(('where',))}: the published numbers are {' and '.join(sorted(quantities))} on the test split, the table shows "
                f"{', '.join(describe(metric).words for metric in metrics)}. Add `metric` to `where`, or choose other numbers."
            )
        columns.append(PublishedColumn(header, fitting[0], entries, dict(spec.get("names") or {})))
    return tuple(columns)


def match_column(spec: Mapping[str, Any], row_levels: Sequence[Mapping[str, Any]], locate: Locate = dotted) -> list[Published | None]:
    """The published number that fits each row of a table; None where there is none.

    Args:
        spec: `where`: fields of published.csv that all rows share; `by`: the field of the rows, or several, by which rows differ;
            `names`: level -> name in published.csv. A level that is not in `names` stands for the published name of the same spelling.
        row_levels: for each row of the table, field -> level. A field `backbone`, `dataset`, `teacher`, `task` (or a part of it, such as
            `backbone.depth`) picks by the published field of that name; any other, such as `regularizers` or `loss`, by `method`.
        locate: turns a path of keys inside `spec` into words for the user.

    Raises:
        ConfigError: a name was not published with `where`, no row has such a level or field, no row has a number, two numbers fit a row,
            two rows agree in all levels of `by`, or a field is given twice.
    """
    fields = [spec["by"]] if isinstance(spec["by"], str) else list(spec["by"])
    names = {str(level): name for level, name in (spec.get("names") or {}).items()}
    rows = [_labels(fields, levels, locate) for levels in row_levels]
    published = _candidates(spec["where"], locate)
    picks = _published_fields(fields, spec["where"], locate)
    _check_rows(fields, rows, locate)
    _check_names(names, rows, picks, published, spec["where"], locate)
    wanted = [{pick: names.get(label, label) for pick, label in zip(picks, row, strict=True)} for row in rows]
    fitting = [[each for each in published if all(getattr(each, pick) == name for pick, name in one.items())] for one in wanted]
    for row, several in zip(rows, fitting, strict=True):
        if len(several) > 1:
            raise _ambiguous(several, " · ".join(row), locate)
    if rows and not any(fitting):
        raise _nothing(wanted, published, spec["where"], locate)
    return [each[0] if each else None for each in fitting]


def _candidates(where: Mapping[str, str], locate: Locate) -> list[Published]:
    try:
        return find(where)
    except UnknownNameError as error:
        key = error.name if error.kind == "field" else error.kind
        raise ConfigError(f"{locate(('where', str(key)))}: {error}") from error


def _published_fields(fields: Sequence[str], where: Mapping[str, str], locate: Locate) -> list[str]:
    """The field of published.csv that each field of the rows picks by."""
    result: list[str] = []
    for name in fields:
        head = name.partition(".")[0]
        picks = head if head in FIELDS else "method"
        if picks in where or picks in result:
            other = f"`where` fixes {picks}" if picks in where else f"another field of `by` picks by {picks}"
            raise ConfigError(f"{locate(('by',))}: {name} picks published numbers by their {picks}, but {other}. Take one of the two away.")
        result.append(picks)
    return result


def _labels(fields: Sequence[str], levels: Mapping[str, Any], locate: Locate) -> tuple[str, ...]:
    for name in fields:
        if name not in levels:
            raise UnknownNameError("row field", name, levels, where=locate(("by",)))
    return tuple(level_label(levels[name]) for name in fields)


def _check_rows(fields: Sequence[str], rows: Sequence[tuple[str, ...]], locate: Locate) -> None:
    for row in rows:
        if rows.count(row) > 1:
            raise ConfigError(
                f"{locate(('by',))}: {', '.join(fields)} cannot tell rows apart: {rows.count(row)} rows are {' · '.join(row)}. "
                "Name in `by` every field by which the rows differ."
            )


def _check_names(
    names: Mapping[str, str],
    rows: Sequence[tuple[str, ...]],
    picks: Sequence[str],
    published: Sequence[Published],
    where: Mapping[str, str],
    locate: Locate,
) -> None:
    """Each level of `names` is that of a row, and its name was published."""
    for level, name in names.items():
        place = locate(("names", level))
        fields = [pick for index, pick in enumerate(picks) if any(row[index] == level for row in rows)]
        if not fields:
            levels = {label for row in rows for label in row}
            raise UnknownNameError("level", level, levels, where=place, next_step="`names` reads level of a row: name in the source.")
        for pick in fields:
            if name not in {getattr(each, pick) for each in published}:
                raise ConfigError(f"{place}: {unknown(pick, name, published, where)}")


def _nothing(wanted: Sequence[Mapping[str, str]], published: Sequence[Published], where: Mapping[str, str], locate: Locate) -> ConfigError:
    """No row has a number: what was looked for, what there is, and how the nearest is written."""
    looked, there, hints = [], [], []
    example: dict[str, str] = {}
    for pick in wanted[0]:
        labels = list(dict.fromkeys(each[pick] for each in wanted))
        known = sorted({getattr(each, pick) for each in published})
        looked.append(f"{pick} {_some(map(repr, labels))}")
        there.append(f"{pick} {_some(repr(each) for each in _nearest_first(labels[0], known))}")
        written = {label: name for label in labels for name in known if bare(label) == bare(name) and label != name}
        example |= written
        hints += [did_you_mean(label, known) for label in labels[:1] if not written and label not in known]
    shown = next(iter(example.items()), ("our level", "their name"))
    return ConfigError(
        f"{locate(('by',))}: no row has a published number. Looked for {' with '.join(looked)}; "
        f"published{_with(where)}: {'; '.join(there)}.{''.join(hints)} Say under `names` what the source calls the levels, "
        f"e.g. names: {{{shown[0]}: {shown[1]}}}, or take the column away."
    )


def _ambiguous(fitting: Sequence[Published], row: str, locate: Locate) -> ConfigError:
    differing = {name: sorted({getattr(each, name) for each in fitting}) for name in FIELDS}
    differing = {name: words for name, words in differing.items() if len(words) > 1}
    listed = "; ".join(f"{name} ({_some(each or repr('') for each in words)})" for name, words in differing.items())
    example, left = [], list(fitting)
    for name in differing:
        narrower = [each for each in left if getattr(each, name) == getattr(fitting[0], name)]
        if len(narrower) < len(left):
            example.append(f"{name}: {getattr(fitting[0], name) or repr('')}")
            left = narrower
    return ConfigError(
        f"{locate(('where',))}: {len(fitting)} published numbers fit row {row!r}. They differ in {listed}. "
        f"Add to `where` what tells them apart, e.g. {', '.join(example)}."
    )


def _nearest_first(name: str, known: Sequence[str]) -> list[str]:
    return sorted(known, key=lambda each: -difflib.SequenceMatcher(None, bare(name), bare(each)).ratio())


def _some(names: Iterable[str]) -> str:
    """All names, or the first of many."""
    listed = list(names)
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return ", ".join(listed[:_MOST]) + more


def _with(where: Mapping[str, str]) -> str:
    return " with " + ", ".join(f"{name} {word!r}" for name, word in where.items()) if where else ""
