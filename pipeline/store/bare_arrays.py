"""Numbers between Arrow and numpy without pandas, which Arrow's own conversions import where it is installed: most of a second."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def numpy_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The numbers of a column; where it is null, any number."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    bare = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    return np.asarray(np.from_dlpack(bare))


def int32_array(number_N: np.ndarray) -> pa.Array:
    """Whole numbers as an Arrow array."""
    return pa.Array.from_buffers(pa.int32(), len(number_N), [None, pa.py_buffer(number_N.astype(np.int32))])
