"""Who is at what, read from the claims in a store."""

from __future__ import annotations

from pathlib import Path

from pipeline.orchestration.planning import Plan, PlannedTrial
from pipeline.orchestration.standing import held_claims, running_of, runs_of
from pipeline.store.claims import Claims
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params, StoreParams
from pipeline.study.spec import TrialSpec


def trial(name: str) -> PlannedTrial:
    return PlannedTrial(TrialSpec(name, "cell", {"epochs": 8}, 0, "digest", "code"), name, ("t",), None, {})


def test_runs_searches_and_trials_are_told_apart(tmp_path: Path) -> None:
    """A run and a search are a line each; a trial of the plan is running unless its record says that it is complete."""
    params = Params(store=StoreParams(url=str(tmp_path / "store")))
    claims = Claims(TrialStore(params.store.url), "me", 60.0)
    for name, note in [
        ("host-1-abc", {"study": "quick", "trials": 54, "stored": 3, "failed": 1, "left_s": 125}),
        ("search-quick-123", {"study": "quick", "search": True}),
        ("a", {"epoch": 3}),
        ("b", {}),
        ("foreign", {"epoch": 1}),
    ]:
        claims.take(name)
        claims.renew(name, **note)
    plan = Plan("quick", {name: trial(name) for name in ("a", "b", "c")}, [], [])
    held = held_claims(params)
    lines = runs_of(held)
    assert len(lines) == 2
    assert any("run of quick" in line and "3 of 54 trials done, 1 failed, 2:05 left" in line for line in lines)
    assert any(line.startswith("search of quick on ") for line in lines)
    running = running_of(plan, {"b": Record({"state": "complete"})}, held)
    assert running.keys() == {"a"}
    assert running["a"]["progress"] == "epoch 3 of 8"
