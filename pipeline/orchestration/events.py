"""The event log of a study: one JSON object a line, for programs and for finding out afterwards what happened when."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from pipeline.orchestration.notes import warn

LOGS = Path("logs")


class OneWarning:
    """Says once that a log cannot be written, and lets the run go on: the trials themselves are in the store."""

    def __init__(self) -> None:
        self.said = False

    def __call__(self, path: Path, error: OSError) -> None:
        if not self.said:
            self.said = True
            warn(f"{path} cannot be written ({error.strerror or error}); the run goes on without it. Trials are stored all the same.")


class EventLog:
    """Appends to `logs/<study>.events.jsonl`; each line has `time` (seconds since 1970), `run` and `event`.

    A line is written when its call returns, so that others can follow, and a crash loses none.

    Args:
        study: name of the study.
        run: id of the run that writes.
    """

    def __init__(self, study: str, run: str, folder: Path = LOGS) -> None:
        self.path, self.run = folder / f"{study}.events.jsonl", run
        self._file: TextIO | None = None
        self._warn = OneWarning()

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            self._warn(self.path, error)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.write("run_ended", how="done" if kind is None else kind.__name__)
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is still to be written is what the warning was about
                self._file.close()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; a disk that is full or gone is said once."""
        if self._file is None:
            return
        line = {"time": round(time.time(), 3), "run": self.run, "event": event, **fields}
        try:
            self._file.write(json.dumps(line, default=str) + "\n")
            self._file.flush()
        except OSError as error:
            self._warn(self.path, error)


def traceback_of(trial_id: str, folder: Path = LOGS) -> Path:
    """Where the traceback of a failed trial is kept."""
    return folder / "failures" / f"{trial_id}.txt"


def rerun_command(study: str, trial_id: str) -> str:
    """'rerun: ablate run ...'."""
    return f"rerun: ablate run --study {study} --trial {trial_id}"


def write_traceback(study: str, trial_id: str, record: Mapping[str, Any], folder: Path = LOGS) -> Path:
    """Keep the traceback of a failed trial as a file; returns where it lies, or would (the store has it, too)."""
    path = traceback_of(trial_id, folder)
    head = f"{record.get('name', '')}\ntrial {trial_id}, attempt {record.get('attempt', 1)}\n{rerun_command(study, trial_id)}\n\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + record.get("traceback", record["reason"]) + "\n", encoding="utf-8")
    except OSError as error:
        OneWarning()(path, error)
    return path
