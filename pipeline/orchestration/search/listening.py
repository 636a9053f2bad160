"""What a person sees while a search runs: how much of its budget each arm has had, the best so far, the time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from pipeline.orchestration.progress import LINE_EVERY_S, clock
from pipeline.orchestration.search.engine import Job, Search
from pipeline.orchestration.search.ledger import best_point, shown_value
from pipeline.store.records import Record

LIVE_EVERY_S = 0.5


class SearchView:
    """A line that is kept up to date on a terminal, a line now and then elsewhere.

    Args:
        search: what is running.
    """

    def __init__(self, search: Search, stream: TextIO | None = None) -> None:
        self.search = search
        self.console = Console(file=stream or sys.stderr)
        self.status = self.console.status("starting workers") if self.console.is_terminal else None
        self.began = self.shown = time.monotonic()
        self.epochs_trained = 0

    def __enter__(self) -> SearchView:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.status:
            self.status.stop()
        self.console.print(self.line(), highlight=False)

    def epoch(self) -> None:
        """A point finished an epoch."""
        self.epochs_trained += 1

    def finished(self, job: Job, record: Record) -> None:
        """A point ended; a failed one is named at once."""
        if record["state"] == "failed":
            self.console.print(f"[red]failed[/red] {escape(job.trial.name)}: {escape(str(record['reason']))}", highlight=False)

    def again(self, job: Job, why: str) -> None:
        """A point is started again."""
        self.console.print(f"[yellow]again[/yellow] {escape(job.trial.name)}: {escape(why)}", highlight=False)

    def tick(self) -> None:
        """Some time has passed."""
        every = LIVE_EVERY_S if self.status else LINE_EVERY_S
        if time.monotonic() - self.shown < every:
            return
        self.shown = time.monotonic()
        if self.status:
            self.status.update(escape(self.line()))
        else:
            self.console.print(self.line(), highlight=False)

    def line(self) -> str:
        """'ce 40/120 epochs, best 91.20 % · cam 38/120 epochs · 2 running, 3:10 left'."""
        parts, done, budget = [], 0, 0
        for name, arm in self.search.arms.items():
            had = sum(point.seen if point.state == "running" else point.epochs for point in arm.points.by_id.values())
            best = best_point(arm.plan, arm.points.by_id.values())
            parts.append(
                f"{name} {had}/{arm.plan.budget} epochs"
                + (f", best {shown_value(arm.plan, best.values[0])}" if best and best.values else "")
            )
            done, budget = done + had, budget + arm.plan.budget
        state = f"{self.search.num_running} running"
        if self.epochs_trained and done < budget:
            state += f", {clock((time.monotonic() - self.began) / self.epochs_trained * (budget - done))} left"
        return " · ".join([*parts, state])
