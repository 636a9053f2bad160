"""What every executor does with one trial: claim it, run it, store what comes out."""

from __future__ import annotations

import json
import os
import platform
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline import data
from pipeline.data.image_data import ImageData
from pipeline.errors import DataError, StoreError
from pipeline.orchestration.planning import PlannedTrial, check_code, code_of, open_data
from pipeline.orchestration.system_meter import SystemMeter
from pipeline.store.checkpoints import CheckpointFiles
from pipeline.store.claims import Claims
from pipeline.store.keep_alive import KeepAlive
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.plugins import import_plugins
from pipeline.study.spec import TrialSpec
from pipeline.trial import environment, run_trial

KEEP_OPEN = 4  # datasets a process keeps mapped
FOUND = "found"  # key of a record that another run had stored meanwhile; never stored itself
OnEpoch = Callable[[dict[str, Any]], None]


class TakenError(Exception):
    """Another run is at this trial; never shown to anybody."""


class Listener(Protocol):
    """Who is told what happens to trials; lives in the driver."""

    def started(self, trial: PlannedTrial) -> None:
        """A trial began, or began again."""

    def epoch(self, trial: PlannedTrial, row: dict[str, Any]) -> None:
        """A trial finished an epoch."""

    def finished(self, trial: PlannedTrial, record: Record) -> None:
        """A trial's record is in the store."""

    def requeued(self, trial: PlannedTrial, why: str) -> None:
        """A trial lost its worker or its memory; it is started again."""

    def elsewhere(self, trial: PlannedTrial) -> None:
        """Another run is at the trial."""

    def aborted(self, trial: PlannedTrial) -> None:
        """A trial could not be run or stored, through no fault of its own."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass(frozen=True)
class Context:
    """What a process needs to run trials, all of it plumbing. Paths are absolute: workers have their own working directory.

    Attributes:
        store_url: trial store.
        weights: 'none', 'last' or 'best'.
        prepared: folder of prepared datasets.
        device: 'cpu' or 'cuda'.
        threads: CPU threads of a trial.
        plugin_folders: where the project keeps plugins that are not installed.
        owner: the run on whose behalf trials are claimed.
        lease_s: seconds without a sign of life after which a claim is void.
        checkpoint_s: seconds between checkpoints of a running trial; None: none.
        origin: columns that every record gets, see `pipeline.orchestration.provenance.origin`.
    """

    store_url: str
    weights: str
    prepared: str
    device: str
    threads: int
    plugin_folders: tuple[str, ...] = ()
    owner: str = "nobody"
    lease_s: float = 60.0
    checkpoint_s: float | None = None
    origin: Mapping[str, Any] = field(default_factory=dict, hash=False)  # contexts are keys


class Worker:
    """Runs trials in this process and stores what comes out.

    Args:
        context: plumbing.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = TrialStore(context.store_url)
        # Claims are the process's own: a worker that only seems lost, on a node cut off, still holds them.
        self.claims = Claims(self.store, f"{context.owner}/{platform.node()}:{os.getpid()}", context.lease_s)
        self._data: dict[str, ImageData] = {}
        self._troubles: list[StoreError] = []  # with the checkpoints of the present trial

    def execute(self, trial: PlannedTrial, on_epoch: OnEpoch, on_start: Callable[[], None] = lambda: None) -> Record:
        """Run one trial and append its record to the store, whatever becomes of it.

        A bug in a method's code becomes a failed record with its traceback; Ctrl-C and an unwritable store are raised. A trial that
        another run has finished meanwhile is not run again: its record comes back with the key `FOUND`.

        Args:
            trial: what to run.
            on_epoch: called with each finished row of the history, the columns of `SystemMeter` among it.
            on_start: called once it is sure that the trial is run here.

        Raises:
            TakenError: another process is at it.
            StoreError: the record could not be stored.
            DataError: the dataset is gone or changed: no trial's fault.
            ConfigError: its code changed since it was planned, or a plugin is not there.
        """
        with self._claimed(trial) as keep:
            stored = self.store.complete_record(trial.spec.trial_id)
            if stored is not None:
                return Record({**stored, FOUND: True}, stored.history)
            on_start()
            record = self._run(trial, on_epoch, keep)
            self.store.append([record])
            if record["state"] != "failed" or record["failure"] not in RETRIED:
                self._checkpoints(trial).remove()
            return record

    @contextmanager
    def _claimed(self, trial: PlannedTrial) -> Iterator[KeepAlive]:
        trial_id = trial.spec.trial_id
        if self.claims.take(trial_id) is None:
            raise TakenError(trial_id)
        try:
            with KeepAlive(self.claims, every_s=self.context.lease_s / 4) as keep:
                keep.note(trial_id, name=trial.name, epoch=0, epochs=trial.spec.config["epochs"])
                yield keep
        finally:
            self.claims.release(trial_id)

    def _run(self, trial: PlannedTrial, on_epoch: OnEpoch, keep: KeepAlive) -> Record:
        torch.set_num_threads(self.context.threads)
        import_plugins(trial.spec.plugins, self.context.plugin_folders)
        check_code([trial])
        images = self._open(trial.spec)

        def note_epoch(row: dict[str, Any]) -> None:
            keep.note(trial.spec.trial_id, epoch=row["epoch"])
            on_epoch(row)

        self._troubles.clear()
        sink = _Sink(self, trial.spec, note_epoch)
        try:
            record = run_trial(trial.spec, data=images, device=self.context.device, sink=sink, checkpoints=self._checkpoints(trial))
        except (StoreError, DataError):
            raise
        except _ToldToStop as stop:
            raise stop.why from None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a failed trial never stops the others; its traceback is the record
            record = failure(trial.spec, error, torch.device(self.context.device), sink.history)
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C; elsewhere it can only be the method's own doing
            record = failure(trial.spec, error, torch.device(self.context.device), sink.history)
        finally:
            if self.context.device == "cuda":
                torch.cuda.empty_cache()  # the process lives on; the next trial may share the GPU with another
        if self._troubles:
            record["checkpoint_error"] = str(self._troubles[0])
        return dress(record, trial, self.context.origin)

    def _checkpoints(self, trial: PlannedTrial) -> CheckpointFiles:
        # A checkpoint that cannot be written costs time after a crash, not the trial; its record says so.
        return CheckpointFiles(self.store, trial.spec.trial_id, self.context.checkpoint_s, on_error=self._troubles.append)

    def _open(self, spec: TrialSpec) -> ImageData:
        if spec.data_digest not in self._data:
            while len(self._data) >= KEEP_OPEN:
                self._data.pop(next(iter(self._data)))
            self._data[spec.data_digest] = open_data(spec, data_root(spec, self.context))
        return self._data[spec.data_digest]


# Kinds of failure that a larger share of a machine, or another machine, may mend.
RETRIED = ("out_of_memory", "device", "lost")


class _ToldToStop(BaseException):
    """Whoever listens to the epochs ends the process or was interrupted: no failure of the trial."""

    def __init__(self, why: BaseException) -> None:
        super().__init__(str(why))
        self.why = why


class _Sink:
    def __init__(self, worker: Worker, spec: TrialSpec, on_epoch: OnEpoch) -> None:
        self.weights, self.worker, self.spec, self.on_epoch = worker.context.weights, worker, spec, on_epoch
        self.history: list[dict[str, Any]] = []
        self.meter = SystemMeter(torch.device(worker.context.device))

    def epoch(self, row: dict[str, Any]) -> None:
        row |= self.meter.sample()  # in place: the row is the one that the record and the checkpoints hold
        self.history.append(row)
        try:
            self.on_epoch(row)
        except (SystemExit, KeyboardInterrupt) as why:
            raise _ToldToStop(why) from why

    def save_weights(self, state: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        self.worker.store.save_weights(self.spec.trial_id, save(state))


def data_root(spec: TrialSpec, context: Context) -> Path:
    """The folder of prepared datasets that holds this trial's: the project's, or, on a node that does not see it, the node's own."""
    for root in (Path(context.prepared), node_cache()):
        manifest = data.read_manifest(spec.config["dataset"], root)
        if manifest is not None and manifest["digest"] == spec.data_digest:
            return root
    return Path(context.prepared)


def node_cache() -> Path:
    """Where a node keeps datasets that were sent to it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cam-ablate" / "prepared"


def dress(record: Record, trial: PlannedTrial, origin: Mapping[str, Any]) -> Record:
    """The record with what only the plan knows of the trial, and where the run comes from."""
    record |= {
        **origin,
        "name": trial.name,
        "spec": json.dumps(trial.spec.to_dict(), sort_keys=True),
        "code": json.dumps(code_of(trial.spec.config), sort_keys=True),
        "attempt": trial.attempt,
    }
    return record


def failure(spec: TrialSpec, error: BaseException, device: torch.device, history: list[dict[str, Any]]) -> Record:
    """The record of a trial that raised."""
    row = {
        "trial_id": spec.trial_id,
        "cell_id": spec.cell_id,
        "state": "failed",
        "failure": kind_of(error),
        "reason": f"{type(error).__name__}: {error}".splitlines()[0][:500],
        "traceback": "".join(traceback.format_exception(error))[-20000:],
        "seed": spec.seed,
        **environment(device),
    }
    return Record(row, history)


def lost_record(spec: TrialSpec, reason: str) -> Record:
    """The record of a trial whose worker was lost too often."""
    ids = {"trial_id": spec.trial_id, "cell_id": spec.cell_id, "seed": spec.seed}
    return Record({**ids, "state": "failed", "failure": "lost", "reason": reason})


def kind_of(error: BaseException) -> str:
    """'out_of_memory', 'device' (the GPU or its driver broke under it) or 'error' (a bug)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return "out_of_memory"
    if isinstance(error, torch.AcceleratorError):
        return "device"
    return "error"
