"""What is damaged or left over in a store, and putting it right without losing anything that is sound.

Damaged segments are moved to `quarantine/`, never deleted. Whatever is not named in a finding stays as it is, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError, counted
from pipeline.store import checkpoints, claims
from pipeline.store.files import StoreFiles
from pipeline.store.records import FINAL_FAILURES
from pipeline.store.segments import (
    FOLDER,
    HISTORY,
    NAME,
    RECORDS,
    Segments,
    file_name,
    has_history,
    is_as_written,
    is_its_history,
    tier_of,
    written_ns,
)
from pipeline.store.trial_store import RANKED_BY, TrialStore

QUARANTINE = "quarantine"
OLD_S = 3600.0  # what a living writer on another machine may have begun is left alone for so long
WITH_TEMPORARIES = (FOLDER, "weights", claims.FOLDER)
HISTORY_LOST = "history_lost"  # column of records whose history was damaged


@dataclass(frozen=True)
class Finding:
    """Something in a store that is not as it should be.

    Attributes:
        severity: damage: what was written cannot be read; leftover: of a process that ended early, in nobody's way.
        file: from the root of the store.
        what: what is wrong with it.
        remedy: what `repair` does about it.
        trials: ids of the trials that a damaged segment holds, as far as one of its files still tells.
    """

    severity: Literal["damage", "leftover"]
    file: str
    what: str
    remedy: str
    act: Callable[[], None] = field(repr=False, compare=False)
    trials: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.remedy}"


def examine(store: TrialStore) -> list[Finding]:
    """Read every file of a store, checksums included, and say what is wrong; changes nothing.

    Raises:
        StoreError: the store cannot be listed.
    """
    scan = _Scan(store.files)
    return [*scan.segments(), *scan.temporaries(), *scan.checkpoints(), *scan.claims()]


def examine_segments(store: TrialStore) -> list[Finding]:
    """What `examine` says of records and histories: of what tables are made of.

    Raises:
        StoreError: the store cannot be listed.
    """
    return list(_Scan(store.files).segments())


def repair(store: TrialStore) -> list[Finding]:
    """Do what `examine` proposes, and give what was done.

    Raises:
        StoreError: the store cannot be listed or written; what was not done yet is proposed again.
    """
    done = []
    for finding in examine(store):
        finding.act()
        done.append(finding)
    return done


class _Scan:
    """One look at all files of a store."""

    def __init__(self, files: StoreFiles) -> None:
        self.files = files
        self.final: set[str] = set()  # trials of sound segments that will not run again

    def segments(self) -> Iterator[Finding]:
        listed = self.files.names(FOLDER)
        names = sorted({name.removesuffix(RECORDS) for name in listed if name.endswith(RECORDS)})
        names = [name for name in names if NAME.fullmatch(name)]
        sound: dict[str, set[str]] = {}
        broken: list[tuple[str, str, str]] = []
        for name in names:
            try:
                records = self._records(name)
            except FileNotFoundError:
                continue  # merged meanwhile
            except _DamageError as damage:
                broken.append((name, RECORDS, str(damage)))
                continue
            sound[name] = set(records["trial_id"].to_pylist())
            for trial_id, state, failure in _outcomes(records):
                if state == "complete" or (state == "failed" and failure in FINAL_FAILURES):
                    self.final.add(trial_id)
            if has_history(records):
                try:
                    self._history(name, records)
                except FileNotFoundError:
                    if self.files.exists(file_name(name, RECORDS)):
                        broken.append((name, HISTORY, "is missing"))
                except _DamageError as damage:
                    broken.append((name, HISTORY, str(damage)))
        elsewhere = set().union(*sound.values())
        for name, suffix, why in broken:
            if suffix == RECORDS:
                yield self._records_damaged(name, why, elsewhere)
            else:
                yield self._history_damaged(name, why, sound[name])
        for name in sorted(name.removesuffix(HISTORY) for name in listed if name.endswith(HISTORY)):
            if NAME.fullmatch(name) and name not in names and time.time() - written_ns(name) / 1e9 > OLD_S:
                yield self._leftover(file_name(name, HISTORY), "history whose records were never written", "remove it")

    def temporaries(self) -> Iterator[Finding]:
        folders = [*WITH_TEMPORARIES, *(f"{checkpoints.FOLDER}/{trial_id}" for trial_id in self.files.folders(checkpoints.FOLDER))]
        for folder in folders:
            for name in sorted(self.files.names(folder)):
                if name.endswith(".tmp") and self.files.is_abandoned(f"{folder}/{name}", OLD_S):
                    yield self._leftover(f"{folder}/{name}", "half a file of a writer that is gone", "remove it")

    def checkpoints(self) -> Iterator[Finding]:
        for trial_id in sorted(self.files.folders(checkpoints.FOLDER)):
            names = checkpoints.newest_first(self.files, trial_id)
            folder = f"{checkpoints.FOLDER}/{trial_id}"
            if trial_id in self.final and names:
                what = f"{counted(len(names), 'checkpoint')} of a trial that is finished"
                yield Finding("leftover", folder, what, "remove them", lambda folder=folder: self.files.remove_folder(folder))  # type: ignore[misc]
                continue
            for name in names:
                try:
                    if checkpoints.is_whole(name, self._content(f"{folder}/{name}")):
                        continue
                except FileNotFoundError:
                    continue  # pruned meanwhile
                except _DamageError:
                    pass
                remedy = "remove it: the trial continues from the one before it, or begins anew"
                yield Finding("damage", f"{folder}/{name}", "not what was written", remedy, self._removal(f"{folder}/{name}"))

    def claims(self) -> Iterator[Finding]:
        for trial_id, generations in sorted(claims.all_generations(self.files).items()):
            for generation in generations[:-1]:
                yield self._leftover(claims.claim_name(trial_id, generation), "a claim that another took over", "remove it")
            newest = claims.claim_name(trial_id, generations[-1])
            claim = claims.read_claim(self.files, trial_id, generations[-1])
            if isinstance(claim, StoreError):
                remedy = "remove it: at worst the trial is run twice and stored once"
                yield Finding("damage", newest, "the claim cannot be read", remedy, self._removal(newest))
            elif claim is not None and claim.is_stale():
                yield self._leftover(newest, f"a claim of process {claim.pid} on {claim.host}, which is gone", "remove it")

    def _records_damaged(self, name: str, why: str, elsewhere: set[str]) -> Finding:
        ids = self._trials_of(name)
        if ids is None:
            affected = "its trials will be trained again"
        else:
            again = len(ids - elsewhere)
            kept = f", {len(ids) - again} of them stored elsewhere too" if again < len(ids) else ""
            affected = f"it holds {counted(len(ids), 'trial')}{kept}; {again} will be trained again"
        return Finding(
            "damage",
            file_name(name, RECORDS),
            f"{why}; {affected}",
            f"move it and its history to {QUARANTINE}/",
            lambda: self._quarantine(name),
            tuple(sorted(ids or ())),
        )

    def _history_damaged(self, name: str, why: str, trials: set[str]) -> Finding:
        def act() -> None:
            try:
                records = self._records(name)
            except FileNotFoundError:
                return  # somebody else did it
            lost = pa.array([True] * len(records))
            at = records.schema.get_field_index(HISTORY_LOST)
            kept = records.append_column(HISTORY_LOST, lost) if at < 0 else records.set_column(at, HISTORY_LOST, lost)
            Segments(self.files).write(tier_of(name), kept, None)
            self._quarantine(name)

        return Finding(
            "damage",
            file_name(name, HISTORY),
            f"{why}; {counted(len(trials), 'trial')} lose their numbers by epoch, their results stay",
            f"move the segment to {QUARANTINE}/ and write its records again, marked {HISTORY_LOST}",
            act,
            tuple(sorted(trials)),
        )

    def _leftover(self, file: str, what: str, remedy: str) -> Finding:
        return Finding("leftover", file, what, remedy, self._removal(file))

    def _removal(self, file: str) -> Callable[[], None]:
        return lambda: self.files.remove(file)

    def _quarantine(self, name: str) -> None:
        for suffix in (RECORDS, HISTORY):  # records first: history without records counts for nothing
            self.files.move(file_name(name, suffix), f"{QUARANTINE}/{name}{suffix}")

    def _trials_of(self, name: str) -> set[str] | None:
        """The trials of a damaged segment, as far as one of its two files still tells."""
        for suffix in (RECORDS, HISTORY):
            with contextlib.suppress(_DamageError, FileNotFoundError):
                return set(_table(self._content(file_name(name, suffix)), needed=["trial_id"], only=True)["trial_id"].to_pylist())
        return None

    def _records(self, name: str) -> pa.Table:
        content = self._content(file_name(name, RECORDS))
        table = _table(content, needed=RANKED_BY)
        if not is_as_written(name, table, content):
            raise _DamageError("is not what was written")
        return table

    def _history(self, name: str, records: pa.Table) -> pa.Table:
        content = self._content(file_name(name, HISTORY))
        table = _table(content, needed=["trial_id", "epoch"])
        if not is_its_history(records, content):
            raise _DamageError("is not what was written")
        return table

    def _content(self, file: str) -> bytes:
        """Bytes of a file. Only what the disk has lost is damage: a network that fails says nothing about the file."""
        try:
            return self.files.read(file)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                raise _DamageError(f"cannot be read: {error.__cause__}") from error
            raise


def _table(content: bytes, *, needed: Sequence[str], only: bool = False) -> pa.Table:
    """A Parquet file, every page of it checked; `only` the needed columns, or all."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if absent := [column for column in needed if column not in file.schema_arrow.names]:
            raise _DamageError(f"has no column {', '.join(absent)}")
        table = file.read(columns=list(needed) if only else None, use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _DamageError(f"cannot be read: {str(error).rstrip('.')}") from error
    return table


class _DamageError(Exception):
    """Why a file is not what was written."""


def _outcomes(records: pa.Table) -> Iterator[tuple[str, str, str | None]]:
    failure = records["failure"].to_pylist() if "failure" in records.column_names else [None] * len(records)
    return zip(records["trial_id"].to_pylist(), records["state"].to_pylist(), failure, strict=True)
