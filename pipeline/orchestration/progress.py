"""What a person sees while trials run: done, running, failed, trials an hour, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.orchestration.cost import UNKNOWN
from pipeline.orchestration.eta import Eta
from pipeline.orchestration.forecast import Forecast
from pipeline.orchestration.notes import warn as warn

LINE_EVERY_S = 20.0  # without a terminal: seconds between two lines
REFRESH_EVERY_S = 0.5  # on a terminal
COMPARED_FROM_S = 30.0  # a shorter forecast is mostly start-up, so how far off it was in percent says nothing


class ProgressView:
    """A live bar on a terminal, a line now and then elsewhere (CI logs, DVC in a pipe).

    Args:
        total: trials to run.
        epochs: epochs of all of them together, the measure of work.
        forecast: what they will take; None: the time left is taken from the share of the epochs that is done.
    """

    def __init__(self, total: int, epochs: int, forecast: Forecast | None = None, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self.total, self.epochs = total, max(epochs, 1)
        self.done = self.failed = self.epochs_done = 0
        self.running: dict[str, int] = {}
        self.others: set[str] = set()  # trials that another run has
        self.eta = None if forecast is None else Eta(forecast)
        # Of all trials or of none, so that it can be compared with the time they took.
        self.expected_s = None if forecast is None or forecast.sources()[UNKNOWN] else forecast.wall_seconds()
        self.began = self.last_line = time.monotonic()
        self.first: float | None = None
        self.live = self.console.is_terminal
        self.refreshed = float("-inf")
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
        self._refresh(at_once=True)
        self.bar.stop()
        if not self.live and self.total:
            self.console.print(self.line(), highlight=False)
        if kind is None and (summary := self.summary()):
            self.console.print(summary, highlight=False)

    def started(self, trial_id: str, epochs_before: int = 0) -> None:
        """A trial began, or began again after its worker was lost, with so many epochs behind it in its checkpoint."""
        self.first = self.first or time.monotonic()
        self.others.discard(trial_id)
        self.epochs_done += epochs_before - self.running.get(trial_id, 0)
        self.running[trial_id] = epochs_before
        if self.eta:
            self.eta.started(trial_id, epochs_before)

    def epoch(self, trial_id: str) -> None:
        """A trial finished an epoch."""
        self.running[trial_id] = self.running.get(trial_id, 0) + 1
        self.epochs_done += 1
        if self.eta:
            self.eta.epoch(trial_id)

    def finished(self, trial_id: str, planned_epochs: int, failed: bool, message: str = "") -> None:
        """A trial ended; a failed one is named at once."""
        self.epochs_done += planned_epochs - self.running.pop(trial_id, 0)
        self.others.discard(trial_id)
        self.done += 1
        self.failed += failed
        if self.eta:
            self.eta.finished(trial_id, counts=not failed)
        if failed:
            self.console.print(f"[red]failed[/red] {escape(message)}", highlight=False)
        self._refresh()

    def aborted(self, trial_id: str) -> None:
        """A trial ended without a record; it is missing and no longer running."""
        self.epochs_done -= self.running.pop(trial_id, 0)
        if self.eta:
            self.eta.left_out(trial_id)

    def requeued(self, trial_id: str, why: str) -> None:
        """A running trial was lost and waits for another start."""
        self.epochs_done -= self.running.pop(trial_id, 0)
        if self.eta:
            self.eta.requeued(trial_id)
        self.console.print(f"[yellow]again[/yellow] {escape(why)}", highlight=False)
        self._refresh()

    def elsewhere(self, trial_id: str) -> None:
        """Another run on the same store has this trial; it is not ours unless it is started here after all."""
        self.epochs_done -= self.running.pop(trial_id, 0)
        self.others.add(trial_id)
        if self.eta:
            self.eta.left_out(trial_id)
        self._refresh()

    def tick(self) -> None:
        """Refresh the bar, or print a line when it is time."""
        self._refresh()
        if not self.live and time.monotonic() - self.last_line >= LINE_EVERY_S:
            self.last_line = time.monotonic()
            self.console.print(self.line(), highlight=False)

    def line(self) -> str:
        """'12/54 trials, 2 running, 0 failed, 410 trials/h, 6:10 left'."""
        return f"{self.done}/{self.total} trial{'' if self.total == 1 else 's'}, {self._state()}"

    def summary(self) -> str:
        """'forecast 12:30, took 13:10 (+5 %), after 0:04 of starting up'; '' where not all was run here, or nothing was forecast."""
        if self.eta is None or self.first is None or self.done < self.total or self.others:
            return ""
        took = time.monotonic() - self.first
        start = f", after {clock(self.first - self.began)} of starting up"
        if not self.expected_s:
            return f"forecast unknown, took {clock(took)}{start}"
        share = f" ({100 * (took / self.expected_s - 1):+.0f} %)" if self.expected_s >= COMPARED_FROM_S else ""
        return f"forecast {clock(self.expected_s)}, took {clock(took)}{share}{start}"

    def seconds_left(self) -> float | None:
        """Until the last trial ends; None while nobody knows."""
        if self.eta is not None:
            return self.eta.seconds_left()
        if not self.epochs_done:
            return None
        share = self.epochs_done / self.epochs
        return max(0.0, (time.monotonic() - self.began) * (1 - share) / share)

    def _state(self) -> str:
        elapsed, share = time.monotonic() - (self.first or self.began), self.epochs_done / self.epochs
        parts = [f"{len(self.running)} running", f"{self.failed} failed"]
        if self.others:
            parts.append(f"{len(self.others)} elsewhere")
        if self.epochs_done and elapsed > 0:
            parts.append(f"{self.total * share / elapsed * 3600:.0f} trials/h")
        if self.done < self.total and (left := self.seconds_left()) is not None:
            parts.append(f"{clock(left)} left" if left >= 1 else "finishing")
        return ", ".join(parts)

    def _refresh(self, *, at_once: bool = False) -> None:
        """The bar, at most once in `REFRESH_EVERY_S`: a schedule of thousands of trials takes its time."""
        if not self.live or (not at_once and time.monotonic() - self.refreshed < REFRESH_EVERY_S):
            return
        self.refreshed = time.monotonic()
        self.bar.update(self.task, completed=self.done, state=self._state())


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
