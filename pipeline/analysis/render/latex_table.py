r"""A table as a LaTeX `table` environment for pdflatex with the packages booktabs and siunitx (2 or 3).

A number stands in an S column, aligned by its decimal point; so does the spread behind its ±, and daggers and footnote marks have a column
of their own. One S column for all of it would be shorter to read, but neither version of siunitx aligns bold numbers with an uncertainty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from pipeline.analysis.layout import DAGGER, MISSING, Column, Entry, Grid, Line, lay_out
from pipeline.analysis.render.blocks import in_blocks
from pipeline.analysis.render.latex_text import escape, width_em, word_parts
from pipeline.analysis.tables import TableResult

_NUMBER = re.compile(r"(?P<below>< )?(?P<sign>[+-]?)(?P<whole>\d+)(?:\.(?P<decimals>\d+))?")
_DIGIT_EM, _SIGN_EM, _POINT_EM, _THIN_EM, _MARK_EM = 0.5, 0.78, 0.28, 0.17, 0.4
_PADDING_EM = 0.56  # a digit and its share of the space between thousands
_BOLD = 1.15  # bold digits are that much wider
_LABEL_EM, _HEADING_EM = 14.0, 4.0  # row labels and headings narrower than this are not broken
_LONG_WORD = 25  # letters
_PAGE_PT, _PAGE_HEIGHT_PT = 345.0, 530.0  # \linewidth of a one-column article in 10 pt, and \textheight less the space around floats
_LEAST_HEIGHT_PT = 150.0  # of a piece of a table, however long its caption and notes are


@dataclass(frozen=True)
class _Size:
    """How large a table is set.

    Attributes:
        em_pt, line_pt: width of an em and distance of lines.
        gap_pt: space at either side of a column.
        broken: whether long texts are broken.
    """

    command: str
    em_pt: float
    line_pt: float
    gap_pt: float
    broken: bool


_SIZES = (
    _Size("", 10.0, 12.0, 6, broken=False),
    _Size("", 10.0, 12.0, 6, broken=True),
    _Size(r"\small", 9.25, 11.0, 4, broken=True),
    _Size(r"\footnotesize", 8.5, 9.5, 3, broken=True),
)


@dataclass(frozen=True)
class _Format:
    """Room that the numbers of one S column need."""

    sign: bool
    whole: int
    decimals: int

    def text(self, padding: int = 0) -> str:
        """'+2.2': what siunitx calls the format."""
        return f"{'+' * self.sign}{self.whole + padding}" + (f".{self.decimals}" if self.decimals else "")

    @property
    def em(self) -> float:
        return self.sign * _SIGN_EM + (self.whole + self.decimals) * _DIGIT_EM + bool(self.decimals) * _POINT_EM


@dataclass(frozen=True)
class _Slot:
    """A column of the grid, set as one to four columns: the number, ± and the spread, marks."""

    column: Column
    entries: tuple[Entry, ...]
    size: _Size

    @cached_property
    def number(self) -> _Format:
        return _format(entry.number for entry in self.entries)

    @cached_property
    def spread(self) -> _Format | None:
        return _format(entry.spread for entry in self.entries) if any(entry.spread for entry in self.entries) else None

    @cached_property
    def marks_em(self) -> float:
        return max((_MARK_EM * len(",".join(_marks(entry))) for entry in self.entries), default=0.0)

    @cached_property
    def numbers_em(self) -> float:
        """Width of what stands below the heading."""
        spread = 2 * _THIN_EM + _SIGN_EM + self.spread.em if self.spread else 0.0
        bold = _BOLD if any(entry.best for entry in self.entries) else 1.0
        return max((self.number.em + spread) * bold, *(width_em(e.number) for e in self.entries if not _NUMBER.fullmatch(e.number)), 0.0)

    @cached_property
    def heading_em(self) -> float:
        """Width of the heading; a broken one is as wide as the numbers or its longest word."""
        whole = width_em(self.column.label)
        if not self.size.broken:
            return whole
        return min(whole, max(self.numbers_em, _HEADING_EM, _longest_part(self.column.label)))

    @cached_property
    def padding(self) -> int:
        """Digits of room left of the numbers that bring them under the middle of a wider heading; only needed before a ±."""
        return math.floor(max(0.0, self.heading_em - self.numbers_em) / 2 / _PADDING_EM) if self.spread else 0

    @cached_property
    def tail(self) -> bool:
        """Whether a column of marks follows; it also takes what a wider heading leaves free at the right."""
        return self.marks_em > 0 or (self.spread is not None and self.heading_em > self.numbers_em)

    @property
    def span(self) -> int:
        return 1 + 2 * (self.spread is not None) + self.tail

    @property
    def width_pt(self) -> float:
        return max(self.numbers_em + self.marks_em, self.heading_em) * self.size.em_pt + 2 * self.size.gap_pt

    @property
    def preamble(self) -> str:
        number = f"S[table-format={self.number.text(self.padding)}]"
        spread = rf"@{{\,}}c@{{\,}}S[table-format={self.spread.text()}]" if self.spread else ""
        return number + spread + ("@{}l" if self.tail else "")

    def heading(self) -> str:
        """The label over all of the slot, in lines where it has to be."""
        return self.across(_heading(self.column.label, self.heading_em))

    def across(self, text: str) -> str:
        """`text`, centred over all columns of the slot; the braces keep siunitx from reading it as a number."""
        return rf"\multicolumn{{{self.span}}}{{c}}{{{text}}}" if self.span > 1 else f"{{{text}}}"

    def cell(self, entry: Entry) -> str:
        """What stands in one line of the table."""
        marks = _superscript(_marks(entry))
        number = _NUMBER.fullmatch(entry.number)
        if not entry.number:
            return " & " * (self.span - 1)
        if number is None or len(number["decimals"] or "") != self.number.decimals:
            return self.across((MISSING if entry.number == MISSING else escape(entry.number)) + marks)
        weight = r"\bfseries " if entry.best else ""
        below = r"{\llap{$<$\,}} " if number["below"] else ""
        texts = [below + weight + entry.number.removeprefix("< ")]
        if self.spread is not None:
            texts += [r"$\pm$", weight + entry.spread] if entry.spread else ["", ""]
        return " & ".join(texts + [marks] * self.tail)


@dataclass(frozen=True)
class _Piece:
    """The part of a table that one tabular holds: some columns, and the lines from `start` to before `stop`."""

    slots: tuple[_Slot, ...]
    start: int
    stop: int
    comments: bool


def render_latex(result: TableResult) -> str:
    """booktabs table; each row is followed by comments with the trial ids behind its cells.

    A table that would be wider than the page is set with broken headings, then smaller, and at last in several blocks below each other
    that repeat the row labels. One that would be higher goes on in further floats under the same number.
    """
    grid = lay_out(result)
    size, pages = _pages(grid)
    labels_em = _labels_em(grid, size)
    broken = size.broken and labels_em >= _LABEL_EM
    texts = []
    for i, pieces in enumerate(pages):
        lines = [r"\begin{table}", r"\centering\sloppy", r"\sisetup{detect-weight, retain-explicit-plus}"]
        lines += [f"{size.command}\\setlength{{\\tabcolsep}}{{{size.gap_pt:g}pt}}"] if size.command else []
        lines += [r"\setlength{\belowcaptionskip}{6pt}", *(_caption(grid) if i == 0 else _continued_caption(grid))]
        for j, piece in enumerate(pieces):
            lines += ([r"\par\medskip"] if j else []) + _tabular(grid, piece, labels_em, broken=broken)
        lines += _notes(grid) if i == len(pages) - 1 else []
        texts += [*lines, r"\end{table}"]
    return "\n".join([r"% needs \usepackage{booktabs} and \usepackage{siunitx} (2 or 3)", *texts]) + "\n"


def _caption(grid: Grid) -> list[str]:
    return [
        rf"\caption[{{{escape(grid.title)}}}]{{\textbf{{{escape(grid.heading)}}} {_prose(grid.caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', grid.name)}}}",
    ]


def _continued_caption(grid: Grid) -> list[str]:
    return [
        r"\addtocounter{table}{-1}",
        rf"\caption[{{{escape(grid.title)} (continued)}}]{{\textbf{{{escape(grid.heading)}}} (Continued.)}}",
    ]


def _pages(grid: Grid) -> tuple[_Size, list[list[_Piece]]]:
    """The size of the table, and the pieces of each float."""
    size, blocks = _fit(grid)
    caption_pt = 12.0 * math.ceil(10.0 * width_em(grid.heading + grid.caption) / _PAGE_PT) + 20.0
    notes_pt = sum(9.5 * math.ceil(8.5 * (2.0 + width_em(text)) / _PAGE_PT) for _, text in grid.notes)
    room = max(_PAGE_HEIGHT_PT - caption_pt - notes_pt, _LEAST_HEIGHT_PT)
    labels_em = _labels_em(grid, size)
    heights_pt = [size.line_pt * math.ceil(width_em(_label(line)) / labels_em) for line in grid.lines]
    pages: list[list[_Piece]] = [[]]
    used = 0.0
    for i, slots in enumerate(blocks):
        head_pt = size.line_pt * _head_lines(slots)
        for start, stop, height in _chunks(grid, heights_pt, room - head_pt):
            if pages[-1] and used + head_pt + height > room:
                pages.append([])
                used = 0.0
            pages[-1].append(_Piece(tuple(slots), start, stop, comments=i == 0))
            used += head_pt + height
    return size, pages


def _head_lines(slots: Sequence[_Slot]) -> float:
    """About the height of the headings and of the rules and the space around a tabular, in lines."""
    broken = max((math.ceil(width_em(slot.column.label) / max(slot.heading_em, 1.0)) for slot in slots), default=1)
    return broken + 1.5 * any(slot.column.group for slot in slots) + 3.0


def _chunks(grid: Grid, heights_pt: Sequence[float], room_pt: float) -> Iterator[tuple[int, int, float]]:
    """The lines of the table in runs of at most `room_pt`: the first, the one behind the last, height. A run repeats its group's name."""
    start, height = 0, 0.0
    for i, line in enumerate(grid.lines):
        heading = 1.5 * max(heights_pt) if line.group else 0.0
        named = i > start and grid.lines[i - 1].group == line.group
        added = heights_pt[i] + (0.0 if named else heading)
        if i > start and height + added > room_pt:
            yield start, i, height
            start, height, added = i, 0.0, heights_pt[i] + heading
        height += added
    yield start, len(grid.lines), height


def _fit(grid: Grid) -> tuple[_Size, list[list[_Slot]]]:
    """The largest size at which the table fits the page; at the smallest one in as many blocks as it takes."""
    for size in _SIZES:
        blocks = _blocks(grid, size)
        if len(blocks) == 1:
            break
    return size, blocks


def _blocks(grid: Grid, size: _Size) -> list[list[_Slot]]:
    """The columns, split so that each block fits the page beside the row labels."""
    room = _PAGE_PT - _labels_em(grid, size) * size.em_pt - 2 * size.gap_pt
    slots = [_Slot(column, tuple(line.entries[i] for line in grid.lines), size) for i, column in enumerate(grid.columns)]
    return in_blocks(slots, lambda slot: slot.column.group, lambda block: sum(slot.width_pt for slot in block) <= room)


def _labels_em(grid: Grid, size: _Size) -> float:
    labels = [grid.corner, *(_label(line) for line in grid.lines)]
    indent = 1.0 if any(line.group for line in grid.lines) else 0.0
    whole = indent + max(1.0, *map(width_em, labels))
    return min(whole, max(_LABEL_EM, indent + max(map(_longest_part, labels)))) if size.broken else whole


def _tabular(grid: Grid, piece: _Piece, labels_em: float, *, broken: bool) -> list[str]:
    slots = piece.slots
    labels = rf">{{\raggedright}}p{{{labels_em + 0.1:.1f}em}}" if broken else "l"
    lines = [
        rf"\begin{{tabular}}{{{labels}{''.join(slot.preamble for slot in slots)}}}",
        r"\toprule",
        *_group_headings(slots),
        _row(escape(grid.corner, breakable=broken), [slot.heading() for slot in slots]),
        r"\midrule",
    ]
    for i in range(piece.start, piece.stop):
        line, above = grid.lines[i], grid.lines[i - 1] if i > piece.start else None
        if line.kind != "row" and above is not None and above.kind == "row":
            lines.append(r"\midrule")
        if line.group and (above is None or above.group != line.group):
            lines += [r"\addlinespace"] if above is not None else []
            lines.append(rf"\multicolumn{{{1 + sum(slot.span for slot in slots)}}}{{l}}{{{escape(line.group)}}} \\")
        label = (r"\quad " if line.group else "") + escape(_label(line), breakable=broken)
        lines.append(_row(label, [slot.cell(slot.entries[i]) for slot in slots]))
        lines += [f"% {comment}" for comment in line.comment if piece.comments]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _group_headings(slots: Sequence[_Slot]) -> list[str]:
    """A line with the headings of grouped columns, and rules below them."""
    if not any(slot.column.group for slot in slots):
        return []
    first, headings, rules = 2, [], []
    for group, grouped in groupby(slots, key=lambda slot: slot.column.group):
        members = list(grouped)
        span, size = sum(slot.span for slot in members), members[0].size
        room_em = (sum(slot.width_pt for slot in members) - 2 * size.gap_pt) / size.em_pt
        headings.append(rf"\multicolumn{{{span}}}{{c}}{{{_heading(group, max(room_em, _longest_part(group)))}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + span - 1}}}"] if group else []
        first += span
    return [_row("", headings), *rules]


def _heading(text: str, room_em: float) -> str:
    """`text` in one line where it has room, else broken and centred."""
    if width_em(text) <= room_em:
        return escape(text)
    return rf"\parbox[b]{{{room_em + 0.1:.1f}em}}{{\centering {escape(text, breakable=True)}}}"


def _notes(grid: Grid) -> list[str]:
    if not grid.notes:
        return []
    notes = [rf"{_superscript([mark])}~{_prose(text)}\par" for mark, text in grid.notes]
    return [r"\par\smallskip", r"\begin{minipage}{\linewidth}", r"\raggedright\footnotesize", *notes, r"\end{minipage}"]


def _row(label: str, cells: Iterable[str]) -> str:
    # A row that starts with a bracket or a star would be read as an argument of the \\ before it.
    label = f"{{}}{label}" if label.startswith(("[", "*")) else label
    return " & ".join([label, *cells]) + r" \\"


def _label(line: Line) -> str:
    return line.short if line.group else line.label


def _marks(entry: Entry) -> tuple[str, ...]:
    return (*([DAGGER] if entry.significant else []), *entry.marks)


def _superscript(marks: Sequence[str]) -> str:
    return rf"\textsuperscript{{{','.join(marks).replace(DAGGER, chr(92) + 'dag')}}}" if marks else ""


def _format(numbers: Iterable[str]) -> _Format:
    """The least format that holds all numbers with as many decimals as the first; others, such as ranks, are not aligned with them."""
    found = [match for number in numbers if (match := _NUMBER.fullmatch(number))]
    decimals = len(found[0]["decimals"] or "") if found else 0
    fitting = [match for match in found if len(match["decimals"] or "") == decimals]
    return _Format(
        sign=any(match["sign"] for match in fitting),
        whole=max((len(match["whole"]) for match in fitting), default=1),
        decimals=decimals,
    )


def _longest_part(text: str) -> float:
    return max((width_em(part.rstrip()) for part in word_parts(text)), default=0.0)


def _prose(text: str) -> str:
    """Running text, in which only words too long for a line may be broken."""
    return " ".join(escape(word, breakable=len(word) > _LONG_WORD) for word in text.split(" "))
