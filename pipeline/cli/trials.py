"""Trials: status, trials, why, adopt."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import JsonOption, StudyOption, app, find, note, note_blocked, planned, print_json, say
from pipeline.errors import TrialError, counted

if TYPE_CHECKING:
    from pipeline.orchestration.adopt import Survey
    from pipeline.orchestration.planning import Plan
    from pipeline.orchestration.twins import Twin
    from pipeline.store.records import Record


@app.command(epilog="Examples:  ablate status · ablate status --study quick --json · watch -n 10 ablate status")
def status(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """State of every trial of the plan, also while it runs elsewhere; for a failed one the error and how to rerun it.

    What runs is read from the claims in the store, so this works from any shell and any machine that sees the store.
    """
    from pipeline.orchestration.events import rerun_command, traceback_of
    from pipeline.orchestration.standing import held_claims, running_of, runs_of

    made, records, params = planned(study, check=False)
    claims = held_claims(params)
    rows = [_trial_entry(made, trial_id, records) for trial_id in made.trials]
    running = running_of(made, records, claims)
    for row in rows:
        if row["trial_id"] in running:
            row |= {"state": "running", "running": running[row["trial_id"]]}
    if as_json:
        keys = ("trial_id", "name", "tables", "state", "reason", "running")
        print_json([{key: row[key] for key in keys if key in row} for row in rows])
        return
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    say(f"{made.study}: " + (", ".join(f"{n} {state}" for state, n in states.items()) or "no trials"))
    for line in runs_of(claims):
        say(f"  {line}")
    for row in rows:
        if row["state"] == "running":
            at = row["running"]
            say(f"  running {row['name']}: {at['progress']}, on {at['host']} (process {at['pid']}), for {at['for']}")
        elif row["state"] == "failed":
            say(f"  failed {row['name']}: {row['reason']}")
            traceback = traceback_of(row["trial_id"])
            say("         " + (f"traceback: {traceback}; " if traceback.exists() else "") + rerun_command(made.study, row["trial_id"]))
    for reason in made.why_blocked():
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
        origin = f"  adopted from {row['adopted_from']}" if row["adopted_from"] else ""
        say(f"{row['trial_id']}  {row['state']:8}  {shown}  {row['name']}  [{', '.join(row['tables'])}]{origin}")


@app.command(epilog="Example:  ablate why 3f9c0a12")
def why(
    trial_id: Annotated[str, typer.Argument(help="Trial id, or its beginning.")], study: StudyOption = None, as_json: JsonOption = False
) -> None:
    """What the identity of a trial is made of; for one that is not stored, the nearest stored trial and what differs.

    A stored trial that the plan does not ask for is explained from its record.
    """
    from pipeline.orchestration.planning import check_identified
    from pipeline.orchestration.why import explain, explain_stored

    made, records, _ = planned(study, check=False)
    known = {**made.trials, **records}
    if not any(stored.startswith(trial_id) for stored in known):
        check_identified(made)
    note_blocked(made)
    found = find(known, trial_id, where="the plan or the store")
    answer = explain(made.trials[found], records) if found in made.trials else explain_stored(records[found])
    if as_json:
        print_json(answer)
        return
    for line in _explanation(answer, study, is_whole=not made.blocked):
        say(line)


@app.command(epilog="Examples:  ablate adopt --dry-run · ablate adopt --check 5 --seed 1")
def adopt(
    study: StudyOption = None,
    check: Annotated[int, typer.Option("--check", "-n", min=1, help="Trials to re-run; more where more kinds of change are met.")] = 3,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the random draw of these trials; default: a new one, printed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what could be adopted and what would be re-run; run nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """After a change of code that altered no number: keep the stored trials instead of training them again.

    Re-runs some trials that differ from a stored one in nothing but the code. If each of them is equal to its twin, bit for bit, the
    others are stored under their new ids as copies of theirs; if one is not, none is. Nothing that is stored is changed.
    """
    from pipeline.orchestration.adopt import Check, describe, disproofs, draw, recheck, refusal, rekey, survey
    from pipeline.store.trial_store import TrialStore
    from pipeline.study.project import absolute_url

    made, records, params = planned(study)
    found = survey(made, records)
    seed = secrets.randbelow(2**31) if seed is None else seed
    drawn = draw(found.candidates, check, seed)
    checks: list[Check] = disproofs(found, records)
    refused, adopted = bool(checks), list[str]()
    tell = (lambda line: None) if as_json else say
    for line in _intention(found, [] if refused else drawn, seed):
        tell(line)
    if drawn and not refused and not dry_run:
        try:
            checks = recheck(drawn, made, params)
            refused = not all(one.is_equal for one in checks)
            if not refused:
                again = {twin.trial.spec.trial_id for twin in drawn}
                rest = [twin for twin in found.candidates if twin.trial.spec.trial_id not in again]
                adopted = rekey(rest, again, TrialStore(absolute_url(params.store.url)))
        except KeyboardInterrupt as interrupt:  # typer would only say "Aborted."
            note("\nInterrupted. What is stored stays; run the same command again to continue.")
            raise typer.Exit(130) from interrupt
    if as_json:
        shown = {name: [describe(twin) for twin in getattr(found, name)] for name in ("candidates", "incomparable")}
        drawn_ids = [twin.trial.spec.trial_id for twin in drawn]
        result = {"checked": [one.to_dict() for one in checks], "adopted": adopted, "refused": refused, "dry_run": dry_run}
        print_json({**shown, "seed": seed, "drawn": drawn_ids, **result})
        if refused:
            raise typer.Exit(1)
    elif refused:
        raise TrialError(refusal(checks))
    elif drawn and not dry_run:
        say(f"All {len(checks)} equal, bit for bit. Adopted {counted(len(adopted), 'trial')}; no run trains them again.")


def _intention(found: Survey, drawn: list[Twin], seed: int) -> list[str]:
    """What is going to happen, before it does."""
    lines = []
    if found.incomparable:
        lines.append(f"{counted(len(found.incomparable), 'trial')} left out: their twins lack the digest of the weights, or their history.")
    if not found.candidates:
        return [*lines, "Nothing to adopt: no new trial of the plan differs from a complete stored one in nothing but the code."]
    changes = Counter(twin.change.line() for twin in found.candidates)
    lines.append(f"{counted(len(found.candidates), 'new trial')} with a stored twin that differs in nothing but the code:")
    lines += [f"  {number}: {line}" for line, number in changes.most_common()]
    if not drawn:
        return lines
    took = sum(twin.record.get("time_total_s", 0.0) for twin in drawn)
    lines.append(f"To be re-run ({len(drawn)}, drawn with --seed {seed}; their twins took {took:.0f} s):")
    lines += [f"  {twin.trial.name} [{twin.trial.spec.trial_id}], twin {twin.record['trial_id']}" for twin in drawn]
    return lines


def _explanation(answer: dict[str, Any], study: str | None, *, is_whole: bool) -> list[str]:
    """An answer of `explain`, for people; `is_whole`: no trial of the plan is blocked."""
    from pipeline.orchestration.twins import CodeChange

    lines = [f"{answer['name']}  [{answer['trial_id']}]", f"  state: {answer['state']}"]
    if answer["reason"]:
        lines.append(f"  reason: {answer['reason']}")
    unplanned = "none, the plan does not ask for it" if is_whole else "not known while trials of the plan are blocked"
    lines.append(f"  tables: {', '.join(answer['tables']) if answer['planned'] else unplanned}")
    if answer["adopted_from"]:
        lines.append(f"  adopted from: {answer['adopted_from']}, after re-running {', '.join(answer['adopted_checked'])}")
    lines.append("Identity:" if answer["identity"] else "What its identity was made of is not recorded.")
    for key, value in answer["identity"].items():
        for name, inner in value.items() if key == "config" else [(key, value)]:
            lines.append(f"  {'config.' if key == 'config' else ''}{name}: {_compact(inner)}")
    nearest = answer["nearest"]
    if nearest is None:
        return [*lines, "The store holds no trial to compare with."] if answer["state"] == "planned" else lines
    lines.append(f"Nearest stored trial: {nearest['name']}  [{nearest['trial_id']}], {nearest['state']}. It differs in:")
    for key, (mine, theirs) in nearest["differs"].items():
        if key == "code":
            change = answer["code"]
            lines.append(f"  code: {CodeChange(**change).line()}")
        else:
            lines.append(f"  {key}: {_compact(mine)} here, {_compact(theirs)} there")
    if list(nearest["differs"]) == ["code"] and nearest["state"] == "complete":
        command = "ablate adopt" + (f" --study {study}" if study else "")
        lines.append(f"Only the code differs. If that alters no number, `{command}` keeps the stored trials after re-running some.")
    return lines


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _trial_entry(made: Plan, trial_id: str, records: dict[str, Record]) -> dict[str, Any]:
    from pipeline.orchestration.why import adoption

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
        **adoption(record),
    }
