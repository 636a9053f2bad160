"""The files of tables/ against the tables that plan and store give."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.analysis.metrics import describe
from pipeline.analysis.render.csv_table import render_csv
from pipeline.analysis.render.json_table import render_json
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.verify.attribution import Attribution
from pipeline.analysis.verify.problem import Problem
from pipeline.analysis.verify.texts import Change, changed_tokens, changed_values, changes
from pipeline.analysis.wording import file_stem, one_line

REMEDY = "Write it anew with `dvc repro -f aggregate`"
MOST = 20  # lines of one file that are told one by one
_FIELDS = 4  # of a cell that are told one by one
_VALUES = 6  # of the rest of a JSON file
_CORE = ("n", "mean", "sd", "delta_mean", "trial_ids")  # of a cell, in every version

Place = tuple[str, str, str]  # row, column, metric


class Findings:
    """Problems of one table: those of a cell in several formats become one.

    Attributes:
        result: the table that plan and store give.
        other_version: whether another version of the code published it, so that only its core can be compared.
    """

    def __init__(self, result: TableResult) -> None:
        self.other_version = False
        self.result = result
        self._several = result.column_kind == "level" and len(result.metrics) > 1
        self._cells: dict[Place, dict[str, list[str]]] = {}  # place -> format -> messages
        self._others: list[Problem] = []

    def cell(self, place: Place, suffix: str, message: str) -> None:
        """A cell is wrong in a format."""
        told = self._cells.setdefault(place, {}).setdefault(suffix, [])
        if message not in told:
            told.append(message)

    def file(self, path: Path, message: str, kind: str = "file") -> None:
        """Something else is wrong in a file."""
        self._others.append(Problem(kind, path.as_posix(), message))

    def line(self, path: Path, suffix: str, change: Change, attribution: Attribution) -> None:
        """A line of a rendering is wrong: in the cells that it speaks of there, or as a whole."""
        told = False
        if change.published is not None and change.truth is not None:
            for token in changed_tokens(change.published, change.truth):
                if (cell := attribution.cell(change.at, token)) is not None:
                    self.cell(place_of(cell), suffix, change.words())
                    told = True
        if not told:
            self.file(path, change.words())

    def problems(self) -> list[Problem]:
        """All of them, cells first; what a cell says of JSON goes before what it says of other formats, as that has all digits."""
        found = []
        for (row, column, metric), formats in self._cells.items():
            name = f"{self.result.name}: {one_line(row)} / {one_line(column)}"
            name += f", {describe(metric).words}" if self._several else ""
            best = formats.get("json") or next(iter(formats.values()))
            more = [f"{len(best) - _FIELDS} more fields differ"] if len(best) > _FIELDS else []
            found.append(Problem("cell", f"{name} [{', '.join(formats)}]", "; ".join(best[:_FIELDS] + more)))
        return found + self._others


def place_of(cell: CellResult) -> Place:
    """What tells a cell from the others of its table."""
    return cell.row, cell.column, cell.metric


def check_tables(findings: Sequence[Findings], folder: Path) -> list[Problem]:
    """Compare `folder/<table>.{json,csv,md,tex,html}` to the byte with the tables of `findings`, which take what differs.

    Returns:
        What is wrong beside that: files of no table.
    """
    expected: set[str] = set()
    for found in findings:
        result, stem = found.result, file_stem(found.result.name)
        expected |= {f"{stem}.{suffix}" for suffix in FORMATS}
        if _check_json(result, folder / f"{stem}.json", found):
            _check_csv(result, folder / f"{stem}.csv", found)
            for suffix in FORMATS:
                if suffix not in ("json", "csv"):
                    _check_text(result, folder / f"{stem}.{suffix}", suffix, found)
    return [
        Problem("file", path.as_posix(), "belongs to no table of the plan. Remove it, or publish anew with `dvc repro`")
        for path in sorted(folder.glob("*"))
        if path.is_file() and path.name not in expected
    ]


def read_text(path: Path) -> str | None:
    """A published text as it is, line ends among it; None where there is no such file. What is no UTF-8 becomes a replacement mark."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _check_json(result: TableResult, path: Path, findings: Findings) -> bool:
    """Compare field by field; False where the file is of an earlier version, whose other formats tell nothing more."""
    text, truth_text = read_text(path), render_json(result)
    if text == truth_text:
        return True
    if text is None:
        findings.file(path, f"is missing. {REMEDY}")
        return True
    try:
        document = json.loads(text)
        cells = {(cell["row"], cell["column"], cell["metric"]): cell for cell in document["cells"]}
        doubled = len(cells) != len(document["cells"])
    except (ValueError, TypeError, KeyError) as error:
        findings.file(path, f"is no table ({type(error).__name__}: {error}). {REMEDY}")
        return True
    truth = json.loads(truth_text)
    truths = {(cell["row"], cell["column"], cell["metric"]): cell for cell in truth["cells"]}
    lacking, foreign = _shape(document, truth)
    if lacking or foreign:
        named = ", ".join([*(f"no {key}" for key in lacking), *foreign][:8])
        findings.file(path, f"was written by another version ({named}); so were the other formats of the table. {REMEDY}", "version")
        findings.other_version = True
        for place in filter(cells.__contains__, truths):
            _check_fields(place, {k: cells[place].get(k) for k in _CORE}, {k: truths[place][k] for k in _CORE}, findings)
        return False
    before = len(findings.problems())
    for place, cell in truths.items():
        if place in cells:
            _check_fields(place, cells[place], cell, findings)
        else:
            findings.cell(place, "json", "is missing")
    for place in cells.keys() - truths.keys():
        findings.cell(tuple(map(str, place)), "json", "is no cell of the plan")  # type: ignore[arg-type]
    others = [f"{where} {message}" for where, message in changed_values(_without_cells(document), _without_cells(truth))]
    for message in others[:_VALUES]:
        findings.file(path, message)
    if len(others) > _VALUES:
        findings.file(path, f"{len(others) - _VALUES} more values beside the cells differ")
    if doubled or len(findings.problems()) == before:  # the same values, written otherwise
        for change in list(changes(text, truth_text))[:MOST]:
            findings.file(path, change.words())
    return True


def _without_cells(document: dict[str, Any]) -> dict[str, Any]:
    """A document without its cells, and with its summaries by the name of their column rather than by position."""
    rest = {key: value for key, value in document.items() if key != "cells"}
    for key in ("averages", "versus"):
        with contextlib.suppress(TypeError, KeyError):
            named = {f"{entry['column']}, {entry['metric']}": entry for entry in rest[key]}
            rest[key] = named if len(named) == len(rest[key]) else rest[key]
    return rest


def _shape(document: dict[str, Any], truth: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Keys that the whole document or all of its cells lack, and those that all have and should not: marks of another version."""
    cells = document["cells"]
    known = set(truth["cells"][0]) if truth["cells"] else set()
    if not cells or not known:
        return [], []
    anywhere, everywhere = set().union(*cells), set(cells[0]).intersection(*cells)
    lacking = [key for key in truth["cells"][0] if key not in anywhere] + [key for key in truth if key not in document]
    return lacking, sorted((everywhere - known) | (document.keys() - truth.keys()))


def _check_fields(place: Place, published: dict[str, Any], truth: dict[str, Any], findings: Findings) -> None:
    for field, message in changed_values(published, truth):
        findings.cell(place, "json", f"{field} {message}")


def _check_csv(result: TableResult, path: Path, findings: Findings) -> None:
    text, truth_text = read_text(path), render_csv(result)
    if text is None or text == truth_text:
        if text is None:
            findings.file(path, f"is missing. {REMEDY}")
        return
    published, truth = _rows(text), _rows(truth_text)
    header = truth[0]
    found = False
    if len(published) == len(truth) and published[0] == header and all(len(row) == len(header) for row in published):
        for cell, line, wanted in zip(result.cells, published[1:], truth[1:], strict=True):
            for name, is_, should in zip(header, line, wanted, strict=True):
                if is_ != should:
                    found = True
                    findings.cell(place_of(cell), "csv", f"{name} is {is_ or 'empty'} but {should or 'empty'} from the store")
    if not found:
        _lines(path, list(changes(text, truth_text)), findings)


def _rows(text: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return []


def _check_text(result: TableResult, path: Path, suffix: str, findings: Findings) -> None:
    text, render = read_text(path), FORMATS[suffix]
    if text is None:
        findings.file(path, f"is missing. {REMEDY}")
        return
    truth = render(result)
    if text == truth:
        return
    attribution, found = Attribution(result, render), list(changes(text, truth))
    for change in found[:MOST]:
        findings.line(path, suffix, change, attribution)
    _rest(path, found, findings)


def _lines(path: Path, found: list[Change], findings: Findings) -> None:
    for change in found[:MOST]:
        findings.file(path, change.words())
    _rest(path, found, findings)


def _rest(path: Path, found: list[Change], findings: Findings) -> None:
    if len(found) > MOST:
        findings.file(path, f"{len(found) - MOST} more lines differ")
