"""The format-neutral grid of a table: the texts that Markdown, LaTeX, HTML and the terminal all print."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.analysis.metrics import describe
from pipeline.analysis.tables import Average, CellResult, TableResult
from pipeline.analysis.wording import caption, cell_notes, one_line

MISSING = "--"
AVERAGE_LABEL = "mean over rows"


@dataclass(frozen=True)
class Entry:
    """One printed cell.

    Attributes:
        text: the number, '--' for a cell without one, '' where none can be (the baseline's own difference).
        best: to be set in bold.
        marks: footnote marks, in order.
    """

    text: str
    best: bool = False
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One printed row; `average` tells the closing row from the others. `comment` names the trials behind it."""

    label: str
    entries: tuple[Entry, ...]
    average: bool = False
    comment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table as texts: `headers` and every `Line.entries` have one length; `notes` are (mark, text)."""

    name: str
    title: str
    caption: str
    corner: str
    headers: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[tuple[str, str], ...]

    @property
    def heading(self) -> str:
        """The title as a sentence of its own, before the caption."""
        return self.title if self.title.endswith(("?", "!")) else f"{self.title}."


def lay_out(result: TableResult, *, best: str = "Bold") -> Grid:
    """Texts of a table: value columns in their order, then one difference column a compared column; `best` as in `caption`."""
    notes: dict[str, str] = {}  # text -> mark
    compared = [column for column in result.columns if any(cell.column == column and cell.delta for cell in result.cells)]
    lines = []
    for row in result.rows:
        cells = {column: result.cell(row, column) for column in result.columns}
        entries = [_value_entry(result, cell, notes) for cell in cells.values()]
        entries += [_delta_entry(cells[column]) for column in compared]
        comment = tuple(f"{one_line(row)} | {one_line(column)}: {' '.join(c.trial_ids) or 'none'}" for column, c in cells.items() if c)
        lines.append(Line(one_line(row), tuple(entries), comment=comment))
    if result.averages:
        lines.append(_average_line(result.averages, compared))
    return Grid(
        name=result.name,
        title=one_line(result.title).rstrip("."),
        caption=caption(result, best=best),
        corner=one_line(" / ".join(result.row_fields)),
        headers=(*(_header(result, column) for column in result.columns), *(_delta_header(result, column) for column in compared)),
        lines=tuple(lines),
        notes=tuple((mark, text) for text, mark in notes.items()),
    )


def _value_entry(result: TableResult, cell: CellResult | None, notes: dict[str, str]) -> Entry:
    marks = tuple(notes.setdefault(text, _mark(len(notes))) for text in cell_notes(result, cell))
    if cell is None or cell.mean is None:
        return Entry(MISSING, marks=marks)
    return Entry(describe(cell.metric).spread(cell.mean, cell.sd), cell.best, marks)


def _delta_entry(cell: CellResult | Average | None) -> Entry:
    if cell is None or cell.delta is None:
        return Entry("")
    if cell.delta.mean is None:
        return Entry(MISSING)
    return Entry(describe(cell.metric).spread(cell.delta.mean, cell.delta.sd, signed=True))


def _average_line(averages: tuple[Average, ...], compared: list[str]) -> Line:
    by_column = {average.column: average for average in averages}
    entries = [Entry(describe(average.metric).spread(average.mean, average.sd)) for average in averages]
    entries += [_delta_entry(by_column[column]) for column in compared]
    return Line(AVERAGE_LABEL, tuple(entries), average=True)


def _header(result: TableResult, column: str) -> str:
    if result.column_kind == "level":
        return one_line(column)
    units = {describe(cell.metric).unit for cell in result.cells if cell.column == column} - {""}
    return one_line(column) + (f" ({units.pop()})" if len(units) == 1 else "")


def _delta_header(result: TableResult, column: str) -> str:
    deltas = [cell.delta for cell in result.cells if cell.column == column and cell.delta]
    bases = {delta.baseline_column for delta in deltas}
    if bases == {column}:  # the arms are rows
        return f"Δ {one_line(column)} vs {one_line(deltas[0].baseline_row)}"
    return f"Δ {one_line(column)} − {one_line(bases.pop())}"


def _mark(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters
