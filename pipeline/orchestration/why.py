"""Why a trial is what it is: the parts of its identity, and for one that is not stored the nearest stored trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.orchestration.planning import PlannedTrial, code_of
from pipeline.orchestration.twins import CodeChange, code_change, identity_of, nearness, stored_identity
from pipeline.store.records import Record

ONLY_CODE = {"code"}


def explain(trial: PlannedTrial, records: Mapping[str, Record]) -> dict[str, Any]:
    """A trial of the plan: identity, state, tables; for one that is not stored the nearest stored trial and what differs.

    `nearest` is None where the trial is stored or nothing is. `code` says which modules' code differs from that of the nearest;
    None where the code is the same.
    """
    record = records.get(trial.spec.trial_id)
    answer = {
        "trial_id": trial.spec.trial_id,
        "name": trial.name,
        "state": trial.state if record is None else record["state"],
        "reason": trial.reason or (record or {}).get("reason", ""),
        "planned": True,
        "tables": list(trial.tables),
        "identity": identity_of(trial.spec),
        "nearest": None,
        "code": None,
        **adoption(record),
    }
    found = None if record is not None else _nearest(trial, records)
    if found is not None:
        other, differs = found
        answer["nearest"] = {"trial_id": other["trial_id"], "name": other.get("name", ""), "state": other["state"], "differs": differs}
        if "code" in differs:
            answer["code"] = code_change(code_of(trial.spec.config), other).to_dict()
    return answer


def explain_stored(record: Record) -> dict[str, Any]:
    """A stored trial that the plan does not ask for, from its record alone; keys as in `explain`."""
    return {
        "trial_id": record["trial_id"],
        "name": record.get("name", ""),
        "state": record["state"],
        "reason": record.get("reason", ""),
        "planned": False,
        "tables": [],
        "identity": stored_identity(record) or {},
        "nearest": None,
        "code": None,
        **adoption(record),
    }


def adoption(record: Record | None) -> dict[str, Any]:
    """`adopted_from`: the trial that was really trained; `adopted_checked`: those that were re-run to prove it. None and [] else."""
    stored = record or {}
    return {"adopted_from": stored.get("adopted_from"), "adopted_checked": json.loads(stored.get("adopted_checked", "[]"))}


def _nearest(trial: PlannedTrial, records: Mapping[str, Record]) -> tuple[Record, dict[str, tuple[Any, Any]]] | None:
    """The stored trial that differs in nothing but the code, else in the fewest fields; the later ones of equals by `nearness`."""
    mine = identity_of(trial.spec)
    flat, now = _flat(mine), code_of(trial.spec.config)
    stored = [(record, theirs) for record in records.values() if (theirs := stored_identity(record)) is not None]
    # Comparing whole parts is cheap and gives the least number of fields that can differ: few trials need a look at every field.
    bounds = sorted(((_parts_that_differ(mine, theirs), i) for i, (_, theirs) in enumerate(stored)), key=lambda pair: pair[0])
    changes: dict[str | None, CodeChange] = {}
    best: tuple[tuple[Any, ...], Record, dict[str, tuple[Any, Any]]] | None = None
    for (only_code, least), i in bounds:
        if best is not None and (only_code, least) > best[0][:2]:
            break
        record, theirs = stored[i]
        differs = _differences(flat, _flat(theirs))
        code = record.get("code") if "code" in differs else None
        if code not in changes:
            changes[code] = code_change(now, record)
        rank = (only_code, len(differs), "seed" not in differs, *nearness(record, changes[code]))
        if best is None or rank < best[0]:
            best = (rank, record, differs)
    return None if best is None else best[1:]


def _parts_that_differ(mine: dict[str, Any], theirs: dict[str, Any]) -> tuple[bool, int]:
    parts = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    number = len(parts)
    if "config" in parts:
        a, b = mine["config"], theirs["config"]
        number += sum(a.get(key) != b.get(key) for key in a.keys() | b.keys()) - 1
    return parts != ONLY_CODE, number


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{prefix}[{i}]").items()}
    return {prefix: value}


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*mine, *(key for key in theirs if key not in mine)]
    return {
        key: (mine.get(key, "absent"), theirs.get(key, "absent")) for key in keys if mine.get(key, "absent") != theirs.get(key, "absent")
    }
