"""What a person sees while trials run: done, running, failed, trials an hour, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 20.0  # without a terminal: seconds between two lines


class ProgressView:
    """A live bar on a terminal, a line now and then elsewhere (CI logs, DVC in a pipe).

    Args:
        total: trials to run.
        epochs: epochs of all of them together, the measure of work.
    """

    def __init__(self, total: int, epochs: int, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self.total, self.epochs = total, max(epochs, 1)
        self.done = self.failed = self.epochs_done = 0
        self.running: dict[str, int] = {}
        self.began = self.last_line = time.monotonic()
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
            transient=False,
        )
        self.task = self.bar.add_task("trials", total=total, state="starting workers")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._refresh()
        self.bar.stop()
        if not self.live and self.total:
            self.console.print(self.line(), highlight=False)

    def started(self, trial_id: str) -> None:
        """A trial began, or began again after its worker was lost."""
        self.epochs_done -= self.running.get(trial_id, 0)
        self.running[trial_id] = 0

    def epoch(self, trial_id: str) -> None:
        """A trial finished an epoch."""
        self.running[trial_id] = self.running.get(trial_id, 0) + 1
        self.epochs_done += 1

    def finished(self, trial_id: str, planned_epochs: int, failed: bool, message: str = "") -> None:
        """A trial ended; a failed one is named at once."""
        self.epochs_done += planned_epochs - self.running.pop(trial_id, 0)
        self.done += 1
        self.failed += failed
        if failed:
            self.console.print(f"[red]failed[/red] {message}", highlight=False)
        self._refresh()

    def aborted(self, trial_id: str) -> None:
        """A trial ended without a record; it is missing and no longer running."""
        self.epochs_done -= self.running.pop(trial_id, 0)

    def tick(self) -> None:
        """Refresh the bar, or print a line when it is time."""
        self._refresh()
        if not self.live and time.monotonic() - self.last_line >= LINE_EVERY_S:
            self.last_line = time.monotonic()
            self.console.print(self.line(), highlight=False)

    def line(self) -> str:
        """'12/54 trials, 2 running, 0 failed, 410 trials/h, 6:10 left'."""
        return f"{self.done}/{self.total} trial{'' if self.total == 1 else 's'}, {self._state()}"

    def _state(self) -> str:
        elapsed = time.monotonic() - self.began
        parts = [f"{len(self.running)} running", f"{self.failed} failed"]
        if self.epochs_done and elapsed > 0:
            share = self.epochs_done / self.epochs
            parts.append(f"{self.total * share / elapsed * 3600:.0f} trials/h")
            parts.append(f"{clock(elapsed * (1 - share) / share)} left" if share < 1 else "finishing")
        return ", ".join(parts)

    def _refresh(self) -> None:
        self.bar.update(self.task, completed=self.done, state=self._state())


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def warn(message: str) -> None:
    """One line to standard error."""
    Console(stderr=True).print(f"[yellow]note[/yellow] {message}", highlight=False)
