"""Prepared datasets of plugins: made anew when the code that makes them was edited.

The datasets of `pipeline` itself are stable and may be large, so an edit there leaves what is prepared alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.errors import DataError
from pipeline.study.code_key import closure, digest_of

NOTE = "code.sha256"


def is_stale(component: dict[str, Any], root: Path) -> bool:
    """Whether a dataset was prepared by other code of its plugin than there is now; False for the datasets of `pipeline`."""
    code = _code_of(component)
    place = data.folder(component, root)
    if code is None or not place.is_dir():
        return False
    note = place / NOTE
    return not note.is_file() or note.read_text(encoding="utf-8").strip() != code


def drop_stale(component: dict[str, Any], root: Path, log: Callable[[str], None] | None = None) -> None:
    """Remove the prepared form of a dataset whose plugin was edited; it is made again, and its trials are new if its content is.

    Raises:
        DataError: it cannot be removed.
    """
    if not is_stale(component, root):
        return
    if log is not None:
        log(f"{component['name']}: making it again, because the code of its plugin changed")
    place = data.folder(component, root)
    try:
        shutil.rmtree(place)
    except OSError as error:
        raise DataError(f"The code that made {place} changed, and it cannot be removed: {error}.") from error


def note_code(component: dict[str, Any], root: Path) -> None:
    """Note beside a freshly prepared dataset which code of its plugin made it."""
    if not is_stale(component, root):
        return
    place = data.folder(component, root) / NOTE
    try:
        place.write_text(f"{_code_of(component)}\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{place} cannot be written: {error}.") from error


def _code_of(component: dict[str, Any]) -> str | None:
    """Digest of the plugin's code; None for a dataset of `pipeline`, and for one that was registered outside any file."""
    module = data.registry.get(component.get("source", component["name"])).module
    try:
        modules = {name for name in closure([module]) if name.partition(".")[0] != "pipeline"}
    except ModuleNotFoundError:
        return None
    return digest_of(modules) if modules else None
