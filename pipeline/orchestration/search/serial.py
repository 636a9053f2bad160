"""A search without Ray: one point after the other in this process."""

from __future__ import annotations

import time
from typing import Any

from pipeline.errors import PrunedError
from pipeline.orchestration.execution import Context, TakenError, Worker
from pipeline.orchestration.search.engine import Job, Search
from pipeline.orchestration.search.listening import SearchView
from pipeline.store.records import Record

LOOK_AGAIN_S = 2.0  # between two looks at a trial that another run is at


def search_serial(search: Search, context: Context, view: SearchView) -> None:
    """Train points until the search is over.

    Raises:
        StoreError, DataError, ConfigError: see `Worker.execute`.
    """
    worker = Worker(context)
    while (job := search.next()) is not None:
        record = _run(worker, search, job, view)
        search.finished(job, record)
        view.finished(job, record)


def _run(worker: Worker, search: Search, job: Job, view: SearchView) -> Record:
    def on_epoch(row: dict[str, Any]) -> None:
        verdict = search.epoch(job, row)
        view.epoch()
        view.tick()
        if verdict:
            raise PrunedError(verdict)

    while True:
        try:
            return worker.execute(job.trial, on_epoch)
        except TakenError:
            view.tick()
            time.sleep(LOOK_AGAIN_S)
