"""Two versions of a file: which lines and which values differ."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-12  # relative difference of a double that another processor's arithmetic may leave
TOKEN = re.compile(r"[^\s<>|&,;{}()\[\]=\"'\\]+")
_SHOWN = 90  # characters of a line that a message quotes


@dataclass(frozen=True)
class Change:
    """A line that differs.

    Attributes:
        number: of the line in the published text, from 1.
        published, truth: the line; None where it is in the other text only.
        lines: of the truth that are missing there, one after the other; `truth` is the first.
        at: index in the lines of the truth of the line, or of the one before which the published line stands.
    """

    number: int
    published: str | None
    truth: str | None
    at: int
    lines: int = 1

    def words(self) -> str:
        """'line 7 is "..." but "..." from the store', cut around what differs."""
        if self.published is None and self.lines > 1:
            return f"{self.lines} lines are missing from line {self.number} on, the first of them {_quoted(self.truth or '', 0)}"
        if self.published is None:
            return f"line {self.number} is missing: {_quoted(self.truth or '', 0)}"
        if self.truth is None:
            return f"line {self.number} should not be there: {_quoted(self.published, 0)}"
        start = _common_prefix(self.published, self.truth)
        return f"line {self.number} is {_quoted(self.published, start)} but {_quoted(self.truth, start)} from the store"


def changes(published: str, truth: str) -> Iterator[Change]:
    """The lines that differ, from top to bottom; lines that are missing one after the other are one change."""
    ours, theirs = truth.split("\n"), published.split("\n")
    head = _common_prefix(ours, theirs)
    tail = _common_prefix(ours[head:][::-1], theirs[head:][::-1])
    left, right = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    blocks: Sequence[tuple[str, int, int, int, int]] = [("replace", 0, len(left), 0, len(right))]
    if len(left) != len(right):
        blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    for tag, i1, i2, j1, j2 in blocks:
        if tag == "equal":
            continue
        both = min(i2 - i1, j2 - j1)
        for i, j in zip(range(i1, i1 + both), range(j1, j1 + both), strict=True):
            if left[i] != right[j]:
                yield Change(head + j + 1, right[j], left[i], head + i)
        for j in range(j1 + both, j2):
            yield Change(head + j + 1, right[j], None, head + i2)
        if i1 + both < i2:
            yield Change(head + j2 + 1, None, left[i1 + both], head + i1 + both, lines=i2 - i1 - both)


def changed_tokens(published: str, truth: str) -> list[int]:
    """Positions among the tokens of `truth` of those that stand otherwise in `published`; the next one where something was put in."""
    ours, theirs = TOKEN.findall(truth), TOKEN.findall(published)
    found: list[int] = []
    for tag, i1, i2, _, _ in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag != "equal" and ours:
            found += range(i1, i2) if i2 > i1 else [min(i1, len(ours) - 1)]
    return found


def changed_values(published: Any, truth: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, 'is X but Y from the store') of the values of two JSON documents that differ; numbers must be equal to the last bit."""
    if isinstance(published, dict) and isinstance(truth, dict):
        for key in dict.fromkeys([*truth, *published]):
            inner = f"{path} / {key}" if path else str(key)
            if key not in published:
                yield inner, "is missing"
            elif key not in truth:
                yield inner, f"is {_short(published[key])} but should not be there"
            else:
                yield from changed_values(published[key], truth[key], inner)
    elif isinstance(published, list) and isinstance(truth, list) and len(published) == len(truth):
        for i, (a, b) in enumerate(zip(published, truth, strict=True)):
            yield from changed_values(a, b, f"{path}[{i}]")
    elif not _same(published, truth):
        yield path, f"is {_short(published)} but {_short(truth)} from the store{rounding(published, truth)}"


def rounding(published: Any, truth: Any) -> str:
    """What to add where two numbers agree but for the arithmetic of another machine; else ''."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (published, truth))
    if not numbers or published == truth or not math.isclose(published, truth, rel_tol=ROUNDING):
        return ""
    return " (equal to 12 digits: made on another kind of machine? Write it anew here with `dvc repro -f aggregate`)"


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _quoted(line: str, start: int) -> str:
    """A line in quotes; of a long one what is around `start`."""
    if len(line) <= _SHOWN:
        return f'"{line}"'
    first = max(0, min(start - _SHOWN // 3, len(line) - _SHOWN))
    return f'"{"..." if first else ""}{line[first : first + _SHOWN]}{"..." if first + _SHOWN < len(line) else ""}"'


def _common_prefix(a: Any, b: Any) -> int:
    """Number of equal items that two sequences begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
