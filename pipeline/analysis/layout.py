"""The format-neutral grid of a table: the texts that Markdown, LaTeX, HTML and the terminal all print."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from pipeline.analysis.metrics import Metric, describe
from pipeline.analysis.tables import Average, CellResult, Delta, PublishedColumn, TableResult
from pipeline.analysis.wording import caption, cell_notes, metric_heading, one_line, published_note, spread_of

MISSING = "--"
DAGGER = "†"
AVERAGE_LABEL = "mean over rows"
COMPLETE_AVERAGE_LABEL = "mean over complete rows"
RANK_LABEL = "average rank"


@dataclass(frozen=True)
class Entry:
    """One printed cell.

    Attributes:
        number: '93.60', with its sign in a difference; '--' for a cell without one, '' where none can be (the baseline's own difference).
        spread: what stands after ±; '' for none.
        best: to be set in bold.
        significant: to be marked with a dagger.
        marks: footnote marks, in order.
        trial_ids, run_ids: what the number is made of.
    """

    number: str
    spread: str = ""
    best: bool = False
    significant: bool = False
    marks: tuple[str, ...] = ()
    trial_ids: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """'93.60 ± 0.42', with a dagger where it is significant."""
        return self.number + (f" ± {self.spread}" if self.spread else "") + (f" {DAGGER}" if self.significant else "")


@dataclass(frozen=True)
class Column:
    """One printed column.

    Attributes:
        header: what it is, all by itself: 'cam', 'Δ cam − ce', 'accuracy (%), cam'.
        group, label: the two parts of the header where several columns stand under one heading; else `group` is ''.
        kind: 'value', 'delta', 'p' or 'published'.
    """

    header: str
    group: str
    label: str
    kind: str


@dataclass(frozen=True)
class Line:
    """One printed row.

    Attributes:
        label: all of it; `group` and `short` are its two parts where several rows stand under one heading, else `group` is ''.
        kind: 'row', or 'average' or 'rank' for a closing line.
        comment: texts that name the trials behind its numbers.
    """

    label: str
    entries: tuple[Entry, ...]
    group: str = ""
    short: str = ""
    kind: str = "row"
    comment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table as texts: `columns` and every `Line.entries` have one length; `notes` are (mark, text).

    Attributes:
        corner: heading of the row labels; `corner_group` and `corner_short` where rows are grouped.
    """

    name: str
    title: str
    caption: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[tuple[str, str], ...]
    corner_group: str = ""
    corner_short: str = ""

    @property
    def heading(self) -> str:
        """The title as a sentence of its own, before the caption."""
        return self.title if self.title.endswith(("?", "!")) else f"{self.title}."

    @property
    def headers(self) -> tuple[str, ...]:
        """The whole header of each column."""
        return tuple(column.header for column in self.columns)

    @property
    def column_groups(self) -> tuple[tuple[str, int], ...]:
        """(heading, number of columns under it), from left to right; () where no column is grouped."""
        groups = tuple((group, len(list(members))) for group, members in groupby(self.columns, key=lambda column: column.group))
        return groups if any(group for group, _ in groups) else ()

    @property
    def row_groups(self) -> tuple[tuple[str, tuple[Line, ...]], ...]:
        """(heading, its lines), from top to bottom; lines without a group have the heading ''."""
        return tuple((group, tuple(lines)) for group, lines in groupby(self.lines, key=lambda line: line.group))


@dataclass(frozen=True)
class _Source:
    """Where the entries of a column come from: a column of the table under one metric, or published numbers."""

    column: str
    metric: Metric
    kind: str
    published: PublishedColumn | None = None


def lay_out(result: TableResult, *, best: str = "Bold") -> Grid:
    """Texts of a table. Under each metric: value columns in their order, differences to the baseline, published numbers.

    Args:
        best: how the caption calls the way the best values are set off.
    """
    notes: dict[str, str] = {}  # text -> mark
    sources = _sources(result)
    lines = [_row_line(result, i, sources, notes) for i in range(len(result.rows))]
    lines += _closing_lines(result, sources)
    grouped_rows = len(result.row_fields) > 1 and any(len(parts) > 1 for parts in result.row_parts)
    return Grid(
        name=result.name,
        title=one_line(result.title).rstrip("."),
        caption=caption(result, best=best),
        corner=one_line(" / ".join(result.row_fields)),
        columns=tuple(_column(result, source) for source in sources),
        lines=tuple(lines),
        notes=tuple((mark, text) for text, mark in notes.items()),
        corner_group=one_line(result.row_fields[0]) if grouped_rows else "",
        corner_short=one_line(" / ".join(result.row_fields[1:])) if grouped_rows else "",
    )


def _sources(result: TableResult) -> list[_Source]:
    if result.column_kind == "metric":
        metric_of = {cell.column: describe(cell.metric) for cell in result.cells}
        pairs = [(metric_of[column], [column]) for column in result.columns if column in metric_of]
    else:
        pairs = [(describe(metric), list(result.columns)) for metric in result.metrics]
    sources = []
    for metric, columns in pairs:
        sources += [_Source(column, metric, "value") for column in columns]
        compared = [c for c in columns if any((cell := result.cell(row, c, metric.column)) and cell.delta for row in result.rows)]
        for column in compared if result.style["deltas"] else ():
            sources.append(_Source(column, metric, "delta"))
            sources += [_Source(column, metric, "p")] if result.style["p_values"] else []
        sources += [_Source(each.header, metric, "published", each) for each in result.published if each.metric == metric.column]
    return sources


def _column(result: TableResult, source: _Source) -> Column:
    label = {"value": _value_header, "delta": _delta_header, "p": _p_header, "published": _published_header}[source.kind](result, source)
    if result.column_kind == "level" and len(result.metrics) > 1:
        group = metric_heading(source.metric, list(map(describe, result.metrics)))
        return Column(f"{group}, {label}", group, label, source.kind)
    parts = dict(zip(result.columns, result.column_parts, strict=True)).get(source.column, ())
    if source.kind == "value" and len(parts) > 1:
        return Column(label, one_line(parts[0]), one_line(" · ".join(parts[1:])), source.kind)
    return Column(label, "", label, source.kind)


def _value_header(result: TableResult, source: _Source) -> str:
    if result.column_kind == "level":
        return one_line(source.column)
    return one_line(source.column) + (f" ({source.metric.unit})" if source.metric.unit else "")


def _delta_header(result: TableResult, source: _Source) -> str:
    deltas = _deltas(result, source)
    bases = {delta.baseline_column for delta in deltas}
    if bases == {source.column}:  # the arms are rows
        return f"Δ {one_line(source.column)} vs {one_line(deltas[0].baseline_row)}"
    return f"Δ {one_line(source.column)} − {one_line(bases.pop())}"


def _p_header(result: TableResult, source: _Source) -> str:
    return f"p {one_line(source.column)}"


def _published_header(result: TableResult, source: _Source) -> str:
    return f"{one_line(source.column)} (published)"


def _deltas(result: TableResult, source: _Source) -> list[Delta]:
    cells = [result.cell(row, source.column, source.metric.column) for row in result.rows]
    return [cell.delta for cell in cells if cell is not None and cell.delta is not None]


def _row_line(result: TableResult, index: int, sources: list[_Source], notes: dict[str, str]) -> Line:
    row, parts = result.rows[index], result.row_parts[index]
    entries, comment = [], []
    for source in sources:
        if source.published is not None:
            entries.append(_published_entry(result, source, source.published, row, notes))
            continue
        cell = result.cell(row, source.column, source.metric.column)
        if source.kind == "value":
            entries.append(_value_entry(result, source, cell, notes))
            comment += _comments(result, cell) if cell is not None else []
        else:
            entries.append(_delta_entry(result, source, cell) if source.kind == "delta" else _p_entry(cell))
    grouped = len(result.row_fields) > 1 and len(parts) > 1
    group, short = (one_line(parts[0]), one_line(" · ".join(parts[1:]))) if grouped else ("", one_line(row))
    return Line(one_line(row), tuple(entries), group, short, comment=tuple(comment))


def _comments(result: TableResult, cell: CellResult) -> list[str]:
    """The trials behind a cell, and behind its difference to the baseline."""
    metric = f" | {cell.metric}" if result.column_kind == "level" and len(result.metrics) > 1 else ""
    place = f"{one_line(cell.row)} | {one_line(cell.column)}{metric}"
    ids = [*cell.trial_ids, *(f"{gone.trial_id} ({gone.state})" for gone in cell.missing if gone.trial_id)]
    comments = [f"{place}: {' '.join(ids) or 'none'}"]
    if cell.delta is not None and result.style["deltas"]:
        base = f"{one_line(cell.delta.baseline_row)} | {one_line(cell.delta.baseline_column)}"
        comments.append(f"Δ{' and p' * result.style['p_values']} of {place}: these trials and those of {base}")
    return comments


def _value_entry(result: TableResult, source: _Source, cell: CellResult | None, notes: dict[str, str]) -> Entry:
    marks = tuple(notes.setdefault(text, _mark(len(notes))) for text in cell_notes(result, cell))
    if cell is None or cell.mean is None:
        return Entry(MISSING, marks=marks)
    bold = {"group": cell.top, "best": cell.best, "none": False}[result.style["bold"]]
    hidden_delta = not result.style["deltas"] and cell.delta is not None and cell.delta.significant
    number = source.metric.number(cell.mean, decimals=result.style["decimals"])
    return Entry(number, _spread(result, source.metric, cell), bold, hidden_delta, marks, cell.trial_ids, cell.run_ids)


def _delta_entry(result: TableResult, source: _Source, cell: CellResult | Average | None) -> Entry:
    if cell is None or cell.delta is None:
        return Entry("")
    delta = cell.delta
    if delta.mean is None:
        return Entry(MISSING)
    number = source.metric.number(delta.mean, signed=True, decimals=result.style["decimals"])
    return Entry(number, _spread(result, source.metric, delta), significant=delta.significant)


def _p_entry(cell: CellResult | Average | None) -> Entry:
    if cell is None or cell.delta is None:
        return Entry("")
    p = cell.delta.p_holm
    return Entry(MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}")


def _published_entry(result: TableResult, source: _Source, column: PublishedColumn, row: str, notes: dict[str, str]) -> Entry:
    """A number as its source prints it, whatever the digits of the table's own."""
    mark = notes.setdefault(published_note(result, column, row), _mark(len(notes)))
    entry = column.entries[row]
    if entry is None:
        return Entry(MISSING, marks=(mark,))
    spread = entry.spread if result.style["spread"] != "none" else None
    half = "" if spread is None else source.metric.number(spread, decimals=entry.decimals)
    return Entry(source.metric.number(entry.value, decimals=entry.decimals), half, marks=(mark,))


def _spread(result: TableResult, metric: Metric, numbers: CellResult | Average | Delta) -> str:
    value = spread_of(result, numbers)
    return "" if value is None else metric.number(value, decimals=result.style["decimals"])


def _closing_lines(result: TableResult, sources: list[_Source]) -> list[Line]:
    lines = []
    rows = "; ".join(map(one_line, result.complete_rows))
    if result.averages and result.style["averages"]:
        by_place = {(average.column, average.metric): average for average in result.averages}
        entries = [_average_entry(result, source, by_place) for source in sources]
        whole = len(result.complete_rows) == len(result.rows)
        label = AVERAGE_LABEL if whole else COMPLETE_AVERAGE_LABEL
        comment = f"{label}: the trials of the column (Δ: of both columns) in the rows {rows}"
        lines.append(Line(label, tuple(entries), short=AVERAGE_LABEL, kind="average", comment=(comment,)))
    if result.rankings and result.style["ranks"]:
        entries = [_rank_entry(result, source) for source in sources]
        comment = f"{RANK_LABEL}: the trials of all columns in the rows {rows}"
        lines.append(Line(RANK_LABEL, tuple(entries), short=RANK_LABEL, kind="rank", comment=(comment,)))
    return lines


def _average_entry(result: TableResult, source: _Source, by_place: dict[tuple[str, str], Average]) -> Entry:
    average = by_place.get((source.column, source.metric.column))
    if average is None or source.kind in ("p", "published"):
        return Entry("")
    if source.kind == "delta":
        return _delta_entry(result, source, average)
    return Entry(source.metric.number(average.mean, decimals=result.style["decimals"]), _spread(result, source.metric, average))


def _rank_entry(result: TableResult, source: _Source) -> Entry:
    rankings = result.rankings.get(source.metric.column)
    if rankings is None or source.kind != "value":
        return Entry("")
    return Entry(f"{dict(zip(rankings.names, rankings.average_ranks, strict=True))[source.column]:.2f}")


def _mark(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letters = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters
