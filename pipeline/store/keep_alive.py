"""A thread that renews the claims of a driver while the driver is busy with other things."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.claims import Claims


class KeepAlive:
    """Renews all claims that `claims` holds, from entering to leaving a `with` block; `claims.lost` has those that were taken over.

    Args:
        claims: those of this driver.
        every_s: seconds between two renewals; a third of the lease or less, so that one that fails costs nothing.

    Attributes:
        error: why the last renewal failed, None when it did not; the next one tries again.
    """

    def __init__(self, claims: Claims, every_s: float) -> None:
        self.claims, self.every_s = claims, every_s
        self.error: StoreError | None = None
        self._notes: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def note(self, trial_id: str, **note: Any) -> None:
        """Progress of a trial, written with the next renewal; later values replace earlier ones."""
        with self._lock:
            self._notes.setdefault(trial_id, {}).update(note)

    def beat(self) -> None:
        """Renew all claims now; what fails is tried again with the next beat."""
        failed = None
        for trial_id in self.claims.mine():
            with self._lock:
                note = self._notes.pop(trial_id, {})
            try:
                self.claims.renew(trial_id, **note)
            except StoreError as error:
                failed = error
                with self._lock:
                    self._notes[trial_id] = {**note, **self._notes.get(trial_id, {})}
        self.error = failed

    def __enter__(self) -> KeepAlive:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            self.beat()
