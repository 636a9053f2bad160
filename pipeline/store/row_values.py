"""Python values of Arrow columns, for rows of wide tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.bare_arrays import numpy_of


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
    at_N = numpy_of(encoded.indices).copy()
    at_N[_nulls(column)] = len(known) - 1
    return [known[at] for at in at_N.tolist()]


def _numbers(column: pa.ChunkedArray) -> list[Any]:
    values = numpy_of(column).tolist()
    for at in _nulls(column):
        values[at] = None
    return list(values)


def _nulls(column: pa.ChunkedArray) -> np.ndarray:
    """Where a column is null."""
    return numpy_of(pc.indices_nonzero(pc.is_null(column))) if column.null_count else np.empty(0, np.uint64)
