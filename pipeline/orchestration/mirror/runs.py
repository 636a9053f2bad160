"""Runs of one MLflow experiment, kept equal to the trial store: what is logged, under which names, and how a rerun finds it.

Everything here talks to MLflow directly and waits for it; `tracking.Tracker` calls it from a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.orchestration.mirror.content import (
    CELLS,
    COMMIT,
    REASON,
    RUN_NAME,
    STATE,
    STATUS,
    KnownRun,
    TableView,
    TrialView,
    differences,
    table_content,
    trial_content,
    trial_tags,
)
from pipeline.orchestration.mirror.inputs import dataset_inputs, short_digest
from pipeline.orchestration.mirror.points import History, Points, final_points, flatten, history_points, is_plumbing, same
from pipeline.orchestration.mirror.uri import check_reachable, database_path, redact
from pipeline.orchestration.mirror.views import KIND, MOST_METRICS, NOTE, OF_TABLES, USUAL_METRICS, experiment_tags, is_ours_to_describe

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")


def _plain(location: str) -> str:
    return redact(location).removeprefix("file://").rstrip("/")


def _when(record: Mapping[str, Any], final: Points, now_ms: int) -> tuple[int, int]:
    """Start of a run that is made afterwards, and its end: as the record tells, or now, with the right duration."""
    took_ms = int(1000 * final.get(("time_total_s", 0), final.get(("time_train_s", 0), 0.0)))
    end_ms = int(record["time_finished_ns"] / 1e6) if record.get("time_finished_ns") else now_ms
    return end_ms - took_ms, end_ms


def _chunks(items: Iterable[T], size: int) -> list[list[T]]:
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]


class Mirror:
    """Every MLflow call, one at a time; lives on the background thread."""

    def __init__(self, uri: str, experiment: str, artifact_location: str | None, commit: str | None, log: Callable[[str], None]) -> None:
        self.uri, self.experiment, self.artifact_location, self.commit, self.log = uri, experiment, artifact_location, commit, log
        self.runs: dict[str, KnownRun] = {}
        self.tables: dict[tuple[str, str], KnownRun] = {}
        self.pending: dict[str, Points] = {}
        self._live: set[str] = set()
        self._touched: set[str] = set()
        self._last_ms = 0
        self.experiment_id: str | None = None
        self.made = 0
        self._experiment_tags: dict[str, str] = {}
        self._client: MlflowClient

    def connect(self) -> None:
        """Create database and experiment where they are missing and read which runs exist."""
        from mlflow import MlflowClient
        from mlflow.entities import LifecycleStage

        check_reachable(self.uri)
        if path := database_path(self.uri):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=self.uri)
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            self.experiment_id = self._client.create_experiment(self.experiment, self.artifact_location)
        else:
            self.experiment_id, self._experiment_tags = found.experiment_id, dict(found.tags)
            if found.lifecycle_stage == LifecycleStage.DELETED:
                self._client.restore_experiment(self.experiment_id)
                self.log(f"mlflow: experiment {self.experiment!r} had been deleted and is restored")
            if self.artifact_location and _plain(found.artifact_location) != _plain(self.artifact_location):
                self.log(
                    f"mlflow: artifacts of experiment {self.experiment!r} stay in {_plain(found.artifact_location)}, set when it was made; "
                    f"to move them to {_plain(self.artifact_location)}, delete the database and run `ablate mlflow rebuild`"
                )
        self.runs, self.tables = {}, {}
        doubles = 0
        for run in self._search("trial"):
            doubles += run.tags["trial_id"] in self.runs
            self.runs.setdefault(run.tags["trial_id"], run)
        for run in self._search("table"):
            self.tables.setdefault((run.tags["study"], run.tags["table"]), run)
        if doubles:
            self.log(f"mlflow: {doubles} runs repeat the trial id of an older run; the oldest of each is kept up to date")
        self.describe()

    def describe(self) -> None:
        """Give the experiment its description and its views of the run table, as its runs are now; words of the user's own stay."""
        assert self.experiment_id is not None
        runs = self.runs.values()
        there = {name for run in runs for name in run.metrics}
        shown = [name for key in sorted(self.tables) for name in self.tables[key].tags.get("metrics", "").split(", ")]
        metrics = [name for name in dict.fromkeys([*shown, *USUAL_METRICS]) if name in there][:MOST_METRICS]
        tags = experiment_tags(self.experiment, self.experiment_id, [run.tags for run in runs], metrics)
        if not is_ours_to_describe(self._experiment_tags):
            del tags[NOTE]
        for key, value in tags.items():
            if self._experiment_tags.get(key) != value and (key != KIND or KIND not in self._experiment_tags):
                self._client.set_experiment_tag(self.experiment_id, key, value)
                self._experiment_tags[key] = value

    def _search(self, kind: str) -> Iterator[KnownRun]:
        assert self.experiment_id is not None
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], f"tags.kind = '{kind}'", max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from map(KnownRun.of, page)
            token = page.token
            if not token:
                return

    def started(self, view: TrialView) -> None:
        self._touched.add(view.trial_id)
        self._live.add(view.trial_id)
        run = self._ensure(view, {STATE: "running"} | ({COMMIT: self.commit} if self.commit else {}))
        if run.status != "RUNNING":
            self._client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"
        self._drop_reason(run)

    def buffer(self, trial_id: str, points: Points) -> None:
        self.pending.setdefault(trial_id, {}).update(points)

    def flush(self) -> None:
        for trial_id in [trial_id for trial_id in self.pending if trial_id in self.runs]:
            self._write(self.runs[trial_id], points=self.pending[trial_id])
            del self.pending[trial_id]

    def finished(self, view: TrialView, record: Mapping[str, Any], history: History | Callable[[], History], *, anew: bool = False) -> None:
        """Make the run equal to record and history, and end it; with `anew` a clean run takes its place in any case."""
        self._touched.add(view.trial_id)
        epochs = history_points(history() if callable(history) else history)
        final = final_points(record)
        start_ms, end_ms = _when(record, final, self._now())
        truth = epochs | final
        last = max((step for _, step in epochs), default=None)
        known = self.runs.get(view.trial_id)
        content, kept = trial_content(view, record), dict[str, str]()
        if known and (anew or any(self._contradicts(point, value, truth, last) for point, value in self._logged(known).items())):
            # MLflow cannot take a point back: a curve spliced from two attempts is replaced by one clean run.
            self._client.delete_run(known.run_id)
            del self.runs[view.trial_id]
            start_ms, kept = known.start_ms, {key: tag for key, tag in known.tags.items() if key == COMMIT}
        buffered = {point: v for point, v in self.pending.pop(view.trial_id, {}).items() if last is None or point[1] <= last}
        run = self._ensure(view, kept | content.tags, start_ms, buffered | truth, end_ms)
        if REASON not in content.tags:
            self._drop_reason(run)
        self._terminate(run, content.status, end_ms)
        self._live.discard(view.trial_id)

    @staticmethod
    def _contradicts(point: tuple[str, int], value: float, truth: Points, last: int | None) -> bool:
        key, step = point
        if is_plumbing(key):
            return False
        return (last is not None and step > last) or (point in truth and not same(truth[point], value))

    def sync(
        self,
        view: TrialView,
        record: Mapping[str, Any],
        history: History | Callable[[], History],
        last: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the run of a stored trial what it should be; the history is read only where numbers are missing or wrong.

        Args:
            view, record, history: of the trial.
            last: row of the history for the last epoch, to be compared, too.
        """
        if record["state"] not in STATUS or view.trial_id in self._touched:  # nothing was trained, or newer news came meanwhile
            return
        run = self.runs.get(view.trial_id)
        if run is None:
            self.finished(view, record, history)
            return
        content = trial_content(view, record, last)
        found = list(differences(content, run))
        if any(each.what not in ("tag", "dataset") for each in found):
            self.finished(view, record, history, anew=any(each.is_lasting for each in found))
        elif found:
            self._write(run, tags=content.tags)
            self._add_inputs(run, view)
            if REASON not in content.tags:
                self._drop_reason(run)

    def table(self, view: TableView) -> None:
        """Make the run of a table: metrics replaced, files uploaded."""
        content = table_content(view)
        run = self.tables.get((view.study, view.name))
        found = [] if run is None else [each for each in differences(content, run) if each.is_lasting]
        # A metric cannot be taken back: a cell that is gone, or a value that no later one would cover, needs a clean run.
        if run and found and (any(each.expected is None for each in found) or self._is_ahead(run)):
            self._client.delete_run(run.run_id)
            del self.tables[view.study, view.name]
            run = None
        tags = {**content.tags} | ({COMMIT: self.commit} if self.commit else {})
        if run is None:
            run = self.tables[view.study, view.name] = self._create(tags)
        new = {(key, 0): value for key, value in content.metrics.items() if run.metrics.get(key) != value}
        self._write(run, new, tags, again=True)
        self._upload(run, view)
        if run.status != content.status:
            self._terminate(run, content.status)
        if view.trials is not None:
            self._tag_trials(view.trials)

    def _tag_trials(self, given: Mapping[str, Mapping[str, str]]) -> None:
        """Give the runs of trials the tags of the study's tables, and take those away that no table gives; words of the user's own stay."""
        for trial_id, run in self.runs.items():
            tags = dict(given.get(trial_id, {}))
            if not is_ours_to_describe(run.tags):
                tags.pop(NOTE, None)
            for key in [key for key in run.tags if key.startswith(OF_TABLES) and key not in tags]:
                self._client.delete_tag(run.run_id, key)
                del run.tags[key]
            self._write(run, tags=tags)

    def _is_ahead(self, run: KnownRun) -> bool:
        """Whether a value was logged by others for a later step, or a later time, than those that the mirror writes into a table's run."""
        points = self._client.get_run(run.run_id).data.to_proto().metrics
        return any(point.step > 0 or point.timestamp > self._now() for point in points)

    def _upload(self, run: KnownRun, view: TableView) -> None:
        if view.cells:
            columns = list(view.cells[0])
            self._client.log_dict(run.run_id, {"columns": columns, "data": [[cell[key] for key in columns] for cell in view.cells]}, CELLS)
        for folder, files in view.artifacts.items():
            for path in files:
                if path.exists():
                    self._client.log_artifact(run.run_id, str(path), folder)
                else:
                    self.log(f"mlflow: {path} of table {view.name!r} does not exist and is left out")

    def end_open(self, reason: str) -> None:
        """End every run whose trial did not finish as KILLED."""
        self.flush()
        for trial_id in sorted(self._live & self.runs.keys()):
            self._write(self.runs[trial_id], tags={STATE: "killed", REASON: reason})
            self._terminate(self.runs[trial_id], "KILLED")
            self._live.discard(trial_id)
        self.describe()

    def _ensure(
        self, view: TrialView, tags: dict[str, str], start_ms: int | None = None, points: Points | None = None, end_ms: int | None = None
    ) -> KnownRun:
        """The run of a trial with its tags, parameters, inputs and these points, which end at `end_ms`, created where there is none."""
        tags = tags | trial_tags(view)
        if view.trial_id not in self.runs:
            self.runs[view.trial_id] = self._create(tags, start_ms)
        run = self.runs[view.trial_id]
        params = {key: value for key, value in flatten(view.params).items() if key not in run.params}
        self._write(run, points, tags, params, end_ms=end_ms)
        self._add_inputs(run, view)
        return run

    def _add_inputs(self, run: KnownRun, view: TrialView) -> None:
        if view.data and short_digest(view.data) not in run.datasets:
            self._client.log_inputs(run.run_id, dataset_inputs(view.data))
            run.datasets.add(short_digest(view.data))

    def _create(self, tags: dict[str, str], start_ms: int | None = None) -> KnownRun:
        assert self.experiment_id is not None
        tags = {"mlflow.source.name": "ablate", "mlflow.source.type": "LOCAL"} | tags
        run = KnownRun.of(self._client.create_run(self.experiment_id, start_ms or self._now(), tags, tags[RUN_NAME]))
        run.logged = {}
        self.made += 1
        return run

    def _logged(self, run: KnownRun) -> Points:
        if run.logged is None:
            keys = self._client.get_run(run.run_id).data.metrics
            run.logged = {(key, m.step): m.value for key in keys for m in self._client.get_metric_history(run.run_id, key)}
        return run.logged

    def _write(
        self,
        run: KnownRun,
        points: Points | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        again: bool = False,
        end_ms: int | None = None,
    ) -> None:
        """Log what is new, within MLflow's limits of 1000 entities a call, 100 of them parameters and 100 tags.

        A point of an epoch that is already there stays; a final timing that changed is logged again, as the latest value counts.
        With `again` all points are logged. Epochs are spread evenly up to `end_ms`, as system metrics are drawn over time.
        """
        from mlflow.entities import Metric, Param, RunTag

        if points and not again:
            logged = self._logged(run)
            points = {p: v for p, v in points.items() if p not in logged or (p[1] == 0 and not same(logged[p], v))}
        points, params = points or {}, params or {}
        tags = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
        now = self._now()
        last = max((step for _, step in points), default=0)
        span_ms = end_ms - run.start_ms if end_ms and last else 0
        times = {step: run.start_ms + span_ms * step // last for step in range(1, last + 1)} if span_ms > 0 else {}
        metric_chunks = _chunks((Metric(key, value, times.get(step, now), step) for (key, step), value in points.items()), 800)
        param_chunks = _chunks((Param(key, value) for key, value in params.items()), 100)
        tag_chunks = _chunks((RunTag(key, value) for key, value in tags.items()), 100)
        for metric_part, param_part, tag_part in zip_longest(metric_chunks, param_chunks, tag_chunks, fillvalue=()):
            self._client.log_batch(run.run_id, metric_part, param_part, tag_part)
        run.tags.update(tags)
        run.params.update(params)
        run.metrics.update({key: value for (key, _), value in sorted(points.items(), key=lambda item: item[0][1])})
        if run.logged is not None:
            run.logged.update(points)

    def _drop_reason(self, run: KnownRun) -> None:
        if REASON in run.tags:
            self._client.delete_tag(run.run_id, REASON)
            del run.tags[REASON]

    def _terminate(self, run: KnownRun, status: str, end_ms: int | None = None) -> None:
        self._client.set_terminated(run.run_id, status, end_ms if end_ms and end_ms >= run.start_ms else None)
        run.status, run.logged = status, None  # the points of a finished run need no memory

    def _now(self) -> int:
        """Milliseconds, strictly rising: of two values at one step MLflow shows the one with the later time stamp."""
        self._last_ms = max(int(time.time() * 1000), self._last_ms + 1)
        return self._last_ms
