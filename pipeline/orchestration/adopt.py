"""Adopt stored trials after a change of code that altered no number: re-run some, and re-key the rest if these are bit-equal."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import counted
from pipeline.orchestration.bit_equal import Difference, differences, other_environment
from pipeline.orchestration.planning import Plan, PlannedTrial, code_of
from pipeline.orchestration.progress import warn
from pipeline.orchestration.run import run_plan
from pipeline.orchestration.twins import Twin, find_twins
from pipeline.store.records import Record
from pipeline.store.repair import HISTORY_LOST
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.project import absolute_url

AT_A_TIME = 256  # trials that are re-keyed by one segment of the store
SHOWN = 3  # differing values that are printed of a trial


@dataclass(frozen=True)
class Survey:
    """What could be adopted.

    Attributes:
        candidates: trials that are not stored but have a complete twin.
        incomparable: the same, but the twin's record holds no digest of its weights, or its history was lost.
        trained: trials with a twin that were trained with the present code already, where the twin was: proof that costs nothing.
    """

    candidates: list[Twin]
    incomparable: list[Twin]
    trained: list[Twin]


@dataclass(frozen=True)
class Check:
    """A trial that was trained with the present code, compared with its twin.

    Attributes:
        twin: the pair.
        problem: why there is nothing to compare; '' for a trial that completed.
        differences: what differs; empty where all is equal, bit for bit.
        environment: what differs about where the two ran.
    """

    twin: Twin
    problem: str
    differences: list[Difference]
    environment: list[str]

    @property
    def is_equal(self) -> bool:
        """Whether the new code gave what the old one did."""
        return not self.problem and not self.differences

    def lines(self) -> list[str]:
        """For people: the trial, its first differing metrics, the likely cause."""
        trial, twin = self.twin.trial, self.twin.record
        what = self.problem or "; ".join(difference.line() for difference in self.differences[:SHOWN]) or "equal"
        more = f"; and {len(self.differences) - SHOWN} more" if len(self.differences) > SHOWN else ""
        found = [f"{trial.name} [{trial.spec.trial_id}], twin {twin['trial_id']}: {what}{more}"]
        if self.environment and not self.is_equal:
            found.append(f"  likely cause: {'; '.join(self.environment)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **describe(self.twin),
            "equal": self.is_equal,
            "problem": self.problem,
            "differences": [{"field": d.field, "then": d.then, "now": d.now} for d in self.differences],
            "environment": self.environment,
        }


def describe(twin: Twin) -> dict[str, Any]:
    """A trial and its twin, ready for JSON."""
    trial = twin.trial
    return {"trial_id": trial.spec.trial_id, "name": trial.name, "twin": twin.record["trial_id"], "code": twin.change.to_dict()}


def survey(plan: Plan, records: Mapping[str, Record]) -> Survey:
    """Look for trials of a plan whose identity equals that of a complete stored trial but for the code key."""
    new = [trial for trial in plan.to_run() if trial.spec.trial_id not in records]
    twins = list(find_twins(new, records))
    candidates = [twin for twin in twins if _is_comparable(twin.record)]
    kinds = {twin.kind for twin in candidates}
    trained = [trial for trial in plan.to_run() if _was_trained(records.get(trial.spec.trial_id))] if candidates else []
    proofs = [
        twin
        for twin in find_twins(trained, records)
        if twin.kind in kinds and not other_environment(twin.record, records[twin.trial.spec.trial_id])
    ]
    return Survey(candidates, [twin for twin in twins if not _is_comparable(twin.record)], proofs)


def draw(candidates: Iterable[Twin], number: int, seed: int) -> list[Twin]:
    """The trials to re-run: drawn at random, but first one of each kind, then other code keys, then other methods.

    Args:
        candidates: what to draw from.
        number: how many, if there are as many; more where there are more kinds (distinct sets of changed modules).
        seed: of the draw; the order of the candidates does not matter.
    """
    left = sorted(candidates, key=lambda twin: twin.trial.spec.trial_id)
    random.Random(seed).shuffle(left)  # noqa: S311 - no secret depends on it
    drawn: list[Twin] = []
    kinds: set[tuple[str, ...]] = set()
    keys: set[tuple[str, str]] = set()
    methods: set[str] = set()
    open_kinds = {twin.kind for twin in left}
    while left and (len(drawn) < number or open_kinds):
        best = min(
            range(len(left)),
            key=lambda i: (left[i].kind in kinds, _keys(left[i]) in keys, -len(_methods(left[i].trial) - methods)),
        )
        twin = left.pop(best)
        drawn.append(twin)
        kinds.add(twin.kind)
        keys.add(_keys(twin))
        methods |= _methods(twin.trial)
        open_kinds.discard(twin.kind)
    return drawn


def disproofs(found: Survey, records: Mapping[str, Record]) -> list[Check]:
    """Trials of `found.trained` whose metrics or weights differ from their twin's, so that nothing needs to be re-run to refuse."""
    checks = [Check(twin, "", differences(twin.record, records[twin.trial.spec.trial_id]), []) for twin in found.trained]
    return [check for check in checks if not check.is_equal]


def recheck(drawn: list[Twin], plan: Plan, params: Params, log: Callable[[str], None] = warn) -> list[Check]:
    """Train these trials with the present code, stored like any other, and compare them with their twins.

    Raises:
        StoreError, DataError, ClusterError, ConfigError, KeyboardInterrupt: see `run_plan`.
    """
    run_plan(plan, params, only=[twin.trial.spec.trial_id for twin in drawn], log=log)
    store = TrialStore(absolute_url(params.store.url))
    records = store.records()
    olds = whole({twin.record["trial_id"]: twin.record for twin in drawn}, store)
    ids = {twin.trial.spec.trial_id for twin in drawn}
    news = whole({trial_id: records[trial_id] for trial_id in ids if trial_id in records}, store)
    found = []
    for twin in drawn:
        old, new = olds[twin.record["trial_id"]], news.get(twin.trial.spec.trial_id)
        if new is None:
            found.append(Check(twin, "was not run", [], []))
        elif new["state"] != "complete":
            found.append(Check(twin, f"{new['state']}: {new.get('reason', '')}", [], other_environment(old, new)))
        else:
            found.append(Check(twin, "", differences(old, new), other_environment(old, new)))
    return found


def rekey(twins: Iterable[Twin], checked: Iterable[str], store: TrialStore) -> list[str]:
    """Append copies of the stored twins under the ids of the planned trials; nothing that is stored changes.

    A copy holds what the twin holds (metrics, times, environment, history, pictures, kept weights) with `adopted_from`, the trial
    that was really trained, and `adopted_checked`, those that were re-run, as JSON.

    Returns:
        The ids that were written; those that somebody else stored in the meantime are not among them.

    Raises:
        StoreError: the store cannot be read or written; what was appended before stays, and another call goes on from there.
    """
    proof, known = json.dumps(sorted(checked)), store.records()
    todo = [twin for twin in twins if twin.trial.spec.trial_id not in known]
    written = []
    sources = whole_in_batches([twin.record for twin in todo], store)
    for group, olds in zip(_groups(todo), sources, strict=True):
        copies = []
        for twin, old in zip(group, olds, strict=True):
            _copy_weights(old["trial_id"], twin.trial.spec.trial_id, store)
            copies.append(Record({**old, **_new_columns(twin, proof)}, old.history, old.panel))
        store.append(copies)
        written += [copy["trial_id"] for copy in copies]
    store.compact()
    return written


def whole(records: Mapping[str, Record], store: TrialStore) -> dict[str, Record]:
    """These records with their history and pictures."""
    return {record["trial_id"]: record for group in whole_in_batches(list(records.values()), store) for record in group}


def whole_in_batches(records: list[Record], store: TrialStore) -> Iterator[list[Record]]:
    """The same in groups of `AT_A_TIME`, in their order, so that long histories need not be in memory as Python objects at once."""
    ids = [record["trial_id"] for record in records]
    history, panels = store.history_table(ids), store.panels_table(ids)
    for group in _groups(records):
        wanted = pa.array([record["trial_id"] for record in group], pa.string())
        epochs: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(_rows(history, wanted), key=lambda row: row["epoch"]):
            epochs.setdefault(row.pop("trial_id"), []).append(row)
        pictures = {row.pop("trial_id"): row for row in _rows(panels, wanted)}
        yield [Record(record, epochs.get(record["trial_id"], ()), pictures.get(record["trial_id"])) for record in group]


def refusal(checks: list[Check]) -> str:
    """Why nothing is adopted, for people: every trial that was compared, and what to do."""
    wrong = [check for check in checks if not check.is_equal]
    unequal = "1 is not equal to its twin" if len(wrong) == 1 else f"{len(wrong)} are not equal to their twins"
    return "\n".join(
        [
            f"Nothing was adopted: of {counted(len(checks), 'trial')} trained with the present code, {unequal}.",
            *(f"  {line}" for check in checks for line in check.lines()),
            "Those that completed are stored under their new ids as freshly trained trials; no other trial was touched.",
            "If the change was meant to alter numbers, `ablate run` trains the rest; if not, mend the code and adopt again.",
        ]
    )


def _groups(items: list[Any]) -> Iterator[list[Any]]:
    return (items[start : start + AT_A_TIME] for start in range(0, len(items), AT_A_TIME))


def _was_trained(record: Record | None) -> bool:
    return record is not None and record["state"] == "complete" and "adopted_from" not in record


def _is_comparable(record: Record) -> bool:
    return "weights_sha256" in record and not record.get(HISTORY_LOST)


def _keys(twin: Twin) -> tuple[str, str]:
    return twin.code_key, twin.trial.spec.code_key


def _methods(trial: PlannedTrial) -> set[str]:
    config = trial.spec.config
    return {
        f"backbone {config['backbone']['name']}",
        f"dataset {trial.spec.data_digest}",
        *(f"loss {name}" for name in config["loss"]),
        *(f"regularizer {component['name']}" for component in config["regularizers"]),
    }


def _new_columns(twin: Twin, proof: str) -> dict[str, Any]:
    spec = twin.trial.spec
    return {
        "trial_id": spec.trial_id,
        "cell_id": spec.cell_id,
        "name": twin.trial.name,
        "spec": json.dumps(spec.to_dict(), sort_keys=True),
        "code": json.dumps(code_of(spec.config), sort_keys=True),
        "adopted_from": twin.record.get("adopted_from", twin.record["trial_id"]),
        "adopted_checked": proof,
    }


def _copy_weights(old: str, new: str, store: TrialStore) -> None:
    if store.has_weights(old):
        store.save_weights(new, store.load_weights(old))


def _rows(table: pa.Table | None, wanted: pa.Array) -> list[dict[str, Any]]:
    if table is None:
        return []
    rows = table.filter(pc.is_in(table["trial_id"], value_set=wanted)).to_pylist()
    return [{key: value for key, value in row.items() if value is not None} for row in rows]
