"""What the mirror makes a run say, and what a run says instead: for the mirror, which writes it, and for whoever checks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.analysis.verify.texts import changes
from pipeline.orchestration.mirror.inputs import DataView, short_digest
from pipeline.orchestration.mirror.points import Points, cut, final_points, flatten, history_points, is_plumbing, legal_metrics, same
from pipeline.orchestration.mirror.views import NOTE, natural_order

if TYPE_CHECKING:
    from mlflow.entities import Run

CELLS = "cells.json"  # artifact of a table's run that the UI shows as a table
RUN_NAME, COMMIT, REASON, STATE = "mlflow.runName", "mlflow.source.git.commit", "reason", "state"
STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}  # states that leave a run behind

_TABLES = "mlflow.loggedArtifacts"
_NOTE_LENGTH = 8000  # characters of a tag that MLflow keeps
_QUOTED = 60  # characters of a value that a message quotes; of a longer one the line that differs


@dataclass(frozen=True)
class TrialView:
    """What MLflow shows of one trial beside its numbers.

    Attributes:
        trial_id: identity by content; at most one run carries it.
        name: run name, reads like the table cell, e.g. "resnet8 · cam · seed 0".
        tables: names of the tables that the trial serves.
        tags: study, arm, factors and whatever else a reader may filter by.
        params: resolved configuration, nested; logged with dotted keys.
        data: what it was trained on.
    """

    trial_id: str
    name: str
    tables: tuple[str, ...]
    tags: dict[str, str]
    params: dict[str, Any]
    data: DataView | None = None


@dataclass(frozen=True)
class TableView:
    """What MLflow shows of one table.

    Attributes:
        study, name, title: which table.
        description: Markdown.
        metrics: summary of each cell, by 'row/column/...'.
        shown: metrics of the trials' runs that the cells are made of; first of them, columns of the run table.
        cells: a row a cell, all with the same keys; shown as a table.
        artifacts: folder of the run -> files in it.
        numbers: the most important ones, as printed, in a line.
        trials: trial id -> tags that all tables of the study together give its run; None: not known here, so none is touched.
    """

    study: str
    name: str
    title: str
    description: str
    metrics: Mapping[str, float]
    shown: Sequence[str] = ()
    cells: Sequence[Mapping[str, Any]] = ()
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    numbers: str = ""
    trials: Mapping[str, Mapping[str, str]] | None = None


@dataclass
class KnownRun:
    """What is known of one MLflow run without asking again."""

    run_id: str
    status: str
    tags: dict[str, str]
    start_ms: int
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    "Latest value of each metric."
    datasets: set[str] = field(default_factory=set)
    "Digests of its inputs."
    logged: Points | None = None
    "Every point; None until read from MLflow."

    @classmethod
    def of(cls, run: Run) -> KnownRun:
        """A run as MLflow returns it."""
        inputs = {given.dataset.digest for given in run.inputs.dataset_inputs} if run.inputs else set()
        data = run.data
        return cls(run.info.run_id, run.info.status, dict(data.tags), run.info.start_time, dict(data.params), dict(data.metrics), inputs)


@dataclass(frozen=True)
class Content:
    """What an ended run says as long as nobody but the mirror writes into it.

    Attributes:
        status: MLflow's word for how it ended.
        tags, params: name -> value; others may be there, too.
        metrics: latest value of each: of a trial the final ones and those of its last epoch, of a table all.
        dataset: digest of its inputs; '' for none.
        is_closed: whether there must be no other metric.
    """

    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    is_closed: bool = False


@dataclass(frozen=True)
class Difference:
    """Something that a run does not say as the mirror would.

    Attributes:
        what: 'metric', 'parameter', 'tag', 'dataset' or 'status'.
        key: its name; '' for the status.
        found: what MLflow has; None where it is missing.
        expected: what it should be; None where it should not be there.
    """

    what: str
    key: str
    found: str | float | None
    expected: str | float | None

    @property
    def is_lasting(self) -> bool:
        """Whether MLflow offers no way to take it back, so that only another run is right."""
        return self.what in ("metric", "parameter") and self.found is not None

    def __str__(self) -> str:
        """'metric test_acc_top1_last is 0.5 but 0.9 from the store'."""
        name = f"{self.what} {self.key}".rstrip()
        if self.what == "dataset":
            return f"{name} is not among its inputs"
        if self.found is None:
            return f"{name} is missing: {_quoted(self.expected)} from the store"
        if self.expected is None:
            return f"{name} is {_quoted(self.found)} but should not be there"
        texts = [str(self.found), str(self.expected)]
        if any(len(text) > _QUOTED or "\n" in text for text in texts):
            return f"{name}: {next(changes(*texts)).words()}"
        return f"{name} is {_quoted(self.found)} but {_quoted(self.expected)} from the store"


def trial_content(view: TrialView, record: Mapping[str, Any], last: Mapping[str, Any] | None = None) -> Content:
    """What the run of a finished trial says.

    Args:
        view: of the trial.
        record: the stored one, in a state of `STATUS`.
        last: row of its history for the last epoch; None: metrics of epochs are left out. Times and loads of the machine always are,
            as those of an earlier attempt at an epoch may stand.
    """
    final = {key: value for (key, _), value in final_points(record).items()}
    epoch = {key: value for (key, _), value in history_points([last] if last else []).items() if not is_plumbing(key)}
    reason = {REASON: cut(str(record["reason"]), 1000)} if record.get("reason") else {}
    commit = {COMMIT: record["env_git_commit"]} if record.get("env_git_commit") else {}  # that the trial was trained at
    return Content(
        status=STATUS.get(record["state"], "FAILED"),
        tags={STATE: str(record["state"])} | reason | commit | trial_tags(view),
        metrics=epoch | final,
        params=flatten(view.params),
        dataset=short_digest(view.data) if view.data else "",
    )


def trial_tags(view: TrialView) -> dict[str, str]:
    """Tags of a trial's run, whatever became of the trial."""
    own = {"kind": "trial", "trial_id": view.trial_id, "tables": ", ".join(view.tables), "order": natural_order(view.name)}
    own |= {RUN_NAME: view.name}
    given = {key: value for key, value in view.tags.items() if key not in (STATE, REASON)}
    return {key: cut(str(value), 5000) for key, value in (given | own).items()}


def table_content(view: TableView) -> Content:
    """What the run of a table says, beside its files."""
    tags = {"kind": "table", "study": view.study, "table": view.name, "title": view.title, RUN_NAME: f"table: {view.name}"}
    tags |= {"metrics": ", ".join(view.shown)} if view.shown else {}
    tags |= {"numbers": view.numbers} if view.numbers else {}
    tags |= {NOTE: cut(f"**{view.title}**\n\n{view.description}".strip(), _NOTE_LENGTH)}
    tags |= {_TABLES: json.dumps([{"path": CELLS, "type": "table"}])} if view.cells else {}
    return Content("FINISHED", tags, legal_metrics(view.metrics), is_closed=True)


def differences(content: Content, run: KnownRun) -> Iterator[Difference]:
    """What a run does not say as it should, numbers first; what others have added to it is passed over."""
    for key, value in content.metrics.items():
        found = run.metrics.get(key)
        if found is None or not same(found, value):
            yield Difference("metric", key, found, value)
    if content.is_closed:
        yield from (Difference("metric", key, value, None) for key, value in run.metrics.items() if key not in content.metrics)
    for what, expected, there in (("parameter", content.params, run.params), ("tag", content.tags, run.tags)):
        for key, text in expected.items():
            if there.get(key) != text:
                yield Difference(what, key, there.get(key), text)
    if REASON in run.tags and REASON not in content.tags:
        yield Difference("tag", REASON, run.tags[REASON], None)
    if content.dataset and content.dataset not in run.datasets:
        yield Difference("dataset", content.dataset, None, content.dataset)
    if run.status != content.status:
        yield Difference("status", "", run.status, content.status)


def last_epochs(history: pa.Table | None) -> dict[str, dict[str, Any]]:
    """Trial id -> row of its last epoch, out of the histories of many trials: columns `trial_id`, `epoch` and what was measured."""
    if history is None:
        return {}
    last = history.group_by("trial_id").aggregate([("epoch", "max")])
    rows = history.join(last, ["trial_id", "epoch"], ["trial_id", "epoch_max"], join_type="left semi")
    return {row["trial_id"]: row for row in rows.to_pylist()}


def _quoted(value: str | float | None) -> str:
    return repr(cut(value, _QUOTED)) if isinstance(value, str) else str(value)
