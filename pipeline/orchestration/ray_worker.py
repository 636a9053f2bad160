"""The process on a node that runs trials for the pool, one after the other; stays alive between them."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline import data, models
from pipeline.errors import PipelineError
from pipeline.orchestration.execution import Context, TakenError, Worker, data_root, node_cache
from pipeline.orchestration.planning import PlannedTrial
from pipeline.store.records import Record
from pipeline.study.plugins import import_plugins

TELL_EVERY_S = 0.5  # epochs of less are told of together

LAST = ("finished", "taken", "aborted", "crashed")

Event = dict[str, Any]


class TrialWorker:
    """One worker of the pool, an actor.

    Args:
        context: plumbing.
        memory: fraction of the GPU's memory that it may take; a trial that wants more runs out of it, not its neighbour.
    """

    def __init__(self, context: Context, memory: float) -> None:
        if context.device == "cuda" and memory < 1:
            torch.cuda.set_per_process_memory_fraction(memory)
        self.worker = Worker(context)

    def come_up(self, token: str, text: str | None) -> Event:
        """Load what the first trial needs, which takes seconds, and say where this runs and whether it sees the store.

        Args:
            token: a claim that is there, if this is the driver's store.
            text: a trial as JSON, or None.
        """
        import ray

        if text is not None:
            self._load(PlannedTrial.from_json(text))
        node = ray.get_runtime_context().get_node_id()
        return {"node": node, "host": platform.node(), "pid": os.getpid(), "sees_store": token in self.worker.claims.held()}

    def _load(self, trial: PlannedTrial) -> None:
        """Import the libraries of a network by building it without its weights."""
        with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]), torch.device("meta"):  # what is wrong, its trial will say
            import_plugins(trial.spec.plugins, self.worker.context.plugin_folders)
            models.create(num_classes=2, in_channels=3, **trial.spec.config["backbone"])

    def has_data(self, text: str) -> bool:
        """Whether the node sees the prepared dataset of a trial."""
        spec = PlannedTrial.from_json(text).spec
        manifest = data.read_manifest(spec.config["dataset"], data_root(spec, self.worker.context))
        return manifest is not None and manifest["digest"] == spec.data_digest

    def put_data(self, text: str, files: dict[str, bytes]) -> None:
        """Keep a prepared dataset that came through the object store; it appears as a whole or not at all."""
        target = data.folder(PlannedTrial.from_json(text).spec.config["dataset"], node_cache())
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            shutil.rmtree(target, ignore_errors=True)
            temporary.replace(target)
        except OSError:
            if not target.is_dir():  # else another worker of the node was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def run(self, text: str) -> Iterator[list[Event]]:
        """Run one trial; yields what happens, some events at a time. The last event is one of `LAST`."""
        trial = PlannedTrial.from_json(text)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        # A thread of its own: the trial calls back, a generator is called.
        threading.Thread(target=self._work, args=(trial, events), name="trial", daemon=True).start()
        while True:
            batch = _some(events)
            yield batch
            if batch[-1]["event"] in LAST:
                return

    def _work(self, trial: PlannedTrial, events: queue.SimpleQueue[Event]) -> None:
        try:
            record = self.worker.execute(
                trial, lambda row: events.put({"event": "epoch", "row": row}), lambda: events.put({"event": "started"})
            )
            events.put({"event": "finished", "record": dict(record), "history": record.history})
        except TakenError:
            events.put({"event": "taken"})
        except PipelineError as error:
            events.put({"event": "aborted", "kind": type(error).__name__, "error": str(error)})
        except BaseException as error:  # noqa: BLE001 - nobody else would ever hear of it
            events.put({"event": "crashed", "error": f"{type(error).__name__}: {error}"})


def _some(events: queue.SimpleQueue[Event]) -> list[Event]:
    """At least one event; what comes within `TELL_EVERY_S` comes with it; start and end of the trial at once."""
    batch = [events.get()]
    until = time.monotonic() + TELL_EVERY_S
    while batch[-1]["event"] == "epoch":
        try:
            batch.append(events.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    return batch


def record_of(event: Event) -> Record:
    """The record that a 'finished' event carries."""
    return Record(event["record"], event["history"])


def files_of(folder: Path) -> dict[str, bytes]:
    """A prepared dataset as it is sent to a node."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
