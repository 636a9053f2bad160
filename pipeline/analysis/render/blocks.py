"""Columns of a table that is wider than the page, in blocks below each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")


def in_blocks(columns: Sequence[T], group: Callable[[T], str], fits: Callable[[Sequence[T]], bool]) -> list[list[T]]:
    """`columns` in their order, as few blocks as fit; columns of one group part only where a block cannot hold them all.

    Args:
        group: the heading that a column shares with its neighbours; '' for none.
        fits: whether columns fit side by side. A block has at least one column, even if that does not.
    """
    blocks: list[list[T]] = [[]]
    for name, members in groupby(columns, key=group):
        together = list(members)
        for part in [together] if name and fits(together) else [[column] for column in together]:
            if blocks[-1] and not fits([*blocks[-1], *part]):
                blocks.append([])
            blocks[-1] += part
    return blocks
