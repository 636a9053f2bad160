"""The ledger of a search: what each arm was given and what it did with it. A pure function of Optuna's storage and the trial store."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.metric_names import METRICS
from pipeline.orchestration.search.arms import ArmPlan
from pipeline.orchestration.search.points import STORED, Point, Points
from pipeline.store.records import Record


@dataclass(frozen=True)
class LedgerRow:
    """One arm.

    Attributes:
        arm: its name.
        budget_epochs: trials x epochs, the same for every arm.
        epochs: what its points were given of that.
        epochs_trained: of these, by trials that this search trained; the others were stored already, and `epochs` of failed points
            that were not reached are counted as given, not as trained.
        points: distinct points.
        complete, pruned, failed: how they ended.
        stored: points whose trial was in the store before.
        repeated: proposals of a point that the arm had had already; they cost nothing.
        hours: of training by this search.
        best: the best value of a complete point, as stored.
        best_trial_id: its trial.
    """

    arm: str
    budget_epochs: int
    epochs: int
    epochs_trained: int
    points: int
    complete: int
    pruned: int
    failed: int
    stored: int
    repeated: int
    hours: float
    best: float | None
    best_trial_id: str | None

    @property
    def is_spent(self) -> bool:
        """Whether the arm had its whole budget."""
        return self.epochs == self.budget_epochs


def ledger_row(plan: ArmPlan, points: Points, records: Mapping[str, Record]) -> LedgerRow:
    """The row of one arm.

    Args:
        plan: the arm.
        points: what Optuna's storage says of it.
        records: the trial store.
    """
    everything = list(points.by_id.values())
    own = [(point, records.get(point.trial_id)) for point in everything if point.source != STORED]
    winner = best_point(plan, everything)
    return LedgerRow(
        arm=plan.name,
        budget_epochs=plan.budget,
        epochs=points.epochs,
        epochs_trained=sum(_trained(point, record) for point, record in own),
        points=len(everything),
        **{state: sum(point.state == state for point in everything) for state in ("complete", "pruned", "failed")},
        stored=sum(point.source == STORED for point in everything),
        repeated=points.repeats,
        hours=sum(record.get("time_total_s") or 0.0 for _, record in own if record is not None) / 3600,
        best=winner.values[0] if winner and winner.values else None,
        best_trial_id=winner.trial_id if winner else None,
    )


def best_point(plan: ArmPlan, points: Iterable[Point]) -> Point | None:
    """The complete point that is best in the first objective, the earliest of equals."""
    sign = 1 if plan.directions[0] == "maximize" else -1
    complete = [point for point in points if point.state == "complete" and point.values]
    return max(complete, key=lambda point: (sign * point.values[0], -point.number), default=None)  # type: ignore[index]


def front(plan: ArmPlan, points: Iterable[Point]) -> list[Point]:
    """The complete points that no other one beats in every objective, best first in the first one."""
    signs = [1 if direction == "maximize" else -1 for direction in plan.directions]
    scored = [(tuple(s * v for s, v in zip(signs, point.values, strict=True)), point) for point in points if point.values]

    def is_beaten(score: tuple[float, ...]) -> bool:
        return any(other != score and all(o >= s for o, s in zip(other, score, strict=True)) for other, _ in scored)

    kept = [(score, point) for score, point in scored if not is_beaten(score)]
    return [point for _, point in sorted(kept, key=lambda item: (*(-s for s in item[0]), item[1].number))]


def _trained(point: Point, record: Record | None) -> int:
    """Epochs of a point of this search that were trained to their end."""
    if point.state == "failed":
        return (record or {}).get("epochs_done") or 0
    return 0 if point.state == "running" else point.epochs


HEADS = {
    "arm": "arm",
    "budget_epochs": "budget (epochs)",
    "epochs": "epochs",
    "epochs_trained": "trained here",
    "points": "points",
    "complete": "complete",
    "pruned": "pruned",
    "failed": "failed",
    "stored": "from the store",
    "repeated": "repeated",
    "hours": "hours",
    "best": "best",
    "best_trial_id": "best trial",
}


def shown_value(plan: ArmPlan, value: float | None, index: int = 0) -> str:
    """A value as people read it: '91.25 %', '0.2310', '12.3 s'."""
    if value is None:
        return "-"
    goal = plan.spec.goals[index]
    if goal == "time_train_s":
        return f"{value:.1f} s"
    if goal not in METRICS:
        return f"{value / 2**20:.0f} MiB"
    metric = METRICS[goal]
    return f"{metric.scale * value:.{metric.decimals}f} {metric.unit}".rstrip()


def as_text(plans: Iterable[ArmPlan], rows: Iterable[LedgerRow]) -> list[list[str]]:
    """The cells of a printed ledger, without the heads."""
    lines = []
    for plan, row in zip(plans, rows, strict=True):
        said: dict[str, Any] = asdict(row) | {"hours": f"{row.hours:.2f}", "best": shown_value(plan, row.best)}
        lines.append([str(said[name]) if said[name] is not None else "-" for name in HEADS])
    return lines


def as_markdown(plans: list[ArmPlan], rows: list[LedgerRow], notes: list[str]) -> str:
    """The ledger as a Markdown table, what is optimised above it, notes below."""
    spec, epochs = plans[0].spec, plans[0].epochs
    goals = " and ".join(plans[0].columns)
    head = (
        f"Budget of every arm: {spec.trials} x {epochs} epochs. Optimised: {goals}. Sampler {spec.sampler_name}, pruner {spec.pruner_name}."
    )
    lines = [head, "", "| " + " | ".join(HEADS.values()) + " |", "|" + " --- |" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in as_text(plans, rows)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def as_csv(rows: list[LedgerRow]) -> str:
    """The ledger as CSV, values as stored."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [entry.name for entry in fields(LedgerRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
