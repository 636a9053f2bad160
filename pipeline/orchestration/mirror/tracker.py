"""The MLflow mirror of the trial store.

The store is the truth and MLflow is a view of it: one flat run a trial (tags say which tables it serves) and one run a table.
The driver is the only writer. All MLflow calls are made by one background thread that is fed through a queue, so that a slow
or dead server never stalls or fails a trial; what was not mirrored is made up for by the next `Tracker.sync`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.orchestration.mirror.content import TableView, TrialView
from pipeline.orchestration.mirror.points import History, epoch_points
from pipeline.orchestration.mirror.runs import Mirror
from pipeline.orchestration.mirror.uri import DEFAULT_URI, database_path, prepare_environment, redact, resolve_uri
from pipeline.orchestration.provenance import git_commit
from pipeline.study.params import Tracking

__all__ = ["DEFAULT_URI", "NullTracker", "TableView", "Tracker", "TrialView", "open_tracker"]

REBUILD = "Results are safe in the store; mirror them later with `ablate mlflow rebuild` or the next run."

Stored = tuple[TrialView, Mapping[str, Any], History | Callable[[], History]]  # a trial, its record, its history

_RETRY_AFTER_S = (0.0, 1.0, 3.0)


class NullTracker:
    """Tracking switched off (`tracking.uri: null`): the methods of `Tracker`, doing nothing."""

    def trial_started(self, view: TrialView) -> None: ...

    def epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def trial_finished(self, view: TrialView, record: Mapping[str, Any], history: History | Callable[[], History]) -> None: ...

    def sync(self, items: Iterable[Stored], last: Mapping[str, Mapping[str, Any]] | None = None) -> None: ...

    def run_ids(self, timeout_s: float = 60.0) -> dict[str, str]:
        return {}

    def experiment_id(self, timeout_s: float = 60.0) -> str | None:
        return None

    def made(self) -> int:
        return 0

    def table(self, view: TableView) -> None: ...

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def close(self, status: Literal["FINISHED", "KILLED"] = "FINISHED", *, timeout_s: float = 30.0) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close("KILLED" if kind else "FINISHED")


class Tracker(NullTracker):
    """Mirror trials and tables into one MLflow experiment; every method returns at once unless it says otherwise.

    A failing call is tried three times within seconds; then one warning is logged and the mirror is off until the next run.

    Args:
        uri: where MLflow keeps its runs: `sqlite:///path` (relative to the working directory), another database, or a server.
        experiment: name of the MLflow experiment.
        artifact_location: where files of tables go; by default `mlartifacts/` beside the sqlite file, or what the server says.
        flush_every_s: seconds between two writes of epoch metrics.
        log: receives one line of text for the user, also from the background thread.

    Raises:
        ConfigError: the URI has a scheme that is not supported.
    """

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        experiment: str = "ablate",
        *,
        artifact_location: str | None = None,
        flush_every_s: float = 5.0,
        log: Callable[[str], None],
    ) -> None:
        self.uri = resolve_uri(uri)
        if artifact_location is None and not self.uri.startswith("http"):
            beside = database_path(self.uri)
            artifact_location = str((beside.parent if beside else Path.cwd()) / "mlartifacts")
        if artifact_location and "://" not in artifact_location:
            artifact_location = Path(artifact_location).resolve().as_uri()
        self._log, self._flush_every_s = log, flush_every_s
        self._commands: deque[Callable[[], None]] = deque()
        self._backlog: deque[Callable[[], None]] = deque()  # stored trials: only when no live trial has news
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._deadline, self._next_flush = math.inf, 0.0
        self._off, self._busy = False, True
        self._mirror = Mirror(self.uri, experiment, artifact_location, git_commit(), log)
        prepare_environment()
        try:
            import mlflow  # noqa: F401  # here, not on the thread: two threads importing at once can meet half-made modules
        except ImportError as error:
            self._switch_off(error)
            return
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial MLflow database tables..."
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def trial_started(self, view: TrialView) -> None:
        """Show the trial as running."""
        self._put(partial(self._mirror.started, view))

    def epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Buffer the metrics of one epoch (counted from 1); they are written every `flush_every_s` seconds."""
        self._put(partial(self._mirror.buffer, trial_id, epoch_points(epoch, metrics)))

    def trial_finished(self, view: TrialView, record: Mapping[str, Any], history: History | Callable[[], History]) -> None:
        """Make the run equal to the record and its history, and end it: FINISHED, or FAILED with the tag `reason`."""
        self._put(partial(self._mirror.finished, view, record, history))

    def sync(self, items: Iterable[Stored], last: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Bring the runs of stored trials up to date: create missing ones, change tags that differ, replace those with other numbers.

        Args:
            items: trials. A history may be a function that reads it: it is called only for a trial whose run is missing, or has other
                numbers, parameters or another state than the record.
            last: trial id -> row of its history for the last epoch; with it runs are compared in that epoch's metrics, too.
        """
        with self._changed:
            if not self._off:
                self._backlog.extend(partial(self._mirror.sync, *item, (last or {}).get(item[0].trial_id)) for item in items)
                self._changed.notify_all()

    def run_ids(self, timeout_s: float = 60.0) -> dict[str, str]:
        """MLflow run id of each trial id; waits until all is written, at most `timeout_s` seconds."""
        self.wait(timeout_s)
        return {trial_id: run.run_id for trial_id, run in list(self._mirror.runs.items())}

    def experiment_id(self, timeout_s: float = 60.0) -> str | None:
        """Id of the experiment; waits until it is there, at most `timeout_s` seconds. None when MLflow cannot be reached."""
        self.wait(timeout_s)
        return self._mirror.experiment_id

    def made(self) -> int:
        """Number of runs that were created so far."""
        return self._mirror.made

    def table(self, view: TableView) -> None:
        """Create or update the one run of a table: its metrics are replaced, its files uploaded; files must stay until `close`."""
        self._put(partial(self._mirror.table, view))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is written; False when the time is up or the mirror is off."""
        self._put(self._mirror.flush)
        with self._changed:
            self._changed.wait_for(lambda: self._idle() or not self._thread.is_alive(), timeout_s)
            return self._idle() and not self._off

    def close(self, status: Literal["FINISHED", "KILLED"] = "FINISHED", *, timeout_s: float = 30.0) -> None:
        """Write what is left, for at most `timeout_s` seconds; runs of trials that did not finish end as KILLED."""
        if self._off or self._closing.is_set():
            return
        self._put(partial(self._mirror.end_open, "interrupted" if status == "KILLED" else "the study ended before this trial did"))
        with self._changed:
            self._deadline = time.monotonic() + timeout_s
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        left = len(self._commands) + len(self._backlog) + self._thread.is_alive()
        if left and not self._off:
            self._off = True  # whatever the thread still meets, one warning is enough
            self._log(f"warning: mlflow: {left} updates were not written within {timeout_s:g} s. {REBUILD}")

    def _idle(self) -> bool:
        return self._off or not (self._busy or self._commands or self._backlog)

    def _put(self, command: Callable[[], None]) -> None:
        with self._changed:
            if not (self._off or self._closing.is_set()):
                self._commands.append(command)
                self._changed.notify_all()

    def _work(self) -> None:
        command: Callable[[], None] | None = self._mirror.connect
        while command and self._attempt(command):
            command = self._next()

    def _next(self) -> Callable[[], None] | None:
        """The next command; waits for one; None when closing and nothing is left or the time is up."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while time.monotonic() < self._deadline:
                self._busy = True
                if self._commands:
                    return self._commands.popleft()
                if self._mirror.pending and time.monotonic() >= self._next_flush:
                    self._next_flush = time.monotonic() + self._flush_every_s
                    return self._mirror.flush
                if self._backlog:
                    return self._backlog.popleft()
                self._busy = False
                if self._closing.is_set():
                    return None
                self._changed.wait(max(0.0, self._next_flush - time.monotonic()) if self._mirror.pending else None)
            return None

    def _attempt(self, command: Callable[[], None]) -> bool:
        """Run `command`, again after a pause where it fails; False, and the mirror off, when it keeps failing."""
        for pause in _RETRY_AFTER_S:
            self._closing.wait(pause)  # nobody waits for a pause at the end
            try:
                command()
                return True
            except Exception as error:  # noqa: BLE001  # whatever it is, it must not reach the study
                failure = error
        self._switch_off(failure)
        return False

    def _switch_off(self, error: Exception) -> None:
        with self._changed:
            warned, self._off, self._busy = self._off, True, False
            self._commands.clear()
            self._backlog.clear()
            self._changed.notify_all()
        cause = redact(f"{type(error).__name__}: {error}", self.uri)[:400]
        if not warned:
            self._log(f"warning: mlflow is off for the rest of this run, as {redact(self.uri)} failed ({cause}). {REBUILD}")


def open_tracker(tracking: Tracking, study: str, log: Callable[[str], None]) -> NullTracker:
    """The mirror of a study, one experiment by its name; does nothing when `tracking.uri` is null.

    Raises:
        ConfigError: the URI has a scheme that is not supported.
    """
    if tracking.uri is None:
        return NullTracker()
    return Tracker(tracking.uri, study, flush_every_s=tracking.flush_s, log=log)
