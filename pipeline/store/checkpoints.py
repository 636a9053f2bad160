"""Checkpoints of running trials, beside the trials that are finished."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable

from pipeline.errors import StoreError
from pipeline.store.files import StoreFiles
from pipeline.store.trial_store import TrialStore

FOLDER = "checkpoints"
NAME = re.compile(r"\d{20}-(?P<digest>[0-9a-f]{16})\.ckpt")
KEEP = 2  # the newest, and the one before it should the newest turn out damaged


class CheckpointFiles:
    """Checkpoints of one trial: `checkpoints/<trial_id>/<time_ns>-<start of the sha256>.ckpt` under the root of the store.

    The digest in the name proves the content: a damaged file is passed over and the one before it is used. The newest two are kept.

    Args:
        store: where.
        trial_id: whose.
        every_s: seconds between two checkpoints; None: never due.
        on_error: is told of the first place that fails, and the trial goes on; without it a failure is raised.
    """

    def __init__(
        self, store: TrialStore, trial_id: str, every_s: float | None, *, on_error: Callable[[StoreError], None] | None = None
    ) -> None:
        self.files, self.trial_id, self.every_s, self.on_error = store.files, trial_id, every_s, on_error
        self._told = False
        self._saved_s = time.monotonic()

    def due(self) -> bool:
        """Whether the next checkpoint should be saved now; costs one look at the clock."""
        return self.every_s is not None and time.monotonic() - self._saved_s >= self.every_s

    def save(self, payload: bytes) -> None:
        """Keep a checkpoint, then remove all but the newest two.

        Raises:
            StoreError: it cannot be written, and there is no `on_error`; the checkpoints before it are still there.
        """
        try:
            before = newest_first(self.files, self.trial_id)
            # The newest by name is the newest by content, also when the trial moved to a machine whose clock is behind.
            stamp = max([time.time_ns(), *(int(name.split("-")[0]) + 1 for name in before)])
            self.files.write(f"{FOLDER}/{self.trial_id}/{stamp:020d}-{_digest(payload)}.ckpt", payload)
            for name in before[KEEP - 1 :]:
                self.files.remove(f"{FOLDER}/{self.trial_id}/{name}")
        except StoreError as error:
            self._tell(error)
        finally:
            self._saved_s = time.monotonic()  # after a failure too: a full disk is tried again when the next one is due

    def load(self) -> bytes | None:
        """The newest whole checkpoint, or None.

        Raises:
            StoreError: the place cannot be read, and there is no `on_error`.
        """
        try:
            names = newest_first(self.files, self.trial_id)
        except StoreError as error:
            self._tell(error)
            return None
        for name in names:
            with contextlib.suppress(FileNotFoundError, StoreError):  # pruned meanwhile, or on a bad part of the disk
                payload = self.files.read(f"{FOLDER}/{self.trial_id}/{name}")
                if is_whole(name, payload):
                    return payload
        return None

    def remove(self) -> None:
        """Take all checkpoints of the trial away.

        Raises:
            StoreError: they cannot be removed, and there is no `on_error`.
        """
        try:
            self.files.remove_folder(f"{FOLDER}/{self.trial_id}")
        except StoreError as error:
            self._tell(error)

    def _tell(self, error: StoreError) -> None:
        if self.on_error is None:
            raise error
        if not self._told:
            self._told = True
            self.on_error(error)


def checkpointed(store: TrialStore) -> dict[str, int]:
    """Trials that have checkpoints, and the bytes these take.

    Raises:
        StoreError: the place cannot be listed.
    """
    sizes: dict[str, int] = {}
    for trial_id in store.files.folders(FOLDER):
        if names := newest_first(store.files, trial_id):
            sizes[trial_id] = sum(store.files.bytes_of(f"{FOLDER}/{trial_id}/{name}") for name in names)
    return sizes


def is_whole(name: str, payload: bytes) -> bool:
    """Whether a checkpoint is what was written under that name."""
    match = NAME.fullmatch(name)
    return match is not None and _digest(payload) == match["digest"]


def newest_first(files: StoreFiles, trial_id: str) -> list[str]:
    """Names of the checkpoints of a trial.

    Raises:
        StoreError: the place cannot be listed.
    """
    return sorted((name for name in files.names(f"{FOLDER}/{trial_id}") if NAME.fullmatch(name)), reverse=True)


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:16]
