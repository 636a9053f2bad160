"""What made the numbers of a study: commit, lock, versions and data, as far as this checkout tells."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.store.records import checkout_words
from pipeline.study.project import DATASETS

VERSIONS = ("torch", "torchvision", "torchdistill", "ray", "mlflow", "dvc")
LOCK = Path("requirements.lock")
_NAMED = 5  # changed files that are named
_PATIENCE_S = 30.0  # with git: the status of a large checkout on a network file system takes seconds


def provenance() -> dict[str, Any]:
    """Facts by name, in the order to show; mappings within hold facts of one kind."""
    return {
        "tables and report made at commit": _checkout(),
        LOCK.name: f"sha256 {hashlib.sha256(LOCK.read_bytes()).hexdigest()}" if LOCK.exists() else "absent",
        "versions": {name: version for name in VERSIONS if (version := _version(name))},
        "data digest": _data_digests(),
    }


def origin(study: str) -> dict[str, Any]:
    """What a record keeps of the run that trained its trial, beside the machine: recorded, never part of the identity.

    To be asked once, by the driver: the folder of a worker on another node is no checkout.

    Args:
        study: on whose behalf trials are run.

    Returns:
        `env_study`; `env_git_commit`, the commit that was checked out, and `env_git_dirty`, whether files differed from it. The latter
        two are absent where git does not tell.
    """
    commit, changed = git_commit(), _changed()
    columns: dict[str, Any] = {"env_study": study}
    if commit is not None:
        columns["env_git_commit"] = commit
        if changed is not None:
            columns["env_git_dirty"] = bool(changed)
    return columns


def git_commit() -> str | None:
    """The commit that is checked out in the working directory; None outside a repository and without git."""
    return _git("rev-parse", "HEAD")


def _checkout() -> str:
    commit, changed = git_commit(), _changed()
    if commit is None:
        return "not known: no git checkout, or one without commits"
    words = checkout_words(commit, None if changed is None else bool(changed))
    if not changed:
        return words
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return f"{words}: {', '.join(changed[:_NAMED])}{more}"


def _changed() -> list[str] | None:
    """Files that differ from the commit, new ones among them, but for dvc.lock, which does while a pipeline runs and changes no number."""
    status = _git("status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    return None if status is None else [line[3:] for line in status.splitlines()]


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails, hangs, or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
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
