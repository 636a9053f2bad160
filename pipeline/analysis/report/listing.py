"""A plain table of texts, as the report shows many: statistics, published numbers, failures, provenance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A text that leads somewhere."""

    text: str
    href: str


@dataclass(frozen=True)
class Listing:
    """Rows of texts under headings; the first cell of a row heads it.

    Attributes:
        title: the caption.
        headers: one a column.
        rows: cells of one length; a tuple of links is printed one after the other.
        texts: number of leading columns of words; those after them hold numbers and are set to the right.
        ids: of the rows, where links lead to them.
        note: what a reader must know of the numbers.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str | Link | tuple[Link, ...], ...], ...]
    texts: int
    ids: tuple[str, ...] = ()
    note: str = ""
