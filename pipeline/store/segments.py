"""Segments: the Parquet files of a trial store, written once and read column by column."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.store.files import StoreFiles

FOLDER = "segments"
RECORDS, HISTORY = ".records.parquet", ".history.parquet"
NAME = re.compile(r"\d{2}-\d{20}-[0-9a-f]{8}")  # tier, time in ns, digest of the records (earlier: random)
# Keys in the schema metadata of a records file. The checksums of the pages do not cover the footer, these digests do.
HAS_HISTORY = b"has_history"
HISTORY_SHA256 = b"history_sha256"
NAMED_BY_CONTENT = b"named_by_content"  # the name of the segment ends in the start of the sha256 of its records file

Wanted = Callable[[str], bool]  # of the name of a column


def tier_of(name: str) -> int:
    """How often the rows of a segment were merged."""
    return int(name.split("-", 1)[0])


def written_ns(name: str) -> int:
    """When a segment was written, in nanoseconds since 1970, by its writer's clock."""
    return int(name.split("-")[1])


def file_name(name: str, suffix: str) -> str:
    """Name of one of the two files of a segment, from the root of the store."""
    return f"{FOLDER}/{name}{suffix}"


def damaged(path: str, why: str, name: str) -> StoreError:
    """What to say of a file of a segment that is lost or is not what was written."""
    return StoreError(
        f"The store segment {path} {why}. Bring it back from a copy, or let `ablate doctor --repair` move {name}.*.parquet away to "
        "quarantine/ and run again: only the trials in them are trained anew, everything else in the store is intact."
    )


@dataclass
class _Read:
    """What is in memory of a file: `table` holds those of its columns that were asked for so far."""

    names: list[str]
    table: pa.Table


def has_history(records: pa.Table) -> bool:
    """Whether the records of a segment came with histories; said in the file itself, as a listing may show one of two files only."""
    return (records.schema.metadata or {}).get(HAS_HISTORY) == b"yes"


def is_as_written(name: str, records: pa.Table, content: bytes) -> bool:
    """Whether a records file is to the bit what was written; True where an earlier version kept no digest."""
    return NAMED_BY_CONTENT not in (records.schema.metadata or {}) or name.endswith(sha256(content).hexdigest()[:8])


def is_its_history(records: pa.Table, content: bytes) -> bool:
    """Whether a history file is to the bit what was written with these records; True where an earlier version kept no digest."""
    digest = (records.schema.metadata or {}).get(HISTORY_SHA256)
    return digest is None or sha256(content).hexdigest().encode() == digest


class Segments:
    """The segments of a store. Columns once read are kept, as no file ever changes."""

    def __init__(self, files: StoreFiles) -> None:
        self.files = files
        self._cache: dict[str, _Read] = {}

    def names(self) -> list[str]:
        """Segments there are, oldest of the lowest tier first.

        Raises:
            StoreError: the store cannot be listed.
        """
        names = (name.removesuffix(RECORDS) for name in self.files.names(FOLDER) if name.endswith(RECORDS))
        found = sorted(name for name in names if NAME.fullmatch(name))
        known = set(found)
        for key in [key for key in self._cache if key.split(".", 1)[0] not in known]:  # merged away: not to be kept for ever
            self._cache.pop(key, None)
        return found

    def read(self, name: str, suffix: str, wanted: Wanted) -> pa.Table:
        """The wanted columns of a file, those of them that it has.

        Raises:
            FileNotFoundError: the segment was merged into another meanwhile.
            StoreError: the file is damaged, or missing while its sibling is there; the message says what to do.
        """
        key = name + suffix
        known = self._cache.get(key)
        if known is None or not set(filter(wanted, known.names)).issubset(known.table.column_names):
            known = self._cache[key] = self._fetch(name, suffix, wanted, known)
        return known.table.select(list(filter(wanted, known.names)))

    def write(self, tier: int, records: pa.Table, history: pa.Table | None) -> str:
        """Add a segment: the appearance of its records makes it count.

        Raises:
            StoreError: the store cannot be written.
        """
        metadata = {HAS_HISTORY: b"no", NAMED_BY_CONTENT: b"yes"}
        history_file = None if history is None else _parquet(history)
        if history_file is not None:
            metadata |= {HAS_HISTORY: b"yes", HISTORY_SHA256: sha256(history_file).hexdigest().encode()}
        records_file = _parquet(records.replace_schema_metadata(metadata))
        name = f"{tier:02d}-{time.time_ns():020d}-{sha256(records_file).hexdigest()[:8]}"
        if history_file is not None:
            self.files.write(file_name(name, HISTORY), history_file)
        try:
            self.files.write(file_name(name, RECORDS), records_file)
        except StoreError:
            with contextlib.suppress(StoreError):
                self.files.remove(file_name(name, HISTORY))  # on a full disk its room is needed
            raise
        return name

    def _fetch(self, name: str, suffix: str, wanted: Wanted, known: _Read | None) -> _Read:
        try:
            with self.files.open_arrow(file_name(name, suffix)) as source:
                file = pq.ParquetFile(source, page_checksum_verification=True)
                schema = file.schema_arrow
                there = set(known.table.column_names) if known else ()
                missing = [column for column in schema.names if wanted(column) and column not in there]
                table = file.read(columns=missing, use_threads=False).select(missing)
        except FileNotFoundError as error:
            if suffix == HISTORY and name in self.names():  # merging removes the records first, so this is no merge
                raise damaged(self.files.path(file_name(name, suffix)), "is missing", name) from error
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(self.files.path(file_name(name, suffix)), f"cannot be read: {str(error).rstrip('.')}", name) from error
        if known is not None:
            for column in known.table.column_names:
                table = table.append_column(known.table.schema.field(column), known.table[column])
        return _Read(schema.names, table.replace_schema_metadata(schema.metadata))


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return bytes(buffer.getvalue())
