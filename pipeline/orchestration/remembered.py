"""Answers that take seconds to find, kept in a small JSON file beside the prepared datasets."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Remembered(dict[str, Any]):
    """Key -> answer. The file is a convenience: one that cannot be read, or not be written, is not used.

    Args:
        path: the file.
        is_answer: whether something read from the file is an answer; a file that holds anything else is not used.
        most: answers kept, the newest.
    """

    def __init__(self, path: Path, is_answer: Callable[[Any], bool], most: int = 5000) -> None:
        super().__init__(_read(path, is_answer))
        self._path, self._saved, self._most = path, dict(self), most

    def save(self) -> None:
        """Write what is new; the file is replaced as a whole, so that no reader sees half of it."""
        if self == self._saved:
            return
        scratch = self._path.with_name(f".{self._path.name}-{uuid.uuid4().hex}")
        try:
            scratch.write_text(json.dumps(dict([*self.items()][-self._most :]), indent=0) + "\n", encoding="utf-8")
            scratch.replace(self._path)
        except OSError:
            _remove(scratch)
        self._saved = dict(self)


def _read(path: Path, is_answer: Callable[[Any], bool]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and all(map(is_answer, content.values())) else {}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
