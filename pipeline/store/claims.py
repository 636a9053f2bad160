"""Claims: which of several drivers on one store runs a trial.

A claim is a small file, `claims/<trial_id>.<generation>.json`, that is made by exclusive creation. Taking over a claim whose holder is
gone creates the next generation, exclusively again, and the highest generation counts: two takers never both win. Claims only save
work: where two drivers run the same trial all the same (a network that was cut, an object store without exclusive creation), the store
counts one record of it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.files import StoreFiles
from pipeline.store.holder import is_dead, machine, started_s
from pipeline.store.trial_store import TrialStore

FOLDER = "claims"
NAME = re.compile(r"(?P<trial_id>.+)\.(?P<generation>\d{6})\.json")


@dataclass(frozen=True)
class Claim:
    """Who runs a trial.

    Attributes:
        trial_id, generation: the name of the file.
        owner: name of the driver's run, unique to it.
        host, pid: where it runs, for people.
        machine, pid_start_s: which process that is, see holder.py.
        since, renewed: seconds since 1970 by the holder's clock.
        lease_s: seconds after `renewed` from which on others may take the trial over.
        note: progress, such as epoch and epochs.
    """

    trial_id: str
    generation: int
    owner: str
    host: str
    pid: int
    machine: str
    pid_start_s: float | None
    since: float
    renewed: float
    lease_s: float
    note: dict[str, Any] = field(default_factory=dict)

    def is_stale(self) -> bool:
        """Whether its holder is gone: a dead process of this machine, or one that did not renew the claim for its lease.

        The clocks of the hosts must agree within the lease.
        """
        return is_dead(self.machine, self.pid, self.pid_start_s) or time.time() - self.renewed > self.lease_s


class Claims:
    """The claims of one driver; safe to use from several threads.

    Whoever takes a claim looks into the store after that: another driver may have finished the trial and released it in between.

    Args:
        store: where.
        owner: name of this driver's run, unique among all drivers of the store.
        lease_s: seconds without renewal after which others take this driver's trials over.

    Attributes:
        lost: trials that this object held until another driver took them over.
    """

    def __init__(self, store: TrialStore, owner: str, lease_s: float) -> None:
        self.files, self.owner, self.lease_s = store.files, owner, lease_s
        self.lost: set[str] = set()
        self._mine: dict[str, Claim] = {}
        self._lock = threading.RLock()

    def mine(self) -> list[str]:
        """Trials this object holds."""
        with self._lock:
            return list(self._mine)

    def take(self, trial_id: str) -> Claim | None:
        """Claim a trial; None when somebody else has it. The same owner may take it again.

        Raises:
            StoreError: the place cannot be read or written.
        """
        assert "/" not in trial_id, "a claim is one file of one folder"
        with self._lock:
            generations = _generations(self.files, trial_id)
            newest = generations[-1] if generations else 0
            if newest:
                claim = read_claim(self.files, trial_id, newest)
                if isinstance(claim, Claim) and claim.owner == self.owner:
                    return self._hold(self._put(replace(self._new(trial_id, newest), since=claim.since, note=claim.note)))
                if not self._is_free(claim, trial_id, newest):
                    return None
            claim = self._new(trial_id, newest + 1)
            if not self.files.create(claim_name(trial_id, claim.generation), _dump(claim)):
                return None
            generations = _generations(self.files, trial_id) or [claim.generation]
            if generations[-1] > claim.generation:  # another took over, and tidied up what this one had looked at
                self.files.remove(claim_name(trial_id, claim.generation))
                return None
            self._tidy(trial_id, generations[:-1])
            return self._hold(claim)

    def renew(self, trial_id: str, **note: Any) -> bool:
        """Say that this driver still runs the trial, and how far it is; False when the claim was lost to another.

        Args:
            trial_id: a trial this object took.
            **note: values that JSON knows; they are added to those said before.

        Raises:
            StoreError: the place cannot be read or written.
        """
        with self._lock:
            claim = self._mine.get(trial_id)
            if claim is None:
                return False
            if not self._is_ours(claim):
                del self._mine[trial_id]
                self.lost.add(trial_id)
                return False
            self._mine[trial_id] = self._put(replace(claim, renewed=time.time(), note={**claim.note, **note}))
            return True

    def release(self, trial_id: str) -> None:
        """Give a trial back; no file of the claim is left. A claim that another took over stays.

        Raises:
            StoreError: the file cannot be removed.
        """
        with self._lock:
            claim = self._mine.get(trial_id)
            if claim is not None:
                if self._is_ours(claim):
                    self.files.remove(claim_name(trial_id, claim.generation))
                del self._mine[trial_id]

    def held(self) -> dict[str, Claim]:
        """All live claims of anybody by trial.

        Raises:
            StoreError: the place cannot be read.
        """
        return held(self.files)

    def _hold(self, claim: Claim) -> Claim:
        self._mine[claim.trial_id] = claim
        self.lost.discard(claim.trial_id)
        return claim

    def _is_ours(self, claim: Claim) -> bool:
        """Whether a claim this object took is still the one that counts: the newest, and not one that others made after a release."""
        if _generations(self.files, claim.trial_id)[-1:] != [claim.generation]:
            return False
        found = read_claim(self.files, claim.trial_id, claim.generation)
        return isinstance(found, StoreError) or (found is not None and found.owner == self.owner)

    def _new(self, trial_id: str, generation: int) -> Claim:
        now, pid = time.time(), os.getpid()
        return Claim(trial_id, generation, self.owner, socket.gethostname(), pid, machine(), started_s(pid), now, now, self.lease_s)

    def _put(self, claim: Claim) -> Claim:
        self.files.write(claim_name(claim.trial_id, claim.generation), _dump(claim), durable=False)
        return claim

    def _is_free(self, claim: Claim | StoreError | None, trial_id: str, generation: int) -> bool:
        """Whether the newest claim stands in nobody's way. One that cannot be read is given the time of a lease."""
        if isinstance(claim, Claim):
            return claim.is_stale()
        age = self.files.age_s(claim_name(trial_id, generation))
        return claim is None or age is None or age > self.lease_s

    def _tidy(self, trial_id: str, superseded: list[int]) -> None:
        try:
            for generation in superseded:
                self.files.remove(claim_name(trial_id, generation))
        except StoreError:
            return  # they count for nothing, and `ablate doctor --repair` removes them


def held(files: StoreFiles) -> dict[str, Claim]:
    """All live claims by trial; those that cannot be read are left out.

    Raises:
        StoreError: the place cannot be listed.
    """
    found = (read_claim(files, trial_id, generations[-1]) for trial_id, generations in all_generations(files).items())
    return {claim.trial_id: claim for claim in found if isinstance(claim, Claim) and not claim.is_stale()}


def all_generations(files: StoreFiles) -> dict[str, list[int]]:
    """Generations of the claims of each trial, the one that counts last.

    Raises:
        StoreError: the place cannot be listed.
    """
    found: dict[str, list[int]] = {}
    for match in filter(None, map(NAME.fullmatch, files.names(FOLDER))):
        found.setdefault(match["trial_id"], []).append(int(match["generation"]))
    return {trial_id: sorted(generations) for trial_id, generations in found.items()}


def claim_name(trial_id: str, generation: int) -> str:
    """Name of the file of a claim, from the root of the store."""
    return f"{FOLDER}/{trial_id}.{generation:06d}.json"


def read_claim(files: StoreFiles, trial_id: str, generation: int) -> Claim | StoreError | None:
    """A claim, None when it is gone, or what is wrong with it."""
    name = claim_name(trial_id, generation)
    try:
        found = json.loads(files.read(name))
        claim = Claim(**{each.name: found[each.name] for each in fields(Claim)})
    except FileNotFoundError:
        return None
    except StoreError as error:
        return error
    except (ValueError, KeyError, TypeError) as error:
        return StoreError(f"The claim {files.path(name)} cannot be read: {error}. `ablate doctor --repair` removes it.")
    sound = (claim.trial_id, claim.generation) == (trial_id, generation) and isinstance(claim.note, dict)
    times = (claim.since, claim.renewed, claim.lease_s, claim.pid_start_s or 0.0)
    if not sound or not isinstance(claim.pid, int) or not all(isinstance(number, int | float) for number in times):
        return StoreError(f"The claim {files.path(name)} holds something else. `ablate doctor --repair` removes it.")
    return claim


def _generations(files: StoreFiles, trial_id: str) -> list[int]:
    return all_generations(files).get(trial_id, [])


def _dump(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), sort_keys=True, default=str).encode()
