"""The append-only trial store, at a path or an object-store URL.

Layout under the root:
    segments/<id>.records.parquet     one row a trial, its pictures among it (panel_*); its appearance commits the trial
    segments/<id>.history.parquet     one row a trial and epoch, written just before its records
    weights/<trial_id>.safetensors    only where the policy keeps them
A finished trial appends one small segment; segments are merged in tiers, so their number grows with the logarithm of the number of
trials. A file is written under a temporary name and renamed (object stores put whole files): a crash leaves no half record. Nothing
is ever changed in place; where two segments hold the same trial, the better and then the later record counts.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.store.records import PANEL, SCHEMA_VERSION, Record, rows_to_table

FAN_IN = 16  # segments of one tier that are merged into one of the next
RECORDS, HISTORY = ".records.parquet", ".history.parquet"
NAME = re.compile(r"\d{2}-\d{20}-[0-9a-f]{8}")  # tier, time in ns, random
HAS_HISTORY = b"has_history"  # key in the schema metadata of a records file


class TrialStore:
    """Finished trials by id.

    Args:
        url: a folder, or a URL that fsspec understands (`s3://bucket/store`, `memory://store`).

    Raises:
        StoreError: the place cannot be reached or written.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"The store URL {self.url!r} is not usable: {error}. Set `store.url` to a folder or a URL such as s3://bucket/store."
            ) from error
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self._cache: dict[str, pa.Table] = {}

    def check_writable(self) -> None:
        """Write and remove a probe.

        Raises:
            StoreError: the store cannot be written.
        """
        probe = f"probe-{secrets.token_hex(4)}.tmp"
        self._write(f"{self.root}/segments/{probe}", b"probe")
        self._remove(probe)

    def append(self, records: Iterable[Record]) -> None:
        """Add finished trials: all of them or, after a crash, none.

        Raises:
            StoreError: the store cannot be written.
            ValueError: a record contradicts itself.
        """
        records = list(records)
        if not records:
            return
        for record in records:
            record.check()
        stamp = time.time_ns()
        rows = [{**record, **record.panel, "schema_version": SCHEMA_VERSION, "time_finished_ns": stamp} for record in records]
        history = [{"trial_id": record["trial_id"], **row} for record in records for row in record.history]
        self._append_tables(0, rows_to_table(rows), rows_to_table(history) if history else None)

    def records(self) -> dict[str, Record]:
        """All finished trials by id, without their history and pictures.

        Raises:
            StoreError: a segment cannot be read; the message names it and what to do.
        """
        table = self._counting()
        if table is None:
            return {}
        rows = _without_panels(table).to_pylist()
        return {row["trial_id"]: Record({k: v for k, v in row.items() if v is not None}) for row in rows}

    def records_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """The records of these trials as an Arrow table without their pictures, or None when none of them is stored."""
        table = self._counting()
        return None if table is None else _without_panels(_only(table, trial_ids))

    def panels_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """trial_id and the panel_* columns of those of these trials that have pictures, or None when none of them has."""
        table = self._counting()
        names = [] if table is None else [name for name in table.column_names if name.startswith(PANEL)]
        if table is None or not names:
            return None
        found = _only(table, trial_ids).select(["trial_id", *names])
        found = found.filter(pc.is_valid(found[names[0]]))
        return found if len(found) else None

    def history_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """trial_id, epoch and metrics by epoch of these trials, or None when there are none."""
        records, history = self._read_all(with_history=True)
        if records is None or history is None:
            return None
        return _only(_owned(history, self._best(records)), trial_ids).drop_columns(["segment"])

    def history(self, trial_id: str) -> list[dict[str, Any]]:
        """Rows by epoch of one trial."""
        table = self.history_table([trial_id])
        rows = [] if table is None else table.sort_by("epoch").to_pylist()
        return [{k: v for k, v in row.items() if v is not None and k != "trial_id"} for row in rows]

    def weights_path(self, trial_id: str) -> str:
        """Where the weights of a trial lie if the policy kept them."""
        return f"{self.root}/weights/{trial_id}.safetensors"

    def save_weights(self, trial_id: str, payload: bytes) -> None:
        """Keep the weights of a trial, as safetensors bytes.

        Raises:
            StoreError: the store cannot be written.
        """
        self._write(self.weights_path(trial_id), payload)

    def load_weights(self, trial_id: str) -> bytes:
        """The safetensors bytes of a trial.

        Raises:
            StoreError: no weights were kept.
        """
        try:
            return bytes(self.fs.cat_file(self.weights_path(trial_id)))
        except FileNotFoundError as error:
            raise StoreError(
                f"No weights of trial {trial_id} in {self.url}. Set `store.weights` to last or best in params.yaml and train it again."
            ) from error
        except OSError as error:
            raise StoreError(f"The weights of trial {trial_id} in {self.url} cannot be read: {error}.") from error

    def compact(self) -> None:
        """Merge full tiers of small segments. Safe beside readers and other writers: duplicates it may leave are dropped on reading.

        Raises:
            StoreError: a segment cannot be read, or the merged one cannot be written; every trial is still there.
        """
        tier = 0
        while names := sorted(name for name in self._segments() if _tier(name) >= tier):
            merging = [name for name in names if _tier(name) == tier]
            if len(merging) >= FAN_IN:
                try:
                    records, history = self._load(merging, with_history=True)
                except FileNotFoundError:  # another process is merging the same segments
                    return
                best = self._best(records)
                kept = None if history is None else _owned(history, best).drop_columns(["segment"])
                self._append_tables(tier + 1, best.drop_columns(["segment"]), kept)
                for name in merging:  # records first: history without records counts for nothing
                    self._remove(name + RECORDS)
                    self._remove(name + HISTORY)
            tier += 1

    # --- files -------------------------------------------------------------------------------------------------------------------

    def _append_tables(self, tier: int, records: pa.Table, history: pa.Table | None) -> None:
        name = f"{tier:02d}-{time.time_ns():020d}-{secrets.token_hex(4)}"
        if history is not None:
            self._write(f"{self.root}/segments/{name}{HISTORY}", _parquet(history))
        # Said in the file itself: a listing taken while another process merges may show one of the two files only.
        records = records.replace_schema_metadata({HAS_HISTORY: b"yes" if history is not None else b"no"})
        self._write(f"{self.root}/segments/{name}{RECORDS}", _parquet(records))

    def _segments(self) -> list[str]:
        names = (name.removesuffix(RECORDS) for name in self._list() if name.endswith(RECORDS))
        return [name for name in names if NAME.fullmatch(name)]

    def _list(self) -> list[str]:
        try:
            self.fs.invalidate_cache()
            paths = self.fs.ls(f"{self.root}/segments", detail=False)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"The store {self.url} cannot be listed: {error}. Mend the place or set `store.url` in params.yaml."
            ) from error
        if paths == [f"{self.root}/segments"]:  # a filesystem lists a file as itself
            raise StoreError(
                f"The store {self.url} cannot be listed: segments is a file. Mend the place or set `store.url` in params.yaml."
            )
        return [str(path).rsplit("/", 1)[-1] for path in paths]

    def _counting(self) -> pa.Table | None:
        table, _ = self._read_all()
        return None if table is None else self._best(table)

    def _read_all(self, *, with_history: bool = False) -> tuple[pa.Table | None, pa.Table | None]:
        """Records and, if wanted, history of one and the same set of segments; superseded rows are still among them."""
        for attempt in range(8):
            names = self._segments()
            if not names:
                return None, None
            try:
                return self._load(names, with_history=with_history)
            except FileNotFoundError:  # merged away between listing and reading
                time.sleep(0.01 * 2**attempt)
        raise StoreError(f"The store {self.url} keeps changing while it is read. Is something deleting its files? Try again.")

    def _load(self, names: list[str], *, with_history: bool) -> tuple[pa.Table, pa.Table | None]:
        records = [self._read(name, RECORDS) for name in names]
        having = [n for n, part in zip(names, records, strict=True) if (part.schema.metadata or {}).get(HAS_HISTORY) == b"yes"]
        parts = [self._read(name, HISTORY) for name in having] if with_history else []
        return _concat(records), _concat(parts) if parts else None

    def _read(self, name: str, suffix: str) -> pa.Table:
        key = name + suffix
        if key not in self._cache:
            path = f"{self.root}/segments/{key}"
            try:
                # From a buffer, not a Python file: Arrow's readers would call back into Python from threads that may outlive the
                # interpreter, which then aborts at exit.
                file = pq.ParquetFile(pa.BufferReader(self.fs.cat_file(path)), page_checksum_verification=True)
                table = file.read(use_threads=False)
            except FileNotFoundError as error:
                if suffix == HISTORY and name in self._segments():  # merging removes the records first, so this is no merge
                    raise StoreError(f"The store segment {path} is missing. {_mend(name)}") from error
                raise
            except (pa.ArrowException, OSError) as error:
                raise StoreError(f"The store segment {path} cannot be read: {str(error).rstrip('.')}. {_mend(name)}") from error
            self._cache[key] = table.append_column("segment", pa.array([name] * len(table), pa.string()))
        return self._cache[key]

    def _best(self, table: pa.Table) -> pa.Table:
        """One row a trial: complete before failed, then the latest, then the segment with the greatest name."""
        rank = pa.array([int(state == "complete") for state in table["state"].to_pylist()], pa.int8())
        order = table.select(["trial_id", "time_finished_ns", "segment"]).append_column("rank", rank)
        order = order.append_column("row", pa.array(range(len(table)), pa.int64())).sort_by(
            [("rank", "descending"), ("time_finished_ns", "descending"), ("segment", "descending")]
        )
        first: dict[str, int] = {}
        for trial_id, row in zip(order["trial_id"].to_pylist(), order["row"].to_pylist(), strict=True):
            first.setdefault(trial_id, row)
        return table.take(pa.array(sorted(first.values()), pa.int64()))

    def _write(self, path: str, payload: bytes) -> None:
        try:
            if not self.is_local:
                self.fs.pipe_file(path, payload)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
            try:
                with temporary.open("wb") as file:
                    file.write(payload)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a filesystem that can only be read, such as http
            raise StoreError(
                f"The store {self.url} cannot be written: {str(error) or type(error).__name__}. "
                "Nothing stored before is lost; mend the place or set `store.url` in params.yaml."
            ) from error

    def _remove(self, name: str) -> None:
        try:
            self.fs.rm_file(f"{self.root}/segments/{name}")
        except FileNotFoundError:
            return  # no history, or another process merged the same segments
        except OSError as error:
            raise StoreError(
                f"A file of the store {self.url} cannot be removed: {error}. Nothing stored is lost; mend the place."
            ) from error


def _mend(name: str) -> str:
    return (
        f"Bring it back from a copy, or move {name}.*.parquet away and run again: only the trials in them are trained anew, "
        "everything else in the store is intact."
    )


def _tier(name: str) -> int:
    return int(name.split("-", 1)[0])


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return bytes(buffer.getvalue())


def _concat(tables: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise StoreError(
            f"Two segments of the store disagree about the type of a column: {error}. Were they written by other versions?"
        ) from error


def _owned(history: pa.Table, records: pa.Table) -> pa.Table:
    """Only the history that came with the record that counts: a failed first attempt left rows of its own."""
    return history.filter(pc.is_in(_owner(history), value_set=pc.unique(_owner(records))))


def _owner(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["trial_id"], table["segment"], "/")


def _without_panels(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in table.column_names if name == "segment" or name.startswith(PANEL)])


def _only(table: pa.Table, trial_ids: Iterable[str]) -> pa.Table:
    return table.filter(pc.is_in(table["trial_id"], value_set=pa.array(list(trial_ids), pa.string())))
