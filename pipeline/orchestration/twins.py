"""Twins: stored trials whose identity is that of a planned one but for the code; and which modules' code they differ in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import counted
from pipeline.orchestration.planning import PlannedTrial, code_of
from pipeline.store.records import Record
from pipeline.study.identity import canonical_json, digest, identity_parts
from pipeline.study.spec import TrialSpec


@dataclass(frozen=True)
class CodeChange:
    """How the code of a trial differs from that of a stored one.

    Attributes:
        recorded: whether the stored trial says what its code was made of; without that the rest is empty.
        changed, appeared, went: modules, sorted.
    """

    recorded: bool
    changed: tuple[str, ...] = ()
    appeared: tuple[str, ...] = ()
    went: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted((*self.changed, *self.appeared, *self.went)))

    def line(self) -> str:
        """'2 modules changed: pipeline.losses.cam, pipeline.training.loop; 1 module went: pipeline.maps'."""
        if not self.recorded:
            return "which modules changed was not recorded"
        parts = {"changed": self.changed, "appeared": self.appeared, "went": self.went}
        return "; ".join(f"{counted(len(names), 'module')} {verb}: {', '.join(names)}" for verb, names in parts.items() if names)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Twin:
    """A planned trial with its stored twin.

    Attributes:
        trial: the planned one.
        record: of the stored one, without history and pictures.
        code_key: of the stored one.
        change: from the code of the stored one to that of the planned one.
    """

    trial: PlannedTrial
    record: Record
    code_key: str
    change: CodeChange

    @property
    def kind(self) -> tuple[str, ...]:
        """Equal for twins that differ in the same modules; where these were not recorded, in the same two code keys."""
        return self.change.modules if self.change.recorded else (self.code_key, self.trial.spec.code_key)


def identity_of(spec: TrialSpec) -> dict[str, Any]:
    """What the id of a trial is made of, its seed included."""
    return {**identity_parts(spec.config, spec.data_digest, spec.code_key, spec.upstream), "seed": spec.seed}


def stored_identity(record: Record) -> dict[str, Any] | None:
    """The same of a stored trial; None where the record does not tell."""
    try:
        spec = json.loads(record["spec"])
        parts = identity_parts(spec["config"], spec["data_digest"], spec["code_key"], spec.get("upstream", ()))
        return {**parts, "seed": spec["seed"]}
    except (KeyError, TypeError, ValueError, AttributeError):  # written by hand, or by a version that had no such field
        return None


def code_change(now: Mapping[str, str], record: Record) -> CodeChange:
    """How code differs from that of a stored trial.

    Args:
        now: module -> digest, see `planning.code_of`.
        record: of the stored trial.
    """
    try:
        then = dict(json.loads(record["code"]))
    except (KeyError, TypeError, ValueError):
        return CodeChange(recorded=False)
    return CodeChange(
        recorded=True,
        changed=tuple(sorted(name for name in now.keys() & then.keys() if now[name] != then[name])),
        appeared=tuple(sorted(now.keys() - then.keys())),
        went=tuple(sorted(then.keys() - now.keys())),
    )


def nearness(record: Record, change: CodeChange) -> tuple[Any, ...]:
    """Order of stored trials that differ in nothing but the code: complete ones first, then the fewest modules, then the latest."""
    modules = len(change.modules) if change.recorded else float("inf")
    return record["state"] != "complete", modules, -record.get("time_finished_ns", 0), record["trial_id"]


def find_twins(trials: Iterable[PlannedTrial], records: Mapping[str, Record]) -> Iterator[Twin]:
    """The complete stored twin of each of these trials that has one.

    Of several, the one whose code key served most of these trials counts, so that all are compared with one version of the code
    where that is possible; then the nearest, see `nearness`.
    """
    stored: dict[str, list[tuple[Record, str]]] = {}
    for record in records.values():
        identity = stored_identity(record) if record["state"] == "complete" else None
        # An id of another version of the identity, or made by hand, says nothing about what was trained.
        if identity is not None and digest(identity) == record["trial_id"]:
            stored.setdefault(_without_code(identity), []).append((record, identity["code"]))
    pairs: list[tuple[PlannedTrial, list[tuple[Record, str]]]] = []
    for trial in trials:
        same = stored.get(_without_code(identity_of(trial.spec)), [])
        pairs.append((trial, [(record, key) for record, key in same if key != trial.spec.code_key]))
    served = Counter((key, trial.spec.code_key) for trial, twins in pairs for key in {key for _, key in twins})
    for trial, twins in pairs:
        if twins:
            now = code_of(trial.spec.config)
            found = [Twin(trial, record, key, code_change(now, record)) for record, key in twins]
            yield min(found, key=lambda t: (-served[t.code_key, t.trial.spec.code_key], nearness(t.record, t.change)))


def _without_code(identity: dict[str, Any]) -> str:
    return canonical_json({key: value for key, value in identity.items() if key != "code"})
