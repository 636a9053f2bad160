"""Asking about trials: status, trials, why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import JsonOption, StudyOption, app, find, planned, print_json, say

if TYPE_CHECKING:
    from pipeline.orchestration.planning import Plan
    from pipeline.store.records import Record


@app.command(epilog="Example:  ablate status --study quick")
def status(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """State of every trial of the plan; for a failed one the last line of the error and how to rerun it."""
    made, records, _ = planned(study)
    rows = [_trial_entry(made, trial_id, records) for trial_id in made.trials]
    if as_json:
        print_json([{key: row[key] for key in ("trial_id", "name", "tables", "state", "reason")} for row in rows])
        return
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    say(f"{made.study}: " + (", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"))
    for row in rows:
        if row["state"] == "failed":
            say(f"  failed {row['name']}: {row['reason']}")
            say(f"         rerun: ablate run --study {made.study} --trial {row['trial_id']}")
    for reason in dict.fromkeys(reason for reasons in made.blocked.values() for reason in reasons):
        say(f"  blocked: {reason}")


@app.command(epilog="Example:  ablate trials --json | python -m json.tool")
def trials(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """One line a trial: id, state, test accuracy at the last epoch, name, tables; as JSON with resolved configuration and all metrics."""
    made, records, _ = planned(study)
    rows = [_trial_entry(made, trial_id, records) for trial_id in made.trials]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        accuracy = row["metrics"].get("metric_test_acc_top1_last")
        shown = "      -" if accuracy is None else f"{100 * accuracy:6.2f}%"
        say(f"{row['trial_id']}  {row['state']:8}  {shown}  {row['name']}  [{', '.join(row['tables'])}]")


@app.command(epilog="Example:  ablate why 3f9c0a12")
def why(
    trial_id: Annotated[str, typer.Argument(help="Trial id, or its beginning.")], study: StudyOption = None, as_json: JsonOption = False
) -> None:
    """What the identity of a trial is made of; for one that is not stored, the nearest stored trial and what differs."""
    from pipeline.orchestration.explain import explain

    made, records, _ = planned(study)
    found = find(made.trials, trial_id)
    answer = explain(made.trials[found], records)
    if as_json:
        print_json(answer)
        return
    say(f"{answer['name']}  [{found}]  {answer['state']}")
    for key, value in answer["identity"].items():
        say(f"  {key}: {json.dumps(value, sort_keys=True)}")
    if answer["nearest"]:
        say(f"Nearest stored trial: {answer['nearest']['trial_id']}. It differs in:")
        for key, (mine, theirs) in answer["nearest"]["differs"].items():
            say(f"  {key}: {mine} here, {theirs} there")
    elif answer["state"] == "planned":
        say("The store is empty, so there is no trial to compare with.")


def _trial_entry(made: Plan, trial_id: str, records: dict[str, Record]) -> dict[str, Any]:
    trial, record = made.trials[trial_id], records.get(trial_id)
    state = trial.state if trial.reason or record is None else record["state"]
    return {
        "trial_id": trial_id,
        "cell_id": trial.spec.cell_id,
        "name": trial.name,
        "tables": list(trial.tables),
        "state": state,
        "reason": trial.reason or (record or {}).get("reason", ""),
        "seed": trial.spec.seed,
        "config": trial.spec.config,
        "metrics": {key: value for key, value in (record or {}).items() if key.startswith("metric_")},
    }
