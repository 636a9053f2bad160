"""What a search leaves in `search/`: the ledger, every point, the history and the importance of the fields, the winners."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from pipeline.orchestration.search.arms import ArmPlan, SearchPlan
from pipeline.orchestration.search.ledger import LedgerRow, as_csv, as_markdown, best_point, front, ledger_row
from pipeline.orchestration.search.points import Points, read_points
from pipeline.orchestration.search.storage import decode
from pipeline.orchestration.search.winners import Best, Winner, write_best
from pipeline.store.records import Record


def read_all(plan: SearchPlan, studies: dict[str, optuna.Study]) -> dict[str, Points]:
    """Arm -> its points, from Optuna's storage."""
    return {arm.name: read_points(studies[arm.name].get_trials(deepcopy=False)) for arm in plan.arms}


def ledger(plan: SearchPlan, points: dict[str, Points], records: dict[str, Record]) -> list[LedgerRow]:
    """One row an arm."""
    return [ledger_row(arm, points[arm.name], records) for arm in plan.arms]


def write_report(
    plan: SearchPlan, studies: dict[str, optuna.Study], points: dict[str, Points], rows: list[LedgerRow], notes: list[str], folder: Path
) -> None:
    """Write everything but the winners."""
    folder.mkdir(parents=True, exist_ok=True)
    fronts = {arm.name: _front(arm, points[arm.name]) for arm in plan.arms} if len(plan.arms[0].columns) > 1 else {}
    by_arm = {arm.name: _points(arm, points[arm.name]) for arm in plan.arms}
    content = {
        "study": plan.study,
        "digest": plan.digest,
        "optimised": plan.arms[0].columns,
        "arms": [asdict(row) for row in rows],
        "notes": notes,
        "points": by_arm,
        "fronts": fronts,
    }
    text = json.dumps(content, indent=1, default=str) + "\n"
    file = folder / "ledger.json"
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return  # nothing happened since, and drawing takes seconds
    file.unlink(missing_ok=True)
    from pipeline.analysis.figures.search import draw_history, draw_importance
    from pipeline.analysis.figures.style import save_figure

    (folder / "ledger.csv").write_text(as_csv(rows), encoding="utf-8")
    (folder / "ledger.md").write_text(as_markdown(plan.arms, rows, notes), encoding="utf-8")
    goal, upwards = plan.arms[0].spec.goals[0], plan.arms[0].directions[0] == "maximize"
    drawn = {
        "history": draw_history(
            {name: [row["values"] and row["values"][0] for row in rows] for name, rows in by_arm.items()},
            goal=goal,
            higher_is_better=upwards,
        ),
        "importance": draw_importance({arm.name: importances(studies[arm.name]) for arm in plan.arms}, goal=goal),
    }
    for name, figure in drawn.items():
        for suffix in ("svg", "png"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)  # that of another search
        if figure is not None:
            save_figure(figure, folder / name)
    file.write_text(text, encoding="utf-8")  # last: with it all is written


def write_winners(plan: SearchPlan, points: dict[str, Points], folder: Path) -> Best:
    """Write `best.yaml` of a search that has ended; every arm has a complete point."""
    arms = {}
    for arm in plan.arms:
        winner = best_point(arm, points[arm.name].by_id.values())
        assert winner is not None
        assert winner.values is not None
        arms[arm.name] = Winner(
            trial_id=winner.trial_id, metric=arm.columns[0], value=winner.values[0], fields=decode(winner.fields, arm.spec)
        )
    best = Best(study=plan.study, digest=plan.digest, arms=arms)
    write_best(best, folder)
    return best


def importances(study: optuna.Study) -> dict[str, float]:
    """Field -> its share of the variance of the first objective (fANOVA); empty where nobody can tell yet."""
    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0), target=target
            )
        except (ValueError, RuntimeError):  # fewer than two complete points, or all alike
            return {}
    return {name: float(share) for name, share in found.items()}


def _points(arm: ArmPlan, points: Points) -> list[dict[str, Any]]:
    return [
        {
            "number": point.number,
            "trial_id": point.trial_id,
            "state": point.state,
            "epochs": point.epochs,
            "values": point.values,
            "source": point.source,
            "reason": point.reason,
            "fields": decode(point.fields, arm.spec),
        }
        for point in points.by_id.values()
    ]


def _front(arm: ArmPlan, points: Points) -> list[dict[str, Any]]:
    return [
        {"trial_id": point.trial_id, "values": point.values, "fields": decode(point.fields, arm.spec)}
        for point in front(arm, points.by_id.values())
    ]
