"""results/*.parquet, curves/*.csv and metrics.json against what plan and store give."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.aggregate import summary_metrics
from pipeline.analysis.collect import Results
from pipeline.analysis.curves import write_curves
from pipeline.analysis.tables import TableResult
from pipeline.analysis.verify.problem import Problem
from pipeline.analysis.verify.tables import MOST, REMEDY, read_text
from pipeline.analysis.verify.texts import changed_values, changes, rounding

_KEYS = ("trial_id", "epoch")  # what a row is called by


def result_problems(results: Results, folder: Path, *, lost: frozenset[str] = frozenset()) -> list[Problem]:
    """What differs in trials.parquet, history.parquet and panels.parquet; rows of the `lost` trials are passed over."""
    problems: list[Problem] = []
    for name, truth in (("trials", results.trials), ("history", results.history), ("panels", results.panels)):
        path = folder / f"{name}.parquet"
        found = list(_parquet_differences(path, truth, lost))
        problems += [Problem("file", path.as_posix(), message) for message in found[:MOST]]
        if len(found) > MOST:
            problems.append(Problem("file", path.as_posix(), f"{len(found) - MOST} more values differ"))
    return problems


def metric_problems(tables: Sequence[TableResult], path: Path) -> list[Problem]:
    """What differs in metrics.json."""
    text = read_text(path)
    if text is None:
        return [Problem("file", path.as_posix(), f"is missing. {REMEDY}")]
    try:
        published = json.loads(text)
    except ValueError as error:
        return [Problem("file", path.as_posix(), f"is not JSON ({error}). {REMEDY}")]
    truth = json.loads(json.dumps(summary_metrics(tables)))
    return [Problem("file", path.as_posix(), f"{where} {message}") for where, message in changed_values(published, truth)]


def curve_problems(document: Mapping[str, Any], results: Results, folder: Path) -> list[Problem]:
    """What differs in `folder/<table>.csv`."""
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        written = {path.name: path for path in write_curves(document, trials=results.trials, history=results.history, folder=Path(scratch))}
        for name, path in written.items():
            truth, published = read_text(path), read_text(folder / name)
            if published is None:
                problems.append(Problem("file", (folder / name).as_posix(), f"is missing. {REMEDY}"))
            elif published != truth:
                found = _curve_differences(published, truth or "")
                problems += [Problem("file", (folder / name).as_posix(), message) for message in found[:MOST]]
    for path in sorted(folder.glob("*")):
        if path.name not in written:
            problems.append(Problem("file", path.as_posix(), "belongs to no table of the plan that has a complete cell"))
    return problems


def _curve_differences(published: str, truth: str) -> list[str]:
    ours, theirs = (list(csv.reader(io.StringIO(text, newline=""))) for text in (truth, published))
    found = []
    if len(ours) == len(theirs) and ours[0] == theirs[0] and all(len(a) == len(b) for a, b in zip(ours, theirs, strict=True)):
        for line, other in zip(ours[1:], theirs[1:], strict=True):
            place = dict(zip(ours[0], line, strict=True))
            where = " / ".join(filter(None, (place["row"], place["column"]))) + f", epoch {place['epoch']}"
            for name, should, is_ in zip(ours[0], line, other, strict=True):
                if should != is_:
                    found.append(f"{where}: {name} is {is_ or 'empty'} but {should or 'empty'} from the store")
    return found or [change.words() for change in changes(published, truth)]


def _parquet_differences(path: Path, truth: pa.Table, lost: frozenset[str]) -> Iterator[str]:
    try:
        published = pq.read_table(path)
    except FileNotFoundError:
        yield f"is missing. {REMEDY}"
        return
    except (pa.ArrowException, OSError) as error:
        yield f"cannot be read ({str(error).rstrip('.')}). {REMEDY}"
        return
    names = [name for name in truth.column_names if name in published.column_names]
    yield from (f"has no column {name}" for name in truth.column_names if name not in names)
    yield from (f"has a column {name} that the store does not give" for name in published.column_names if name not in names)
    keys = [key for key in _KEYS if key in names]
    if "trial_id" not in names:
        return
    if not all(published[key].cast(truth[key].type).equals(truth[key]) for key in keys):
        ours, theirs = ([tuple(row.values()) for row in table.select(keys).to_pylist()] for table in (truth, published))
        if differing := list(_row_differences(keys, ours, theirs, lost)):
            yield from differing
            return
        published, truth = (_without(table, lost) for table in (published, truth))
        if len(published) != len(truth):
            yield f"has {len(published)} rows but {len(truth)} from the store"
            return
    for name in names:
        if published[name].type != truth[name].type:
            yield f"column {name} is of type {published[name].type} but {truth[name].type} from the store"
        elif not published[name].equals(truth[name]):
            yield from _value_differences(name, keys, published, truth)


def _row_differences(keys: list[str], ours: list[Any], theirs: list[Any], lost: frozenset[str]) -> Iterator[str]:
    here, there = set(ours), set(theirs)
    yield from (f"has no row of {_called(keys, row)}" for row in ours if row not in there and row[0] not in lost)
    yield from (
        f"has a row of {_called(keys, row)} that the store does not give" for row in theirs if row not in here and row[0] not in lost
    )
    if here == there:
        yield "has its rows in another order" if sorted(map(str, ours)) == sorted(map(str, theirs)) else "has a row twice"


def _value_differences(name: str, keys: list[str], published: pa.Table, truth: pa.Table) -> Iterator[str]:
    rows = zip(*(truth[key].to_pylist() for key in keys), strict=True)
    for row, is_, should in zip(rows, published[name].to_pylist(), truth[name].to_pylist(), strict=True):
        if is_ != should and not (is_ != is_ and should != should):  # NaN is equal to NaN here
            values = f"is {_short(is_)} but {_short(should)} from the store{rounding(is_, should)}"
            yield f"{_called(keys, row)}: {name} {values}"


def _without(table: pa.Table, trials: frozenset[str]) -> pa.Table:
    return table.filter(pa.compute.invert(pa.compute.is_in(table["trial_id"], value_set=pa.array(sorted(trials), pa.string()))))


def _called(keys: list[str], row: Sequence[Any]) -> str:
    return ", ".join(f"{'trial' if key == 'trial_id' else key} {value}" for key, value in zip(keys, row, strict=True))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
