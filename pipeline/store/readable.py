"""What can still be read of a store that has damage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.files import StoreFiles
from pipeline.store.segments import HAS_HISTORY, HISTORY, RECORDS, Segments, Wanted, file_name
from pipeline.store.trial_store import RANKED_BY, TrialStore


class ReadableStore(TrialStore):
    """A store without those of its segments' files that cannot be read; a history is passed over without its records.

    Args:
        url: as of `TrialStore`.
        doubtful: files of segments, from the root of the store, that something is wrong with; those of them that can be read count.
    """

    def __init__(self, url: str | Path, doubtful: Iterable[str]) -> None:
        super().__init__(url)
        whole = Segments(self.files)
        self._segments = _Readable(self.files, frozenset(file for file in doubtful if not _can_be_read(whole, file)))

    def segments_of(self, trial_ids: Iterable[str]) -> dict[str, list[str]]:
        """Trial id -> files that hold a record of it, from the root of the store.

        Raises:
            StoreError: a segment cannot be read.
        """
        files: dict[str, list[str]] = {trial_id: [] for trial_id in trial_ids}
        for name in self._segments.names():
            for trial_id in self._segments.read(name, RECORDS, lambda column: column == "trial_id")["trial_id"].to_pylist():
                if trial_id in files:
                    files[trial_id].append(file_name(name, RECORDS))
        return files


class _Readable(Segments):
    """Segments without those files that are `lost`."""

    def __init__(self, files: StoreFiles, lost: frozenset[str]) -> None:
        super().__init__(files)
        self._lost = lost

    def names(self) -> list[str]:
        return [name for name in super().names() if file_name(name, RECORDS) not in self._lost]

    def read(self, name: str, suffix: str, wanted: Wanted) -> pa.Table:
        table = super().read(name, suffix, wanted)
        if suffix == RECORDS and file_name(name, HISTORY) in self._lost:
            return table.replace_schema_metadata({**(table.schema.metadata or {}), HAS_HISTORY: b"no"})
        return table


def _can_be_read(segments: Segments, file: str) -> bool:
    """Whether a file is Parquet to its last page and has the columns that tell whose its rows are, be it what was written or not."""
    suffix = RECORDS if file.endswith(RECORDS) else HISTORY
    try:
        table = segments.read(Path(file).name.removesuffix(suffix), suffix, lambda column: True)
    except (StoreError, FileNotFoundError):
        return False
    return set(RANKED_BY if suffix == RECORDS else ("trial_id", "epoch")).issubset(table.column_names)
