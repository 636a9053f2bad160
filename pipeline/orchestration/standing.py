"""How a study stands while it runs somewhere: who is at which trial, read from the claims in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.errors import counted
from pipeline.orchestration.planning import Plan
from pipeline.orchestration.progress import clock
from pipeline.store.claims import Claim, Claims
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.project import absolute_url


def held_claims(params: Params) -> dict[str, Claim]:
    """All live claims in the store.

    Raises:
        StoreError: the store cannot be read.
    """
    return Claims(TrialStore(absolute_url(params.store.url)), "status", params.store.lease_s).held()


def running_of(plan: Plan, records: Mapping[str, Record], claims: Mapping[str, Claim]) -> dict[str, dict[str, Any]]:
    """Trial id -> where it runs, for how long, and how far it is, of the trials of a plan that somebody is at now."""
    found = {}
    for trial_id in plan.trials:
        claim = claims.get(trial_id)
        if claim is not None and not (trial_id in records and records[trial_id]["state"] == "complete"):
            done, epochs = claim.note.get("epoch", 0), plan.trials[trial_id].spec.config["epochs"]
            since = clock(time.time() - claim.since)
            found[trial_id] = {"host": claim.host, "pid": claim.pid, "for": since, "progress": f"epoch {done} of {epochs}"}
    return found


def runs_of(claims: Mapping[str, Claim]) -> list[str]:
    """A line for each run that is alive on the store, whatever its study."""
    lines = []
    for claim in claims.values():
        note = claim.note
        since = f"on {claim.host} (process {claim.pid}), for {clock(time.time() - claim.since)}"
        if note.get("search"):
            lines.append(f"search of {note['study']} {since}")
        elif "study" in note:
            left = f", {clock(note['left_s'])} left" if note.get("left_s") is not None else ""
            failed = f", {note['failed']} failed" if note.get("failed") else ""
            lines.append(
                f"run of {note['study']} {since}: {note.get('stored', 0)} of {counted(note.get('trials', 0), 'trial')} done{failed}{left}"
            )
    return lines
