"""Run trials one after the other: what every executor does with one trial, and the serial executor."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.data.image_data import ImageData
from pipeline.errors import DataError, StoreError
from pipeline.orchestration.planning import PlannedTrial, check_code, open_data
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.plugins import import_plugins
from pipeline.study.spec import TrialSpec
from pipeline.trial import environment, run_trial

KEEP_OPEN = 4  # datasets a process keeps mapped


class Listener(Protocol):
    """Who is told what happens to trials; lives in the driver."""

    def started(self, trial: PlannedTrial) -> None:
        """A trial began."""

    def epoch(self, trial: PlannedTrial, row: dict[str, Any]) -> None:
        """A trial finished an epoch."""

    def finished(self, trial: PlannedTrial, record: Record) -> None:
        """A trial's record is in the store."""

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
    """

    store_url: str
    weights: str
    prepared: str
    device: str
    threads: int
    plugin_folders: tuple[str, ...] = ()


class Worker:
    """Runs trials in this process and stores what comes out.

    Args:
        context: plumbing.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = TrialStore(context.store_url)
        self._data: dict[str, ImageData] = {}

    def execute(self, trial: PlannedTrial, on_epoch: Any) -> Record:
        """Run one trial and append its record to the store, whatever becomes of it.

        A bug in a method's code becomes a failed record with its traceback; Ctrl-C and an unwritable store are raised.

        Raises:
            StoreError: the record could not be stored.
            DataError: the dataset is gone or changed: no trial's fault.
            ConfigError: its code changed since it was planned, or a plugin is not there.
        """
        torch.set_num_threads(self.context.threads)
        import_plugins(trial.spec.plugins, self.context.plugin_folders)
        check_code([trial])
        images = self._open(trial.spec)
        sink = _Sink(self, trial.spec, on_epoch)
        try:
            record = run_trial(trial.spec, data=images, device=self.context.device, sink=sink)
        except (StoreError, DataError):
            raise
        except Exception as error:  # noqa: BLE001 - a failed trial never stops the others; its traceback is the record
            record = failure(trial.spec, error, torch.device(self.context.device), sink.history)
        finally:
            if self.context.device == "cuda":
                torch.cuda.empty_cache()  # the process lives on; the next trial may share the GPU with another
        record |= {"name": trial.name, "spec": json.dumps(trial.spec.to_dict(), sort_keys=True), "attempt": trial.attempt}
        self.store.append([record])
        return record

    def _open(self, spec: TrialSpec) -> ImageData:
        if spec.data_digest not in self._data:
            while len(self._data) >= KEEP_OPEN:
                self._data.pop(next(iter(self._data)))
            self._data[spec.data_digest] = open_data(spec, Path(self.context.prepared))
        return self._data[spec.data_digest]


class _Sink:
    def __init__(self, worker: Worker, spec: TrialSpec, on_epoch: Any) -> None:
        self.weights, self.worker, self.spec, self.on_epoch = worker.context.weights, worker, spec, on_epoch
        self.history: list[dict[str, Any]] = []

    def epoch(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        self.on_epoch(row)

    def save_weights(self, state: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        self.worker.store.save_weights(self.spec.trial_id, save(state))


def failure(spec: TrialSpec, error: Exception, device: torch.device, history: list[dict[str, Any]]) -> Record:
    """The record of a trial that raised: tried again by the next run, since its cause may be gone."""
    kind = "out_of_memory" if isinstance(error, torch.OutOfMemoryError | MemoryError) else "error"
    row = {
        "trial_id": spec.trial_id,
        "cell_id": spec.cell_id,
        "state": "failed",
        "failure": kind,
        "reason": f"{type(error).__name__}: {error}".splitlines()[0][:500],
        "traceback": "".join(traceback.format_exception(error))[-20000:],
        "seed": spec.seed,
        **environment(device),
    }
    return Record(row, history)


def run_serial(trials: Iterable[PlannedTrial], context: Context, listener: Listener) -> None:
    """Run the trials in this process, one after the other.

    Raises:
        StoreError, DataError: see `Worker.execute`.
    """
    worker = Worker(context)
    for trial in trials:
        listener.started(trial)

        def on_epoch(row: dict[str, Any], trial: PlannedTrial = trial) -> None:
            listener.epoch(trial, row)
            listener.tick()

        record = worker.execute(trial, on_epoch)
        listener.finished(trial, record)
