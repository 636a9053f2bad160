"""A table as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from pipeline.analysis.layout import Entry, Grid, lay_out
from pipeline.analysis.tables import TableResult

# `_` inside a word is literal in CommonMark, so wrn_10_1 stays readable in the source.
_SPECIAL = re.compile(r"[\\`*\[\]#~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Entities instead of backslashes: a pipe must not end the cell whatever stands before it.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}


def render_markdown(result: TableResult) -> str:
    """Caption, pipe table (best values in bold), footnotes."""
    grid = lay_out(result)
    lines = [f"**{escape(grid.heading)}** {escape(grid.caption)}", ""]
    lines += [_row([escape(grid.corner), *map(escape, grid.headers)]), _row([":---", *["---:"] * len(grid.headers)])]
    lines += [_row([escape(line.label), *map(_entry, line.entries)]) for line in grid.lines]
    lines += _notes(grid)
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` as literal Markdown, also inside a pipe table."""
    text = _SPECIAL.sub(lambda match: "\\" + match[0], text)
    return "".join(_ENTITIES.get(character, character) for character in text)


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _entry(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.best else entry.text
    return text + (f" <sup>{','.join(entry.marks)}</sup>" if entry.marks else "")


def _notes(grid: Grid) -> list[str]:
    return ["", *(f"<sup>{mark}</sup> {escape(text)}  " for mark, text in grid.notes)] if grid.notes else []
