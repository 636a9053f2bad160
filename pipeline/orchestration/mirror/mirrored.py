"""What is known to be in MLflow already, so that a run with nothing to do need not open it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.orchestration.events import LOGS
from pipeline.orchestration.mirror.uri import database_path, resolve_uri
from pipeline.orchestration.remembered import Remembered
from pipeline.store.records import Record
from pipeline.study.identity import digest
from pipeline.study.params import Tracking


def remembered_runs(tracking: Tracking, study: str, records: Mapping[str, Record]) -> dict[str, str] | None:
    """Trial id -> MLflow run id, where each of these records was mirrored as it is now; None where that is not sure.

    Sure is only a database in a file that is still the same file: a server may have been emptied by others. A run deleted by hand is
    not noticed; `ablate mlflow rebuild` looks.
    """
    if tracking.uri is None:
        return {}
    place = _identity(tracking)
    if place is None:
        return None
    known = Remembered(_file(study), _is_entry, most=1_000_000)
    found = {}
    for trial_id, record in records.items():
        entry = known.get(trial_id)
        if entry is None or (entry["place"], entry["record"]) != (place, digest(dict(record))):
            return None
        found[trial_id] = entry["run"]
    return found


def remember_runs(tracking: Tracking, study: str, records: Mapping[str, Record], run_ids: Mapping[str, str]) -> None:
    """Note which records are in MLflow, and under which run."""
    place = _identity(tracking)
    if place is None:
        return
    LOGS.mkdir(exist_ok=True)
    known = Remembered(_file(study), _is_entry, most=1_000_000)
    known.update({t: {"place": place, "record": digest(dict(record)), "run": run_ids[t]} for t, record in records.items() if t in run_ids})
    known.save()


def _identity(tracking: Tracking) -> str | None:
    """The file of the database, told from another at the same path by its inode; None for what is no file."""
    path = None if tracking.uri is None else database_path(resolve_uri(tracking.uri))
    return f"{path}#{path.stat().st_ino}" if path is not None and path.exists() else None


def _file(study: str) -> Path:
    return LOGS / f"{study}.mirrored.json"


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"place", "record", "run"} and all(isinstance(v, str) for v in value.values())
