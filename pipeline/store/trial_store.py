"""The append-only trial store, at a path or an object-store URL.

Layout under the root:
    segments/<id>.records.parquet     one row a trial, its pictures among it (panel_*); its appearance commits the trial
    segments/<id>.history.parquet     one row a trial and epoch, written just before its records
    weights/<trial_id>.safetensors    only where the policy keeps them
    checkpoints/, claims/             of trials that are running: see checkpoints.py and claims.py
    quarantine/                       damaged files, moved here by `ablate doctor --repair`
A finished trial appends one small segment; segments are merged in tiers, so their number grows with the logarithm of the number of
trials. A file is written under a temporary name and renamed (object stores put whole files): a crash leaves no half record. Nothing
is ever changed in place; where two segments hold the same trial, the better and then the later record counts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.store.bare_arrays import int32_array, numpy_of
from pipeline.store.files import StoreFiles
from pipeline.store.records import PANEL, SCHEMA_VERSION, Record, panel_types, rows_to_table
from pipeline.store.row_values import rows_of, values_of
from pipeline.store.segments import FOLDER, HISTORY, RECORDS, Segments, Wanted, has_history, tier_of

FAN_IN = 16  # segments of one tier that are merged into one of the next
RANKED_BY = ("trial_id", "state", "time_finished_ns")  # what decides which record of a trial counts

T = TypeVar("T")


class TrialStore:
    """Finished trials by id.

    Args:
        url: a folder, or a URL that fsspec understands (`s3://bucket/store`, `memory://store`).

    Raises:
        StoreError: nothing understands the URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.files = StoreFiles(url)
        self.url = self.files.url
        self._segments = Segments(self.files)
        self._complete: dict[str, frozenset[str]] = {}  # segment -> complete trials in it

    def check_writable(self) -> None:
        """Write and remove a probe.

        Raises:
            StoreError: the store cannot be written.
        """
        probe = f"probe-{secrets.token_hex(4)}.tmp"
        self.files.write(f"{FOLDER}/{probe}", b"probe")
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
        self._segments.write(0, rows_to_table(rows), rows_to_table(history) if history else None)

    def records(self) -> dict[str, Record]:
        """All finished trials by id, without their history and pictures.

        Raises:
            StoreError: a segment cannot be read; the message names it and what to do.
        """
        table = self._counting(_no_panel)
        return {} if table is None else {row["trial_id"]: Record(row) for row in rows_of(table)}

    def complete_record(self, trial_id: str) -> Record | None:
        """The record of a trial, with its history, if it is complete; None otherwise.

        Made to be asked for one trial after the other: it looks only into segments that it has not looked into before.

        Raises:
            StoreError: a segment cannot be read; the message names it and what to do.
        """

        def look(names: list[str]) -> bool:
            for name in names:
                if name not in self._complete:
                    table = self._segments.read(name, RECORDS, lambda column: column in RANKED_BY)
                    done = table.filter(pc.equal(table["state"], "complete"))
                    self._complete[name] = frozenset(values_of(done["trial_id"]))
            self._complete = {name: self._complete[name] for name in names}
            return any(trial_id in ids for ids in self._complete.values())

        if not self._of_one_moment(look):
            return None
        table = self.records_table([trial_id])
        return None if table is None else Record(rows_of(table)[0], self.history(trial_id))

    def summary(self, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Some columns of all finished trials by id, reading little else; a trial has no entry for what its record does not hold.

        Raises:
            StoreError: a segment cannot be read; the message names it and what to do.
        """
        table = self._counting(lambda column: column in columns)
        if table is None:
            return {}
        asked = table.select([column for column in columns if column in table.column_names])
        return dict(zip(values_of(table["trial_id"]), rows_of(asked), strict=True))

    def records_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """The records of these trials as an Arrow table without their pictures, or None when none of them is stored."""
        table = self._counting(_no_panel)
        return None if table is None else _only(table, trial_ids)

    def panels_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """trial_id and the panel_* columns of those of these trials that have pictures, or None when none of them has.

        All columns of `panel_types` are there: null where a trial was stored by a version that did not know them.
        """
        table = self._counting(_is_panel)
        names = [] if table is None else [name for name in table.column_names if _is_panel(name)]
        if table is None or not names:
            return None
        found = _only(table, trial_ids).select(["trial_id", *names])
        found = found.filter(pc.is_valid(found[names[0]]))
        for name, kind in panel_types().items():
            if name not in names:
                found = found.append_column(name, pa.nulls(len(found), kind))
        return found if len(found) else None

    def history_table(self, trial_ids: Iterable[str]) -> pa.Table | None:
        """trial_id, epoch and metrics by epoch of these trials, or None when there are none. Reads the segments they lie in only."""
        wanted = pa.array(list(trial_ids), pa.string())

        def read(names: list[str]) -> pa.Table | None:
            records, having = self._load(names, _nothing_more)
            best = _best(records)
            return self._histories(best.filter(pc.is_in(best["trial_id"], value_set=wanted)), names, having)

        return self._of_one_moment(read)

    def history(self, trial_id: str) -> list[dict[str, Any]]:
        """Rows by epoch of one trial."""
        table = self.history_table([trial_id])
        return [] if table is None else rows_of(table.sort_by("epoch").drop_columns(["trial_id"]))

    def has_weights(self, trial_id: str) -> bool:
        """Whether the weights of a trial were kept."""
        return self.files.exists(_weights(trial_id))

    def save_weights(self, trial_id: str, payload: bytes) -> None:
        """Keep the weights of a trial, as safetensors bytes.

        Raises:
            StoreError: the store cannot be written.
        """
        self.files.write(_weights(trial_id), payload)

    def load_weights(self, trial_id: str) -> bytes:
        """The safetensors bytes of a trial.

        Raises:
            StoreError: no weights were kept, or they cannot be read.
        """
        try:
            return self.files.read(_weights(trial_id))
        except FileNotFoundError as error:
            raise StoreError(
                f"No weights of trial {trial_id} in {self.url}. Set `store.weights` to last or best in params.yaml; stored trials are not "
                "trained again for it: point `store.url` at a new folder as well and run it there."
            ) from error

    def compact(self) -> None:
        """Merge full tiers of small segments. Safe beside readers and other writers: duplicates it may leave are dropped on reading.

        Raises:
            StoreError: a segment cannot be read, or the merged one cannot be written; every trial is still there.
        """
        tier = 0
        while names := [name for name in self._segments.names() if tier_of(name) >= tier]:
            merging = [name for name in names if tier_of(name) == tier]
            if len(merging) >= FAN_IN:
                try:
                    records, having = self._load(merging, lambda column: True)
                    best = _best(records)
                    history = self._histories(best, merging, having)
                except FileNotFoundError:  # another process is merging the same segments
                    return
                self._segments.write(tier + 1, best.drop_columns(["segment"]), history)
                for name in merging:  # records first: history without records counts for nothing
                    self._remove(name + RECORDS)
                    self._remove(name + HISTORY)
            tier += 1

    def _remove(self, name: str) -> None:
        self.files.remove(f"{FOLDER}/{name}")

    def _counting(self, wanted: Wanted) -> pa.Table | None:
        """The records that count, with what decides it and the wanted columns; None when nothing is stored."""
        table = self._of_one_moment(lambda names: self._load(names, wanted)[0])
        return None if table is None else _best(table).drop_columns(["segment"])

    def _of_one_moment(self, read: Callable[[list[str]], T]) -> T | None:
        """What `read` makes of one and the same set of segments, beside processes that merge them; None when there are none."""
        for attempt in range(8):
            names = self._segments.names()
            if not names:
                return None
            try:
                return read(names)
            except FileNotFoundError:  # merged away between listing and reading
                time.sleep(0.01 * 2**attempt)
        raise StoreError(f"The store {self.url} keeps changing while it is read. Is something deleting its files? Try again.")

    def _load(self, names: list[str], wanted: Wanted) -> tuple[pa.Table, list[bool]]:
        """All records in these segments, superseded ones among them, with `segment` as position in `names`; and which have histories."""
        parts = [self._segments.read(name, RECORDS, lambda column: column in RANKED_BY or wanted(column)) for name in names]
        numbered = [part.append_column("segment", int32_array(np.full(len(part), at))) for at, part in enumerate(parts)]
        return _concat(numbered), [has_history(part) for part in parts]

    def _histories(self, records: pa.Table, names: list[str], having: list[bool]) -> pa.Table | None:
        """The history that came with each of these records: a failed first attempt left rows of its own."""
        parts = []
        for at in pc.unique(records["segment"]).to_pylist():
            if having[at]:
                owners = records.filter(pc.equal(records["segment"], at))["trial_id"]
                table = self._segments.read(names[at], HISTORY, lambda column: True)
                counts = pc.is_in(table["trial_id"], value_set=pc.unique(owners))
                parts.append(table if pc.all(counts).as_py() else table.filter(counts))  # else without a copy
        return _concat(parts) if parts else None


def _weights(trial_id: str) -> str:
    return f"weights/{trial_id}.safetensors"


def _is_panel(column: str) -> bool:
    return column.startswith(PANEL)


def _no_panel(column: str) -> bool:
    return not column.startswith(PANEL)


def _nothing_more(column: str) -> bool:
    return False


def _best(table: pa.Table) -> pa.Table:
    """One row a trial: complete before failed, then the latest, then the segment with the greatest name; in the order of the table."""
    trial = numpy_of(table["trial_id"].combine_chunks().dictionary_encode().indices)
    complete = np.array([state == "complete" for state in values_of(table["state"])], bool)
    order = np.lexsort((numpy_of(table["time_finished_ns"]), complete, trial))  # stable, and rows come in the order of segments
    last = np.append(np.diff(trial[order]) != 0, True) if len(order) else order
    return table.take(int32_array(np.sort(order[last])))


def _concat(tables: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise StoreError(
            f"Two segments of the store disagree about the type of a column: {error}. Were they written by other versions?"
        ) from error


def _only(table: pa.Table, trial_ids: Iterable[str]) -> pa.Table:
    return table.filter(pc.is_in(table["trial_id"], value_set=pa.array(list(trial_ids), pa.string())))
