"""Runs of one MLflow experiment, kept equal to the trial store: what is logged, under which names, and how a rerun finds it.

Everything here talks to MLflow directly and waits for it; `tracking.Tracker` calls it from a thread of its own.
"""

from __future__ import annotations

import json
import math
import numbers
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.orchestration.tracking_uri import database_path, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

History = list[dict[str, Any]]
Points = dict[tuple[str, int], float]  # (metric, step) -> value; final metrics have step 0, epochs count from 1
T = TypeVar("T")

_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}  # states that leave a run behind
_RUN_NAME, _COMMIT, _NOTE = "mlflow.runName", "mlflow.source.git.commit", "mlflow.note.content"


@dataclass(frozen=True)
class TrialView:
    """What MLflow shows of one trial beside its numbers.

    Attributes:
        trial_id: identity by content; at most one run carries it.
        name: run name, reads like the table cell, e.g. "resnet8 · cam · seed 0".
        tables: names of the tables that the trial serves.
        tags: study, arm, factors and whatever else a reader may filter by.
        params: resolved configuration, nested; logged with dotted keys.
    """

    trial_id: str
    name: str
    tables: tuple[str, ...]
    tags: dict[str, str]
    params: dict[str, Any]


def metric_name(key: str) -> str:
    """MLflow name of an epoch metric: `metric_val_acc_top1` and `val_acc_top1` -> `val/acc_top1`."""
    name = key.removeprefix("metric_")
    return _legal(name if "/" in name else name.replace("_", "/", 1))


def final_points(record: Mapping[str, Any]) -> Points:
    """Finite `metric_*`, `time_*` and `mem_*` columns of a record; `metric_` is dropped from the name."""
    columns = {key: value for key, value in record.items() if key.startswith(("metric_", "time_", "mem_"))}
    return {(_legal(key.removeprefix("metric_")), 0): float(value) for key, value in columns.items() if _is_finite(value)}


def epoch_points(epoch: int, metrics: Mapping[str, Any]) -> Points:
    """Finite values of one epoch under their MLflow names."""
    return {(metric_name(key), epoch): float(value) for key, value in metrics.items() if key != "epoch" and _is_finite(value)}


def history_points(history: Iterable[Mapping[str, Any]]) -> Points:
    """All epochs of one trial; rows hold `epoch`, `metric_*`, and perhaps `time_*` and `mem_*`."""
    points: Points = {}
    for row in history:
        values = {key: value for key, value in row.items() if key.startswith(("metric_", "time_", "mem_"))}
        points |= epoch_points(int(row["epoch"]), values)
    return points


def flatten(params: Any, prefix: str = "") -> dict[str, str]:
    """Nested configuration with dotted keys, e.g. `loss.cam.weight`, `regularizers.0.name`; plain lists become JSON."""
    if isinstance(params, Mapping) and (params or not prefix):
        items: Iterable[tuple[Any, Any]] = params.items()
    elif isinstance(params, (list, tuple)) and any(isinstance(value, Mapping) for value in params):
        items = enumerate(params)
    else:
        return {_legal(prefix): _cut(params if isinstance(params, str) else json.dumps(params, default=str, ensure_ascii=False), 6000)}
    return {key: value for name, part in items for key, value in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()}


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _legal(name: str) -> str:
    """`name` within what MLflow accepts as the key of a metric or parameter."""
    return posixpath.normpath(re.sub(r"[^\w\-. /:]", "_", name)[:250]).lstrip("/.") or "_"


def _plain(location: str) -> str:
    return redact(location).removeprefix("file://").rstrip("/")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)  # a column may have been kept as float32


def _chunks(items: Iterable[T], size: int) -> list[list[T]]:
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]


@dataclass
class _Run:
    """What is known of one MLflow run without asking again."""

    run_id: str
    status: str
    tags: dict[str, str]
    start_ms: int
    params: set[str] = field(default_factory=set)
    metrics: dict[str, float] = field(default_factory=dict)
    "Latest value of each metric."
    logged: Points | None = None
    "Every point; None until read from MLflow."

    @classmethod
    def of(cls, run: Run) -> _Run:
        return cls(run.info.run_id, run.info.status, dict(run.data.tags), run.info.start_time, set(run.data.params), dict(run.data.metrics))


class Mirror:
    """Every MLflow call, one at a time; lives on the background thread."""

    def __init__(self, uri: str, experiment: str, artifact_location: str | None, commit: str | None, log: Callable[[str], None]) -> None:
        self.uri, self.experiment, self.artifact_location, self.commit, self.log = uri, experiment, artifact_location, commit, log
        self.runs: dict[str, _Run] = {}
        self.tables: dict[tuple[str, str], _Run] = {}
        self.pending: dict[str, Points] = {}
        self._live: set[str] = set()
        self._touched: set[str] = set()
        self._last_ms = 0
        self._client: MlflowClient
        self._experiment_id: str

    def connect(self) -> None:
        """Create database and experiment where they are missing and read which runs exist."""
        from mlflow import MlflowClient
        from mlflow.entities import LifecycleStage

        if self.uri.startswith("http"):
            import requests

            requests.get(self.uri.rstrip("/") + "/health", timeout=5)  # MLflow itself would retry for long; any answer will do
        elif path := database_path(self.uri):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=self.uri)
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            self._experiment_id = self._client.create_experiment(self.experiment, self.artifact_location, tags)
        else:
            self._experiment_id = found.experiment_id
            if found.lifecycle_stage == LifecycleStage.DELETED:
                self._client.restore_experiment(self._experiment_id)
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

    def _search(self, kind: str) -> Iterator[_Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], f"tags.kind = '{kind}'", max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            yield from map(_Run.of, page)
            token = page.token
            if not token:
                return

    def started(self, view: TrialView) -> None:
        self._touched.add(view.trial_id)
        self._live.add(view.trial_id)
        run = self._ensure(view, {"state": "running"} | ({_COMMIT: self.commit} if self.commit else {}))
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

    def finished(self, view: TrialView, record: Mapping[str, Any], history: History | Callable[[], History]) -> None:
        self._touched.add(view.trial_id)
        epochs = history_points(history() if callable(history) else history)
        final = final_points(record)
        start_ms = self._now() - int(1000 * final.get(("time_train_s", 0), 0.0))  # of a run made afterwards: the duration is right
        run = self._ensure(view, {}, start_ms)
        truth = epochs | final
        last = max((step for _, step in epochs), default=None)
        if any(self._contradicts(point, value, truth, last) for point, value in self._logged(run).items()):
            # MLflow cannot take a point back: a curve spliced from two attempts is replaced by one clean run.
            self._client.delete_run(run.run_id)
            del self.runs[view.trial_id]
            run = self._ensure(view, {_COMMIT: run.tags[_COMMIT]} if _COMMIT in run.tags else {}, run.start_ms)
        buffered = {point: v for point, v in self.pending.pop(view.trial_id, {}).items() if last is None or point[1] <= last}
        reason = {"reason": _cut(str(record["reason"]), 1000)} if record.get("reason") else {}
        self._write(run, points=buffered | truth, tags={"state": str(record["state"])} | reason)
        if not reason:
            self._drop_reason(run)
        self._terminate(run, _STATUS.get(record["state"], "FAILED"))
        self._live.discard(view.trial_id)

    @staticmethod
    def _contradicts(point: tuple[str, int], value: float, truth: Points, last: int | None) -> bool:
        key, step = point
        if key.startswith(("time_", "time/", "mem_", "mem/")):
            return False
        return (last is not None and step > last) or (point in truth and not _same(truth[point], value))

    def sync(self, view: TrialView, record: Mapping[str, Any], history: History | Callable[[], History]) -> None:
        status = _STATUS.get(record["state"])
        if status is None or view.trial_id in self._touched:  # nothing was trained, or newer news came meanwhile
            return
        run = self.runs.get(view.trial_id)
        final = {key: value for (key, _), value in final_points(record).items()}
        ended = run is not None and (run.status, run.tags.get("state")) == (status, record["state"])
        if run and ended and all(key in run.metrics and _same(run.metrics[key], value) for key, value in final.items()):
            self._write(run, tags=self._tags(view))
        else:
            self.finished(view, record, history)

    def table(self, study: str, name: str, title: str, metrics: dict[str, float], artifacts: Sequence[Path], description: str) -> None:
        values = {_legal(key): float(value) for key, value in metrics.items() if _is_finite(value)}
        tags = {"kind": "table", "study": study, "table": name, _RUN_NAME: f"table: {name}", _NOTE: f"**{title}**\n\n{description}".strip()}
        tags |= {_COMMIT: self.commit} if self.commit else {}
        run = self.tables.get((study, name))
        if run and not run.metrics.keys() <= values.keys():  # a metric cannot be taken back: a cell that is gone needs a clean run
            self._client.delete_run(run.run_id)
            del self.tables[study, name]
            run = None
        if run is None:
            run = self.tables[study, name] = self._create(tags)
        self._write(run, {(key, 0): value for key, value in values.items() if run.metrics.get(key) != value}, tags, again=True)
        for path in artifacts:
            if path.is_dir():
                self._client.log_artifacts(run.run_id, str(path), path.name)
            elif path.exists():
                self._client.log_artifact(run.run_id, str(path))
            else:
                self.log(f"mlflow: {path} of table {name!r} does not exist and is left out")
        if run.status != "FINISHED":
            self._terminate(run, "FINISHED")

    def end_open(self, reason: str) -> None:
        """End every run whose trial did not finish as KILLED."""
        self.flush()
        for trial_id in sorted(self._live & self.runs.keys()):
            self._write(self.runs[trial_id], tags={"state": "killed", "reason": reason})
            self._terminate(self.runs[trial_id], "KILLED")
            self._live.discard(trial_id)

    def _tags(self, view: TrialView) -> dict[str, str]:
        own = {"kind": "trial", "trial_id": view.trial_id, "tables": ", ".join(view.tables), _RUN_NAME: view.name}
        given = {key: value for key, value in view.tags.items() if key not in ("state", "reason")}
        return {key: _cut(str(value), 5000) for key, value in (given | own).items()}

    def _ensure(self, view: TrialView, tags: dict[str, str], start_ms: int | None = None) -> _Run:
        """The run of a trial with its tags and parameters, created where there is none."""
        tags = tags | self._tags(view)
        if view.trial_id not in self.runs:
            self.runs[view.trial_id] = self._create(tags, start_ms)
        run = self.runs[view.trial_id]
        self._write(run, tags=tags, params={key: value for key, value in flatten(view.params).items() if key not in run.params})
        return run

    def _create(self, tags: dict[str, str], start_ms: int | None = None) -> _Run:
        tags = {"mlflow.source.name": "ablate", "mlflow.source.type": "LOCAL"} | tags
        run = _Run.of(self._client.create_run(self._experiment_id, start_ms or self._now(), tags, tags[_RUN_NAME]))
        run.logged = {}
        return run

    def _logged(self, run: _Run) -> Points:
        if run.logged is None:
            keys = self._client.get_run(run.run_id).data.metrics
            run.logged = {(key, m.step): m.value for key in keys for m in self._client.get_metric_history(run.run_id, key)}
        return run.logged

    def _write(
        self,
        run: _Run,
        points: Points | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> None:
        """Log what is new, within MLflow's limits of 1000 entities a call, 100 of them parameters and 100 tags.

        A point of an epoch that is already there stays; a final timing that changed is logged again, as the latest value counts.
        With `again` all points are logged.
        """
        from mlflow.entities import Metric, Param, RunTag

        if points and not again:
            logged = self._logged(run)
            points = {p: v for p, v in points.items() if p not in logged or (p[1] == 0 and not _same(logged[p], v))}
        points, params = points or {}, params or {}
        tags = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
        now = self._now()
        metric_chunks = _chunks((Metric(key, value, now, step) for (key, step), value in points.items()), 800)
        param_chunks = _chunks((Param(key, value) for key, value in params.items()), 100)
        tag_chunks = _chunks((RunTag(key, value) for key, value in tags.items()), 100)
        for metric_part, param_part, tag_part in zip_longest(metric_chunks, param_chunks, tag_chunks, fillvalue=()):
            self._client.log_batch(run.run_id, metric_part, param_part, tag_part)
        run.tags.update(tags)
        run.params.update(params)
        run.metrics.update({key: value for (key, _), value in sorted(points.items(), key=lambda item: item[0][1])})
        if run.logged is not None:
            run.logged.update(points)

    def _drop_reason(self, run: _Run) -> None:
        if "reason" in run.tags:
            self._client.delete_tag(run.run_id, "reason")
            del run.tags["reason"]

    def _terminate(self, run: _Run, status: str) -> None:
        self._client.set_terminated(run.run_id, status)
        run.status, run.logged = status, None  # the points of a finished run need no memory

    def _now(self) -> int:
        """Milliseconds, strictly rising: of two values at one step MLflow shows the one with the later time stamp."""
        self._last_ms = max(int(time.time() * 1000), self._last_ms + 1)
        return self._last_ms
