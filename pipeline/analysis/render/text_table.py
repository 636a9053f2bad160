"""A table as plain text for a terminal."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from pipeline.analysis.layout import DAGGER, Entry, Grid, lay_out
from pipeline.analysis.render.blocks import in_blocks
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import wrap

_GAP = "  "
_INDENT = "  "
_NARROWEST = 16  # a heading is not broken into lines shorter than this, unless the terminal is narrower still


@dataclass(frozen=True)
class _Column:
    """One column as texts of one width.

    Attributes:
        group: heading above it and its neighbours; '' for none.
        heading: lines of its own heading.
        cells: one text a line of the table.
    """

    group: str
    heading: Sequence[str]
    cells: Sequence[str]

    @cached_property
    def width(self) -> int:
        return _widest([*self.heading, *self.cells])


def render_text(result: TableResult, *, width: int = 100) -> str:
    """Title, caption, aligned columns (`*`: best of a group, `†`: significant), footnotes.

    Where the table is wider than `width` characters, long headings are broken, and columns that still do not fit go below in a further
    block that repeats the row labels; no text is cut.
    """
    grid = lay_out(result, best="*")
    text = f"{grid.heading} {grid.caption}"
    labels, blocks_of_columns = _fit(grid, width)
    blocks = ["\n".join(_block(grid, labels, columns, width)) for columns in blocks_of_columns]
    notes = [textwrap.fill(f"{mark}  {note}", width, subsequent_indent="   ", break_on_hyphens=False) for mark, note in grid.notes]
    return "\n\n".join(["\n".join(textwrap.wrap(text, width)), *blocks, *(["\n".join(notes)] if notes else [])]) + "\n"


def _fit(grid: Grid, width: int) -> tuple[list[list[str]], list[list[_Column]]]:
    """Row labels, and the columns of each block."""
    labels, columns = _labels(grid, width), [_column(grid, i, width) for i in range(len(grid.columns))]
    if _total(labels, columns) > width:
        labels, columns = _labels(grid, width // 2), [_column(grid, i, _NARROWEST) for i in range(len(grid.columns))]
    blocks = in_blocks(columns, lambda column: column.group, lambda block: _total(labels, block) <= width)
    return labels, list(map(_with_room, blocks))


def _total(labels: Sequence[Sequence[str]], columns: Sequence[_Column]) -> int:
    return max(map(_widest, labels)) + sum(len(_GAP) + column.width for column in _with_room(columns))


def _with_room(columns: Sequence[_Column]) -> list[_Column]:
    """The columns, the first of each group as wide as the group's heading, so that it needs not be broken too often."""
    result = list(columns)
    for i, column in enumerate(columns):
        room = _widest(wrap(column.group, _NARROWEST)) - column.width
        if room > 0 and (i == 0 or columns[i - 1].group != column.group):
            blanks = " " * room
            result[i] = _Column(column.group, [blanks + line for line in column.heading], [blanks + cell for cell in column.cells])
    return result


def _labels(grid: Grid, limit: int) -> list[list[str]]:
    """The corner and each row label, in lines of at most `limit` characters."""
    indented = [(_INDENT, line.short) if line.group else ("", line.label) for line in grid.lines]
    rows = [[indent + part for part in wrap(label, limit - len(indent)) or [""]] for indent, label in indented]
    return [wrap(grid.corner, limit), *rows]


def _column(grid: Grid, index: int, limit: int) -> _Column:
    """A column whose heading is broken where it is wider than the numbers and `limit`."""
    entries = [line.entries[index] for line in grid.lines]
    numbers, suffixes = _numbers(entries), _justify([_suffix(entry) for entry in entries], left=True)
    heading = wrap(grid.columns[index].label, max(limit, _widest(numbers)))
    texts = _justify([*heading, *numbers], left=False)
    behind = [" " * _widest(suffixes)] * len(heading) + suffixes
    texts = [text + suffix for text, suffix in zip(texts, behind, strict=True)]
    return _Column(grid.columns[index].group, texts[: len(heading)], texts[len(heading) :])


def _numbers(entries: Sequence[Entry]) -> list[str]:
    """Texts of one width in which ± stands below ±, and so do the points of numbers with as many decimals."""
    numbers = _justify([entry.number if _is_number(entry) else "" for entry in entries], left=False)
    spread_width = _widest([entry.spread for entry in entries])
    spreads = _justify([f" ± {entry.spread:>{spread_width}}" if entry.spread else "" for entry in entries], left=True)
    aligned = zip(entries, numbers, spreads, strict=True)
    return _justify([number + spread if _is_number(entry) else entry.number for entry, number, spread in aligned], left=False)


def _is_number(entry: Entry) -> bool:
    return entry.number[-1:].isdigit()


def _suffix(entry: Entry) -> str:
    """Star, dagger and footnote marks, in a column of their own, so that numbers stay aligned."""
    return "*" * entry.best + DAGGER * entry.significant + (f"[{','.join(entry.marks)}]" if entry.marks else "")


def _block(grid: Grid, labels: Sequence[Sequence[str]], columns: Sequence[_Column], width: int) -> list[str]:
    """Headings, a rule, the rows below the names of their groups, and behind another rule the closing lines."""
    margin = max(map(_widest, labels))
    header = _group_headings(margin, columns)
    header += _side_by_side([labels[0], *(column.heading for column in columns)], [margin, *(column.width for column in columns)])
    rows: list[str] = []
    closing: list[str] = []
    group = ""
    for i, line in enumerate(grid.lines):
        first, *rest = labels[i + 1]
        texts = [_GAP.join([_padded(first, margin), *(column.cells[i] for column in columns)]).rstrip(), *rest]
        if line.kind != "row":
            closing += texts
            continue
        rows += wrap(line.group, width) if line.group != group else []
        rows += texts
        group = line.group
    rule = ["-" * _widest([*header, *rows, *closing])]
    return [*header, *rule, *rows, *(rule if closing else []), *closing]


def _group_headings(margin: int, columns: Sequence[_Column]) -> list[str]:
    """The headings of grouped columns, each above a rule as wide as its columns."""
    if not any(column.group for column in columns):
        return []
    stacks: list[list[str]] = [[]]
    widths = [margin]
    for group, members in groupby(columns, key=lambda column: column.group):
        widths.append(sum(column.width + len(_GAP) for column in members) - len(_GAP))
        centred = [" " * ((widths[-1] - _width(text)) // 2) + text for text in wrap(group, widths[-1])]
        stacks.append([*centred, "-" * widths[-1]] if group else [])
    return _side_by_side(stacks, widths)


def _side_by_side(stacks: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines of text beside each other, all ending on the last line."""
    height = max(map(len, stacks))
    filled = [[""] * (height - len(stack)) + list(stack) for stack in stacks]
    return [_GAP.join(map(_padded, texts, widths)).rstrip() for texts in zip(*filled, strict=True)]


def _justify(texts: Sequence[str], *, left: bool) -> list[str]:
    width = _widest(texts)
    return [_padded(text, width) if left else " " * (width - _width(text)) + text for text in texts]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _widest(texts: Sequence[str]) -> int:
    return max(map(_width, texts), default=0)


def _width(text: str) -> int:
    """Terminal cells: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
