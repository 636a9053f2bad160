"""The serial executor: trials one after the other in this process, no Ray."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from pipeline.orchestration.execution import Context, Listener, TakenError, Worker
from pipeline.orchestration.planning import PlannedTrial

LOOK_AGAIN_S = 2.0  # between two looks at a trial that another run is at


def run_serial(trials: Iterable[PlannedTrial], context: Context, listener: Listener) -> None:
    """Run the trials in this process. Those that another run is at come last, in case it dies.

    Raises:
        StoreError, DataError, ConfigError: see `Worker.execute`.
    """
    worker = Worker(context)
    waiting, taken = deque(trials), 0
    while waiting:
        trial = waiting.popleft()

        def on_epoch(row: dict[str, Any], trial: PlannedTrial = trial) -> None:
            listener.epoch(trial, row)
            listener.tick()

        try:
            record = worker.execute(trial, on_epoch, functools.partial(listener.started, trial))
        except TakenError:
            listener.elsewhere(trial)
            waiting.append(trial)
            taken += 1
            if taken >= len(waiting):  # all that is left is with others
                time.sleep(LOOK_AGAIN_S)
                taken = 0
                listener.tick()
        else:
            taken = 0
            listener.finished(trial, record)
