"""Run the search of a study: propose, train, tell, until every arm has had its budget; then write what came of it."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError, TrialError
from pipeline.orchestration.execution import Context
from pipeline.orchestration.planning import check_references, vocabulary
from pipeline.orchestration.preparing import prepare_components
from pipeline.orchestration.progress import warn
from pipeline.orchestration.provenance import origin
from pipeline.orchestration.search.arms import ArmPlan, SearchPlan, plan_search
from pipeline.orchestration.search.engine import ArmSearch, Search
from pipeline.orchestration.search.ledger import LedgerRow
from pipeline.orchestration.search.listening import SearchView
from pipeline.orchestration.search.points import Points
from pipeline.orchestration.search.report import ledger, read_all, write_report, write_winners
from pipeline.orchestration.search.serial import search_serial
from pipeline.orchestration.search.storage import database_errors, open_storage, open_study
from pipeline.orchestration.search.winners import BEST, Best
from pipeline.orchestration.slots import device_of
from pipeline.orchestration.terminable import terminable
from pipeline.store.claims import Claims
from pipeline.store.keep_alive import KeepAlive
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import StudyFile
from pipeline.study.design import expand
from pipeline.study.params import Params
from pipeline.study.plugins import plugin_folders
from pipeline.study.project import SEARCH, absolute_url


@dataclass(frozen=True)
class SearchOutcome:
    """What became of a search.

    Attributes:
        plan: what was searched.
        rows: the ledger.
        trained: epochs that this call trained.
        best: the winners; None when the search has not ended.
        problems: why not, one line each.
        notes: what people should know all the same.
    """

    plan: SearchPlan
    rows: list[LedgerRow]
    trained: int
    best: Best | None
    problems: list[str]
    notes: list[str]

    def raise_unless_done(self) -> None:
        """Raise when the search has not ended.

        Raises:
            TrialError: says why and what to do.
        """
        if self.problems:
            lines = "\n  ".join(self.problems)
            raise TrialError(f"The search has not ended:\n  {lines}\nWhat was trained is stored; run `ablate search` again to go on.")


def run_search(
    file: StudyFile, params: Params, *, folder: Path = SEARCH, die_with_parent: bool = False, log: Callable[[str], None] = warn
) -> SearchOutcome:
    """Search until every arm has had its budget. What was searched before is not searched again; a larger budget goes on from there.

    Args:
        file: a study with a search; its datasets are prepared.
        params: resources, store, storage.
        folder: where the ledger, the plots and the winners go.
        die_with_parent: stop cleanly when the process that started this one is gone.
        log: receives notes.

    Raises:
        ConfigError, DataError, StoreError, ClusterError: nothing can be searched; what is stored stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM; finished points are stored, the next search goes on.
    """
    check_references(file, expand(file, vocabulary()))  # as any slip in a table: before anything is trained
    plan = plan_search(file, params)
    store = TrialStore(absolute_url(params.store.url))
    (folder / BEST).unlink(missing_ok=True)  # the winners of another search, or of a smaller one
    with terminable(die_with_parent=die_with_parent), _alone(plan, store, params) as owner, database_errors(params.search.storage):
        storage = open_storage(params.search.storage)
        studies = {arm.name: open_study(arm, storage) for arm in plan.arms}
        records = store.records()
        search = Search([ArmSearch(arm, studies[arm.name], _finder(store, records)) for arm in plan.arms])
        with SearchView(search) as view:
            if search.has_work():
                store.check_writable()
                prepare_components(plan.datasets, params, log)
                _train(search, _context(params, owner, plan.study), params, view)
                store.compact()
                records = store.records()
        points = read_all(plan, studies)
        rows = ledger(plan, points, records)
        notes = [f"{name}: {arm.note}." for name, arm in search.arms.items() if arm.note]
        problems = _problems(search, plan.arms, points, rows)
        write_report(plan, studies, points, rows, notes, folder)
    best = None if problems else write_winners(plan, points, folder)
    storage.engine.dispose()
    return SearchOutcome(plan, rows, view.epochs_trained, best, problems, notes)


@contextmanager
def _alone(plan: SearchPlan, store: TrialStore, params: Params) -> Iterator[str]:
    """Hold the claim of this search, so that no second driver takes its running points for left over ones."""
    owner = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
    claims, name = Claims(store, owner, params.store.lease_s), f"search-{plan.study}-{plan.digest}"
    if claims.take(name) is None:
        other = claims.held().get(name)
        where = f" on {other.host}, process {other.pid}" if other else ""
        raise PipelineError(
            f"This search is running already{where}. Wait for it, or stop it first; the points of a search are proposed by one process."
        )
    try:
        with KeepAlive(claims, every_s=params.store.lease_s / 4) as alive:
            alive.note(name, study=plan.study, search=True)
            yield owner
    finally:
        claims.release(name)


def _finder(store: TrialStore, records: dict[str, Record]) -> Callable[[str], Record | None]:
    def find(trial_id: str) -> Record | None:
        record = records.get(trial_id)
        return None if record is None else Record(record, store.history(trial_id) if record.is_final else ())

    return find


def _context(params: Params, owner: str, study: str) -> Context:
    return Context(
        store_url=absolute_url(params.store.url),
        weights=params.store.weights,
        prepared=str(Path(params.data.prepared).absolute()),
        device=device_of(params.resources),
        threads=params.resources.cpus_per_trial,
        plugin_folders=plugin_folders(),
        owner=owner,
        lease_s=params.store.lease_s,
        checkpoint_s=params.store.checkpoint_s,
        origin=origin(study),
    )


def _train(search: Search, context: Context, params: Params, view: SearchView) -> None:
    if params.resources.executor == "serial":
        search_serial(search, context, view)
    else:
        from pipeline.orchestration.search.tune_search import search_on_ray

        search_on_ray(search, context, params.resources, view)


def _problems(search: Search, arms: list[ArmPlan], points: dict[str, Points], rows: list[LedgerRow]) -> list[str]:
    problems = [search.stopped] if search.stopped else []
    for arm, row in zip(arms, rows, strict=True):
        lost = len(points[arm.name].unfinished)
        if lost:
            problems.append(f"{arm.name}: {lost} of its points were lost on the way")
        for point in points[arm.name].to_retry():
            problems.append(f"{arm.name}: point {point.number} [{point.trial_id}] failed: {point.reason}")
        if not row.is_spent and not search.arms[arm.name].note and not search.stopped and not lost:
            problems.append(f"{arm.name}: {row.epochs} of {row.budget_epochs} epochs of its budget were spent")
        if not problems and row.best is None:
            problems.append(f"{arm.name}: no point is complete, so there is no winner. Widen or move the space")
    return problems
