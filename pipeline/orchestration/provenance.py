"""What made the numbers of a study: commit, lock, versions and data, as far as this checkout tells."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.study.project import DATASETS

VERSIONS = ("torch", "torchvision", "torchdistill", "ray", "mlflow", "dvc")
LOCK = Path("requirements.lock")
_NAMED = 5  # changed files that are named


def provenance() -> dict[str, Any]:
    """Facts by name, in the order to show; mappings within hold facts of one kind."""
    return {
        "commit": _git("rev-parse", "HEAD") or "not a git checkout",
        "working tree": _working_tree(),
        LOCK.name: f"sha256 {hashlib.sha256(LOCK.read_bytes()).hexdigest()}" if LOCK.exists() else "absent",
        "versions": {name: version for name in VERSIONS if (version := _version(name))},
        "data digest": _data_digests(),
    }


def _working_tree() -> str:
    """Whether files differ from the commit; dvc.lock does while a pipeline runs, and changes no number."""
    status = _git("status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    if status is None:
        return "unknown"
    changed = [line[3:] for line in status.splitlines()]
    if not changed:
        return "clean: as committed"
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return f"changed since the commit: {', '.join(changed[:_NAMED])}{more}"


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None


def _data_digests() -> dict[str, str]:
    content = json.loads(DATASETS.read_text(encoding="utf-8")) if DATASETS.exists() else {}
    return {entry["name"]: entry["digest"] for entry in content.values()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
