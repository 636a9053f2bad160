"""Places in a study file: paths of keys, and how they read."""

from __future__ import annotations

from collections.abc import Iterable

Path_ = tuple[str | int, ...]


def dotted(path: Iterable[str | int]) -> str:
    """'tables.backbones.rows[2]' from its parts."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
