"""Numbers between Arrow and numpy, and that reading a store leaves pandas alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.bare_arrays import int32_array, numpy_of
from pipeline.store.records import Record
from pipeline.store.row_values import values_of
from pipeline.store.trial_store import TrialStore

READ = """\
import sys
from pipeline.store.trial_store import TrialStore
store = TrialStore(sys.argv[1])
print(sorted(store.records()), sorted(store.summary(["seed", "reason"])), "pandas" in sys.modules)
"""


@settings(deadline=None)
@given(
    chunks=st.lists(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=8), max_size=4),
    type_=st.sampled_from([pa.int32(), pa.int64(), pa.float64(), pa.string()]),
    start=st.integers(0, 9),
)
def test_values(chunks: list[list[int | None]], type_: pa.DataType, start: int) -> None:
    """A column of any chunks, nulls and offset gives the values that Arrow's own conversion gives."""
    as_text = [[None if value is None else str(value) for value in chunk] for chunk in chunks]
    column = pa.chunked_array(as_text if type_ == pa.string() else chunks, type_).slice(start)
    assert values_of(column) == column.to_pylist()


@settings(deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_there_and_back(numbers: list[int]) -> None:
    """Whole numbers survive the way to Arrow and back."""
    array = int32_array(np.array(numbers, np.int64))
    array.validate(full=True)
    assert array.to_pylist() == numbers
    assert numpy_of(array[1:]).tolist() == numbers[1:]


def test_reading_leaves_pandas_alone(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    """A process that reads records does not import pandas, though it is installed and Arrow's own conversions would."""
    store = TrialStore(tmp_path)
    store.append([make_record("t0"), make_record("t1", "failed", epochs=0)])
    store.append([make_record("t0", reason="again")])
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "['t0', 't1'] ['t0', 't1'] False"
