"""The search itself, without knowing who trains: which point is next, whether a point goes on, what a finished one tells the sampler.

Budgets are exact. An arm may spend trials x epochs epochs. A point takes its epochs from that when it is proposed, gives back those
that it is stopped before, and the last one gets what is left; no epoch starts that the arm has not got. A point that fails keeps all
its epochs: it was given its chance. A point whose trial is stored is decided about epoch by epoch as if it were trained now, and takes
as many epochs; nothing is trained.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import TrialState

from pipeline.errors import ConfigError, counted
from pipeline.orchestration.planning import PlannedTrial
from pipeline.orchestration.search.arms import ArmPlan
from pipeline.orchestration.search.giving_up import Pruner, make_pruner
from pipeline.orchestration.search.points import (
    ARM,
    EPOCHS,
    FAILURE,
    LEFT_OVER,
    NAME,
    REASON,
    REPEATS,
    SOURCE,
    STORED,
    TRAINED,
    TRIAL_ID,
    Point,
    read_points,
)
from pipeline.orchestration.search.storage import draw, make_sampler
from pipeline.store.records import Record

REPEATS_IN_A_ROW = 30  # after which a sampler is taken to have nothing new
SAME_BUG = 3  # identical failures in a row after which a search stops
OUT_OF_BUDGET = "the budget of the arm is used up"

Lookup = Callable[[str], Record | None]  # trial id -> stored record with its history


@dataclass(frozen=True)
class Job:
    """A point to be trained."""

    arm: str
    number: int
    trial: PlannedTrial

    @property
    def key(self) -> str:
        """Names the point among all arms."""
        return f"{self.arm}:{self.number}"


class ArmSearch:
    """The search in one arm.

    Args:
        plan: the arm.
        study: its Optuna study.
        stored: finds records of trials that are stored.

    Raises:
        ConfigError: the arm has spent more already than its budget.
    """

    def __init__(self, plan: ArmPlan, study: optuna.Study, stored: Lookup) -> None:
        self.plan, self.study, self.stored = plan, study, stored
        trials = study.get_trials(deepcopy=False)
        self.points = read_points(trials)
        if self.points.epochs > plan.budget:
            place = plan.resolver.file.locate(("search", "trials"))
            least = math.ceil(self.points.epochs / plan.epochs)
            raise ConfigError(
                f"{place}: arm {plan.name!r} has had {self.points.epochs} epochs already, more than {plan.spec.trials} trials of "
                f"{plan.epochs}, and points cannot be taken back. Set trials: {least} or more, or another search.seed for a search anew."
            )
        self._seen_before = [trial for trial in trials if trial.state.is_finished()]
        self.unfinished = deque(self.points.unfinished)
        again = [point for point in self.points.to_retry() if point.fields not in self.points.waiting]
        for point in again:
            study.enqueue_trial(point.fields)
        self.num_retries = len(again) + len(self.points.waiting)
        self.trials: dict[int, optuna.Trial] = {}
        self.running: dict[int, Point] = {}
        self.reported = {trial.number: set(trial.intermediate_values) for trial in self.unfinished}
        self.repeats_in_a_row = 0
        self.note = ""

    @functools.cached_property
    def pruner(self) -> Pruner:
        """Made when the first decision is due, as it imports Ray; it knows the points of earlier drivers."""
        pruner = make_pruner(self.plan)
        for trial in self._seen_before:
            for epoch, value in sorted(trial.intermediate_values.items()):
                pruner.gives_up(trial.number, epoch, value)
        return pruner

    @property
    def free(self) -> int:
        """Epochs of the budget that no point has or is kept free for."""
        return self.plan.budget - self.points.epochs

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, or only by points that are running."""
        return not self.unfinished and not self.num_retries and (bool(self.note) or self.free <= 0)

    def next(self) -> Job | None:
        """The next point that needs training; None when there is none, or not before a running one ends."""
        while (trial := self._ask()) is not None:
            job = self._assign(trial)
            if job is not None:
                return job
        return None

    def _ask(self) -> optuna.Trial | None:
        if self.unfinished:  # a driver was killed: the same point goes on under its number
            left = self.unfinished.popleft()
            self.study.sampler = make_sampler(self.plan.spec, left.number)
            return optuna.Trial(self.study, left._trial_id)
        if self.num_retries:
            self.num_retries -= 1
        elif self.note or self.free <= 0 or (self.free < self.plan.epochs and self.running):
            return None  # what is less than a whole point waits for what running points may give back, then goes to one point
        self.study.sampler = make_sampler(self.plan.spec, len(self.study.get_trials(deepcopy=False)))
        return self.study.ask()

    def _assign(self, trial: optuna.Trial) -> Job | None:
        fields = draw(trial, self.plan.spec, self.plan.name)
        try:
            planned = self.plan.trial(fields)
        except ConfigError as error:  # not at a corner of the space, but inside
            self._tell(trial, TrialState.FAIL, {REASON: str(error), FAILURE: LEFT_OVER})
            self._count_repeat()
            return None
        trial_id = planned.spec.trial_id
        known = self.points.by_id.get(trial_id)
        if known is not None and (known.is_settled or known.number in self.running):
            self._tell_repeat(trial, known)
            return None
        kept = known.epochs if known is not None else min(self.plan.epochs, self.free)
        if kept <= 0:
            self._tell(trial, TrialState.FAIL, {REASON: OUT_OF_BUDGET, FAILURE: LEFT_OVER})
            return None
        record = self.stored(trial_id)
        is_stored = record is not None and record.is_final
        self.repeats_in_a_row = 0
        source = trial.user_attrs.get(SOURCE) or (known.source if known else STORED if is_stored else TRAINED)
        for key, value in {TRIAL_ID: trial_id, ARM: self.plan.name, NAME: planned.name, SOURCE: source}.items():
            if trial.user_attrs.get(key) != value:
                trial.set_user_attr(key, value)
        point = Point(trial.number, trial_id, dict(trial.params), "running", kept, source=source)
        self.points.by_id[trial_id] = self.running[trial.number] = point
        self.trials[trial.number] = trial
        if record is not None and is_stored:
            self.finished(trial.number, record)
            return None
        return Job(self.plan.name, trial.number, replace(planned, attempt=record["attempt"] + 1 if record is not None else 1))

    def epoch(self, number: int, row: Mapping[str, Any]) -> str:
        """Decide after an epoch: '' when the next one may start, else why the point is given up."""
        point, epoch = self.running[number], int(row["epoch"])
        if epoch <= point.seen:
            return ""  # its worker was lost and it is at it again: it was allowed to go on
        point.seen = epoch
        value = row.get(self.plan.epoch_column)
        reported = self.reported.setdefault(number, set())
        if value is not None and len(self.plan.directions) == 1 and epoch not in reported:
            self.trials[number].report(float(value), epoch)
            reported.add(epoch)
        if self.pruner.gives_up(number, epoch, value):
            return f"{self.plan.spec.pruner_name}: among the worse of the points that had {counted(epoch, 'epoch')}"
        if epoch >= self.plan.epochs or epoch < point.epochs:
            return ""
        if self.free > 0:
            point.epochs += 1
            return ""
        return f"{OUT_OF_BUDGET} after epoch {epoch}"

    def finished(self, number: int, record: Record) -> None:
        """Tell the sampler how a point ended."""
        point = self.running[number]
        verdict = ""
        if record["state"] == "complete":
            # Stored by somebody else: the same decisions are taken as if it were trained here.
            history = record.history or getattr(self.stored(point.trial_id), "history", [])
            verdict = next(filter(None, (self.epoch(number, row) for row in history if row["epoch"] > point.seen)), "")
        if record["state"] == "pruned" or verdict:
            point.state, point.epochs, point.reason = "pruned", point.seen, verdict or record["reason"]
            self._settle(point, TrialState.PRUNED)
        elif record["state"] == "complete":
            values = [record.get(column) for column in self.plan.columns]
            if all(value is not None and math.isfinite(value) for value in values):
                point.state, point.epochs, point.values = "complete", self.plan.epochs, [float(value) for value in values]
                self._settle(point, TrialState.COMPLETE)
            else:
                missing = [column for column, value in zip(self.plan.columns, values, strict=True) if value is None]
                self._fail(point, "no_metric", f"the record has no finite {', '.join(missing) or ' and '.join(self.plan.columns)}")
        else:
            self._fail(point, record.get("failure") or "error", record["reason"])

    def lost(self, number: int) -> None:
        """A point could not be run or stored, through no fault of its own: the next search goes on with it."""
        self.running.pop(number, None)

    def _fail(self, point: Point, failure: str, reason: str) -> None:
        point.state, point.failure, point.reason = "failed", failure, reason
        self._settle(point, TrialState.FAIL)

    def _settle(self, point: Point, state: TrialState) -> None:
        trial = self.trials.pop(point.number)
        del self.running[point.number]
        said = {EPOCHS: point.epochs, REASON: point.reason, FAILURE: point.failure}
        self._tell(trial, state, {key: value for key, value in said.items() if value != ""}, point.values)

    def _tell_repeat(self, trial: optuna.Trial, known: Point) -> None:
        said = {REPEATS: known.number, TRIAL_ID: known.trial_id, ARM: self.plan.name}
        if known.state == "complete":
            self._tell(trial, TrialState.COMPLETE, said, known.values)
        else:
            self._tell(trial, TrialState.FAIL, said)
        self.points.repeats += 1
        self._count_repeat()

    def _count_repeat(self) -> None:
        self.repeats_in_a_row += 1
        if self.repeats_in_a_row >= REPEATS_IN_A_ROW:
            self.note = f"the sampler proposed nothing new {REPEATS_IN_A_ROW} times in a row; the space has no more points to give"

    def _tell(self, trial: optuna.Trial, state: TrialState, said: Mapping[str, Any], values: Sequence[float] | None = None) -> None:
        for key, value in said.items():
            trial.set_user_attr(key, value)
        try:
            self.study.tell(trial, values if values else None, state=state)
        except RuntimeError as error:  # brute_force has tried everything and wants to stop a loop that is not Optuna's
            if "Study.stop" not in str(error):
                raise
            self.note = "every point of the space was tried"


class Search:
    """All arms side by side, always feeding the one that has had the smallest share of its budget.

    Args:
        arms: one each.
    """

    def __init__(self, arms: list[ArmSearch]) -> None:
        self.arms = {arm.plan.name: arm for arm in arms}
        self.stopped = ""
        self._next: Job | None = None
        self._same_bug: tuple[str, int] = ("", 0)

    @property
    def is_over(self) -> bool:
        """Whether no further point will be proposed."""
        return self._next is None and (bool(self.stopped) or all(arm.is_over for arm in self.arms.values()))

    @property
    def num_running(self) -> int:
        """Points that are being trained."""
        return sum(len(arm.running) for arm in self.arms.values()) - (self._next is not None)

    def has_work(self) -> bool:
        """Whether a point needs training; looked at before workers are started."""
        self._next = self._next or self.next()
        return self._next is not None

    def next(self) -> Job | None:
        """The next point to be trained; None when there is none, or not before a running one ends (see `is_over`)."""
        if self._next is not None:
            job, self._next = self._next, None
            return job
        if self.stopped:
            return None
        for arm in sorted(self.arms.values(), key=lambda arm: arm.points.epochs / arm.plan.budget):
            if (job := arm.next()) is not None:
                return job
        return None

    def epoch(self, job: Job, row: Mapping[str, Any]) -> str:
        """See `ArmSearch.epoch`."""
        return self.arms[job.arm].epoch(job.number, row)

    def finished(self, job: Job, record: Record) -> None:
        """See `ArmSearch.finished`; a bug that fails one point after the other stops the search."""
        self.arms[job.arm].finished(job.number, record)
        if record["state"] != "failed" or record.get("failure") == "diverged":
            self._same_bug = ("", 0)
            return
        reason, times = self._same_bug
        self._same_bug = (record["reason"], times + 1 if reason == record["reason"] else 1)
        if self._same_bug[1] >= SAME_BUG:
            self.stopped = f"{SAME_BUG} points in a row failed in the same way: {record['reason']}"

    def lost(self, job: Job) -> None:
        """See `ArmSearch.lost`."""
        self.arms[job.arm].lost(job.number)
