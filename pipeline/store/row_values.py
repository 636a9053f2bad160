"""Python values of Arrow columns, for rows of wide tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """The same values as `column.to_pylist()`. Equal texts become one object: the configuration of a cell is held once for all seeds."""
    if pa.types.is_string(column.type):
        return _texts(column)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return _numbers(column)
    return list(column.to_pylist())


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """A dictionary a row, without what is null in it."""
    if not table.num_columns:
        return [{} for _ in range(len(table))]
    names = table.column_names
    rows = zip(*(values_of(column) for column in table.columns), strict=True)
    if not any(column.null_count for column in table.columns):
        return [dict(zip(names, row, strict=True)) for row in rows]
    return [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows]


def _texts(column: pa.ChunkedArray) -> list[Any]:
    encoded = column.combine_chunks().dictionary_encode()
    known = [*encoded.dictionary.to_pylist(), None]
    return [known[at] for at in pc.fill_null(encoded.indices, len(known) - 1).to_numpy().tolist()]


def _numbers(column: pa.ChunkedArray) -> list[Any]:
    if not column.null_count:
        return list(column.to_numpy().tolist())
    values = pc.fill_null(column, 0).to_numpy().tolist()
    for at in np.flatnonzero(pc.is_null(column).to_numpy()):
        values[at] = None
    return list(values)
