"""Counters of a run in the text format of Prometheus, as a file: for node_exporter's textfile collector, or for anybody who reads it.

Ray's own metrics need its metrics agent, which the plain package does not bring; a file works on any machine and without a port.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipeline.orchestration.events import LOGS, OneWarning

EVERY_S = 5.0
COUNTERS = {
    "started": "Trials started by this run, further attempts among them.",
    "complete": "Trials that ended with metrics.",
    "failed": "Trials that ended with a failure.",
    "requeued": "Trials that lost their worker or their memory and wait again.",
    "epochs": "Epochs finished.",
}
GAUGES = {"running": "Trials that run now.", "waiting": "Trials of this run that have not ended and do not run."}


class Exposition:
    """Keeps `logs/<study>.prom` up to date, at most every five seconds and at the end.

    Args:
        study: name of the study, the label of every sample.
        total: trials of this run.
    """

    def __init__(self, study: str, total: int, folder: Path = LOGS) -> None:
        self.path, self.study, self.total = folder / f"{study}.prom", study, total
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.running: set[str] = set()
        self._written = -EVERY_S
        self._warn = OneWarning()

    def started(self, trial_id: str) -> None:
        """A trial began."""
        self.counts["started"] += 1
        self.running.add(trial_id)

    def ended(self, trial_id: str, how: str | None = None) -> None:
        """A trial does not run any more; `how` is one of the counters, or None where it is not counted."""
        self.running.discard(trial_id)
        if how:
            self.counts[how] += 1

    def write(self, *, now: bool = False) -> None:
        """Write the file if it is time, or at once; it is replaced as a whole. A disk that is full or gone is said once."""
        if not now and time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            scratch.write_text(self.text(), encoding="utf-8")
            scratch.replace(self.path)
        except OSError as error:
            self._warn(self.path, error)

    def text(self) -> str:
        """All samples."""
        done = self.counts["complete"] + self.counts["failed"]
        gauges = {"running": len(self.running), "waiting": self.total - done - len(self.running)}
        lines = []
        for kind, helps, values in (("counter", COUNTERS, self.counts), ("gauge", GAUGES, gauges)):
            for name, text in helps.items():
                full = f"ablate_trials_{name}" if name != "epochs" else "ablate_epochs"
                full += "_total" if kind == "counter" else ""
                lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f'{full}{{study="{self.study}"}} {values[name]}']
        return "\n".join(lines) + "\n"
