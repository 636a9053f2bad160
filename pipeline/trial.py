"""Run one trial: from a resolved specification and prepared data to a record. No Ray and no MLflow from here down."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.data.image_data import ImageData
from pipeline.errors import DivergedError, PrunedError
from pipeline.store.records import Record
from pipeline.study.plugins import import_plugins
from pipeline.study.spec import TrialSpec
from pipeline.tasks.classification import derived_seeds, train_classifier
from pipeline.training.checkpoint import Checkpoints, Snapshots, UnusableError
from pipeline.training.loop import Fit, autocast_for
from pipeline.training.panel import panel_of

RESET_PEAK = "/proc/self/clear_refs"  # Linux: writing 5 sets the process's peak memory back to what it holds now


class Sink(Protocol):
    """Where a running trial reports to.

    Attributes:
        weights: which weights it wants: 'none', 'last' or 'best'.
    """

    weights: str

    def epoch(self, row: dict[str, Any]) -> None:
        """One finished row of the history; those before the checkpoint that a trial was continued from were told already.

        Raises:
            PrunedError: the trial is to be given up.
        """

    def save_weights(self, state: dict[str, Tensor]) -> None:
        """The weights asked for, on the CPU, once at the end."""


class NullSink:
    """Listens to nothing and keeps no weights."""

    weights = "none"

    def epoch(self, row: dict[str, Any]) -> None:
        """Ignore."""

    def save_weights(self, state: dict[str, Tensor]) -> None:
        """Ignore."""


def run_trial(
    spec: TrialSpec,
    *,
    data: ImageData,
    device: str | torch.device = "cpu",
    sink: Sink | None = None,
    checkpoints: Checkpoints | None = None,
) -> Record:
    """Train and evaluate one trial. The same specification and data give the same metrics, bit for bit, on one kind of CPU.

    Args:
        spec: resolved trial; the plugins it names are imported, if they are not yet.
        data: its prepared dataset.
        device: torch device.
        sink: told of each epoch while it runs; None: nobody is.
        checkpoints: where the running trial is saved, and continued from if it was; None: nowhere. One that cannot be used is left
            alone, and the trial starts anew.

    Returns:
        Record with state 'complete'; 'failed' with reason and step when the loss stopped being finite; or 'pruned' with what was
        measured until then when the sink gave the trial up. `resumed` tells how often it was continued, `checkpoint_refused` why a
        checkpoint was not used, if so. Times and peak memory are those of all its processes, up to their last checkpoints.

    Raises:
        ConfigError: a plugin of the specification cannot be imported.
        Exception: whatever a method's own code raises; the caller decides what becomes of the study.
    """
    import_plugins(spec.plugins)
    device, sink = torch.device(device), sink or NullSink()
    devices = [device] if device.type == "cuda" else []
    costs = Costs(device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    row: dict[str, Any] = {
        "trial_id": spec.trial_id,
        "cell_id": spec.cell_id,
        "state": "complete",
        "reason": "",
        "failure": "",
        "seed": spec.seed,
        **derived_seeds(spec),
        **environment(device),
    }
    panel: dict[str, Any] = {}
    snapshots = None if checkpoints is None else Snapshots(checkpoints, spec.trial_id, device)
    if snapshots is not None:
        snapshots.keep(costs=costs)
    fitted = Fit()

    def train() -> nn.Module:
        nonlocal fitted
        keep_best = sink.weights == "best"
        try:
            return train_classifier(spec, data, device, sink.epoch, result=fitted, keep_best=keep_best, snapshots=snapshots)
        except UnusableError as error:
            assert snapshots is not None
            snapshots.refused, fitted = str(error), Fit()
        return train()  # out here, where the traceback no longer holds the first network; no checkpoint is looked at any more

    with torch.random.fork_rng(devices=devices):
        try:
            model = train()
        except DivergedError as error:
            row |= {"state": "failed", "reason": str(error), "failure": "diverged"}
        except PrunedError as error:
            row |= {"state": "pruned", "reason": str(error)} | summarise(fitted)
        else:
            row |= summarise(fitted)
            last = model.plain_state_dict()
            row["weights_sha256"] = weights_digest(last)
            if sink.weights != "none":
                sink.save_weights(last if sink.weights == "last" else fitted.best_state or last)
            panel = panel_of(model, data, device, autocast_for(spec.settings.precision, device))
    row |= {"resumed": fitted.resumed, "checkpoint_refused": "" if snapshots is None else snapshots.refused}
    row |= {"time_total_s": costs.total_s, "mem_peak_bytes": costs.peak_bytes}
    return Record(row, history=fitted.history, panel=panel)


def summarise(fitted: Fit) -> dict[str, Any]:
    """Metrics of a training run under each selection rule; of one that was given up, those that it has.

    `_last`: after the last epoch; `_best_val`: at the epoch with the best validation accuracy; `_best_test`: at the epoch with the
    best test accuracy, which no honest protocol selects by, kept for comparison with papers that did. Metrics that are measured
    only at the end exist for `_last` and `_best_val`.
    """
    last = fitted.history[-1]
    by_epoch = {row["epoch"]: row for row in fitted.history}
    chosen = {"last": last}
    if fitted.best_val_epoch is not None:
        chosen["best_val"] = by_epoch[fitted.best_val_epoch]
    if all("metric_test_acc_top1" in row for row in fitted.history):
        chosen["best_test"] = max(fitted.history, key=lambda row: row["metric_test_acc_top1"])
    metrics = {
        f"{name}_{rule}": value
        for rule, row in chosen.items()
        for name, value in row.items()
        if name.startswith(("metric_test_", "metric_val_")) and math.isfinite(value)
    }
    metrics |= {
        f"metric_test_{name}_{rule}": value
        for rule, values in fitted.final.items()
        for name, value in values.items()
        if math.isfinite(value)
    }
    metrics |= {f"{name}_last": value for name, value in last.items() if name.startswith("metric_train_")}
    return metrics | {
        "best_val_epoch": fitted.best_val_epoch,
        "epochs_done": len(fitted.history),
        "time_train_s": fitted.train_s,
        "time_step_s": fitted.train_s / fitted.steps,
    }


def weights_digest(state: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes: equal digests mean equal weights, bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}{state[name].dtype}".encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Where a trial ran: recorded, never part of its identity."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "env_device": device.type,
        "env_device_name": name,
        "env_torch": torch.__version__,
        "env_python": platform.python_version(),
        "env_host": platform.node(),
        "env_threads": torch.get_num_threads(),
    }


class Costs:
    """Time and memory of a trial, from now on; with those of its processes before, once their state is loaded."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._started, self._peak_before = device, time.perf_counter(), 0
        reset_peak_memory(device)

    @property
    def total_s(self) -> float:
        """Seconds so far, everything included."""
        return time.perf_counter() - self._started

    @property
    def peak_bytes(self) -> int | None:
        """The most that was held so far; see `peak_memory`."""
        peak = peak_memory(self._device)
        return None if peak is None else max(peak, self._peak_before)

    def state_dict(self) -> dict[str, Any]:
        """Both numbers."""
        return {"total_s": self.total_s, "peak_bytes": self.peak_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from both numbers."""
        self._started -= state["total_s"]
        self._peak_before = state["peak_bytes"] or 0


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure anew, since a process runs many trials."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(RESET_PEAK, os.W_OK):
        Path(RESET_PEAK).write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: on a GPU the most that tensors took, on a CPU the most that the whole process took, libraries included, in this trial.

    None where the system does not tell (CPU trials outside Linux).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not os.access(RESET_PEAK, os.W_OK):
        return None
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
