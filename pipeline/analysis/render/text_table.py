"""A table as plain text for a terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from pipeline.analysis.layout import Entry, Grid, lay_out
from pipeline.analysis.tables import TableResult

_GAP = "  "


def render_text(result: TableResult, *, width: int = 100) -> str:
    """Title, caption, aligned columns (the best value of a group carries a `*`), footnotes.

    Columns that do not fit `width` characters go below in a further block that repeats the row labels; no text is cut.
    """
    grid = lay_out(result, best="*")
    text = f"{grid.heading} {grid.caption}"
    blocks = ["\n".join(_block(grid, columns)) for columns in _fit(grid, width)]
    notes = [textwrap.fill(f"{mark}  {note}", width, subsequent_indent="   ") for mark, note in grid.notes]
    return "\n\n".join(["\n".join(textwrap.wrap(text, width)), *blocks, *(["\n".join(notes)] if notes else [])]) + "\n"


def _columns(grid: Grid) -> list[list[str]]:
    """All columns as texts of one width each, the row labels first; the header is the first text of each."""
    labels = [grid.corner, *(line.label for line in grid.lines)]
    return [
        _justify(labels, left=True),
        *(_entries(header, [line.entries[i] for line in grid.lines]) for i, header in enumerate(grid.headers)),
    ]


def _entries(header: str, entries: Sequence[Entry]) -> list[str]:
    # Star and footnote marks stand in a column of their own, so that numbers stay aligned.
    suffixes = ["", *(("*" if entry.best else "") + (f"[{','.join(entry.marks)}]" if entry.marks else "") for entry in entries)]
    numbers = _justify([header, *(entry.text for entry in entries)], left=False)
    return [number + suffix for number, suffix in zip(numbers, _justify(suffixes, left=True), strict=True)]


def _fit(grid: Grid, width: int) -> Iterator[list[list[str]]]:
    """The columns, split so that each block, with the row labels before it, fits `width`; a block has at least one column."""
    labels, *columns = _columns(grid)
    block = [labels]
    for column in columns:
        if len(block) > 1 and sum(_width(each[0]) + len(_GAP) for each in block) + _width(column[0]) > width:
            yield block
            block = [labels]
        block.append(column)
    yield block


def _block(grid: Grid, columns: Sequence[Sequence[str]]) -> list[str]:
    lines = [_GAP.join(row).rstrip() for row in zip(*columns, strict=True)]
    rule = "-" * max(map(_width, lines))
    if grid.lines and grid.lines[-1].average:
        return [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    return [lines[0], rule, *lines[1:]]


def _justify(texts: Sequence[str], *, left: bool) -> list[str]:
    width = max(map(_width, texts))
    blanks = [" " * (width - _width(text)) for text in texts]
    return [text + blank if left else blank + text for text, blank in zip(texts, blanks, strict=True)]


def _width(text: str) -> int:
    """Terminal cells: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
