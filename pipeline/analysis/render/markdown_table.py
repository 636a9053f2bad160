"""A table as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from pipeline.analysis.layout import DAGGER, Entry, Grid, Line, lay_out
from pipeline.analysis.tables import TableResult

# `_` inside a word is literal in CommonMark, so wrn_10_1 stays readable in the source.
_SPECIAL = re.compile(r"[\\`*\[\]#~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Entities instead of backslashes: a pipe must not end the cell whatever stands before it.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}


def render_markdown(result: TableResult) -> str:
    """Caption, pipe table (best values in bold, closing lines in italics), footnotes, a link to the JSON file beside it.

    A pipe table has one header line, so each column has its whole header there; grouped rows have the name of the group in a column of
    its own, on the first line of the group.
    """
    grid = lay_out(result)
    corner = [grid.corner_group, grid.corner_short] if grid.corner_group else [grid.corner]
    lines = [f"**{escape(grid.heading)}** {escape(grid.caption)}", ""]
    lines.append(_row(list(map(escape, [*corner, *grid.headers]))))
    lines.append(_row([":---"] * len(corner) + ["---:"] * len(grid.columns)))
    group = ""
    for line in grid.lines:
        lines.append(_row([*_labels(grid, line, line.group != group), *map(_entry, line.entries)]))
        group = line.group
    lines += _notes(grid)
    lines += ["", f"[Trials behind each number]({grid.name}.json)"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` as literal Markdown, also inside a pipe table."""
    text = _SPECIAL.sub(lambda match: "\\" + match[0], text)
    return "".join(_ENTITIES.get(character, character) for character in text)


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _labels(grid: Grid, line: Line, first: bool) -> list[str]:
    if line.kind != "row":
        return [f"*{escape(line.label)}*", ""] if grid.corner_group else [f"*{escape(line.label)}*"]
    return [escape(line.group) if first else "", escape(line.short)] if grid.corner_group else [escape(line.label)]


def _entry(entry: Entry) -> str:
    text = escape(entry.number) + (f" ± {entry.spread}" if entry.spread else "")
    text = f"**{text}**" if entry.best else text
    text += f" {DAGGER}" if entry.significant else ""
    return text + (f" <sup>{','.join(entry.marks)}</sup>" if entry.marks else "")


def _notes(grid: Grid) -> list[str]:
    return ["", *(f"<sup>{mark}</sup> {escape(text)}  " for mark, text in grid.notes)] if grid.notes else []
