"""A page a trial: what it is, what came out, how it was run, and which numbers of the report it is behind."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.metrics import SELECTION_WORDS, describe
from pipeline.analysis.render.html_table import TRIALS, Anchors, render_template, template
from pipeline.analysis.report.listing import Link
from pipeline.analysis.report.provenance import commit_words, has_run
from pipeline.analysis.report.trial_curves import Histories
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import one_line
from pipeline.errors import StoreError, counted

_STATES = {"complete": "complete", "planned": "not trained yet"}
_HEAD = ("trial_id", "name", "state", "reason", "failure", "attempt", "resumed", "adopted_from", "seed", "run_id", "cell_id")
_GIT = ("env_git_commit", "env_git_dirty")
_SELECTIONS = {"last": "last epoch", "best_val": "best validation epoch", "best_test": "best test epoch (optimistic)"}
_PLACED = ("time_", "mem_", "env_", "factor_", "seed_")  # prefixes of the columns that have a place of their own
_BATCH = 256  # trials that are Python objects at a time
Facts = list[tuple[str, str]]
_described = cache(describe)  # a study's pages ask the same of thousands of trials


@dataclass(frozen=True)
class MetricRow:
    """A row of the table of metrics: its words, and a column of the results a selection rule, None where there is none."""

    words: str
    columns: tuple[str | None, ...]


@dataclass(frozen=True)
class Study:
    """What all pages of a study share.

    Attributes:
        name: of the study.
        askers: trial id -> (title of a table, its cells that the trial is behind).
        runs: trial id -> address of its MLflow run.
        selections: headings of the table of metrics.
        metrics: its rows.
        ids: all trials that have a page.
    """

    name: str
    askers: Mapping[str, Mapping[str, list[Link]]]
    runs: Mapping[str, str]
    selections: tuple[str, ...]
    metrics: tuple[MetricRow, ...]
    ids: frozenset[str]


def write_trial_pages(
    folder: Path,
    *,
    study: str,
    results: Sequence[TableResult],
    trials: pa.Table,
    history: pa.Table | None,
    planned: pa.Table | None,
    runs: Mapping[str, str],
) -> int:
    """Write `folder/trials/<trial_id>.html`, one a row of `trials`, and `folder/style.css`; pages of other trials are removed.

    Returns:
        The number of pages.

    Raises:
        StoreError: a trial id cannot be a file name.
    """
    pages = folder / TRIALS
    pages.mkdir(parents=True, exist_ok=True)
    (folder / "style.css").write_text(render_template("style.css"), encoding="utf-8", newline="\n")
    ids = frozenset(trials["trial_id"].to_pylist())
    for stale in pages.glob("*.html"):
        if stale.stem not in ids:
            stale.unlink()
    selections, metrics = _metric_rows(trials.column_names)
    shared = Study(study, _askers(results), runs, selections, metrics, ids)
    histories, plans = Histories(history), _plans(planned)
    page = template("trial.html.j2")
    for row in _rows(trials):
        text = page.render(trial_context(row, shared, histories, plans.get(row["trial_id"])))
        path = pages / f"{_file_name(row['trial_id'])}.html"
        path.write_text(text, encoding="utf-8", newline="\n")
    return len(ids)


def trial_context(row: Mapping[str, Any], study: Study, histories: Histories, planned: str | None) -> dict[str, Any]:
    """What the template of a trial's page prints."""
    row = {name: value for name, value in row.items() if value is not None and value != ""}
    plan = json.loads(planned) if planned else {}
    spec, trial_id = plan.get("spec", {}), row["trial_id"]
    taken = {*_HEAD, *(column for each in study.metrics for column in each.columns if column)}
    rest = [(name, value) for name, value in row.items() if name not in taken]
    return {
        "study": study.name,
        "name": row.get("name") or plan.get("name") or trial_id,
        "state": _STATES.get(row.get("state", ""), row.get("state", "unknown")),
        "reason": one_line(row.get("reason", "")),
        "seed": row.get("seed"),
        "has_run": has_run(row.get("state")),
        "why": _why(row, study),
        "askers": study.askers.get(trial_id, {}),
        "run": study.runs.get(trial_id, ""),
        "selections": study.selections,
        "metrics": list(_metrics(row, study.metrics)),
        "curves": histories.curves(trial_id),
        "costs": [_measure(name, value) for name, value in rest if name.startswith(("time_", "mem_"))],
        "config": _config(row, spec),
        "environment": _environment(row),
        "identity": _identity(row, spec),
        "record": [(name.replace("_", " "), str(value)) for name, value in rest if not name.startswith(_PLACED)],
    }


def _why(row: Mapping[str, Any], study: Study) -> list[str | Link]:
    """What made it run, when and with which code, as far as the record tells: texts and links in their order; nothing if it never ran."""
    if not has_run(row.get("state")):
        return []
    said = [*(_adoption(row["adopted_from"], study) if "adopted_from" in row else [_demand(row, study)]), *_end(row)]
    said.append(f"Commit that it was trained at: {commit_words(*map(row.get, _GIT))}.")
    if row.get("attempt", 0) > 1:
        said.append(f"Attempt {row['attempt']}, after {counted(row['attempt'] - 1, 'failed one')}.")
    if row.get("resumed"):
        said.append(f"Continued from a checkpoint {counted(row['resumed'], 'time')}; commit and environment are those of its last process.")
    return said


def _adoption(origin: str, study: Study) -> list[str | Link]:
    trained = Link(origin, f"{origin}.html") if origin in study.ids else origin
    return ["Not trained anew after a change of code: adopted from trial", trained, "as re-run trials were equal bit for bit."]


def _demand(row: Mapping[str, Any], study: Study) -> str:
    """For whom it was trained: a study that finds it in the store uses it again."""
    first = row.get("env_study")
    new = "The store had no finished trial of this identity, so it was run"
    if first is None:
        return f"{new}; for which study was not recorded."
    if first == study.name:
        return f"{new} for this study."
    return f"{new} for study {one_line(first)}. This study uses the stored trial again, as its identity is the same."


def _end(row: Mapping[str, Any]) -> list[str]:
    """When its record was written, and after how long; of a copy that was adopted, when that was."""
    if "time_finished_ns" not in row:
        return []
    when = _measure("time_finished_ns", row["time_finished_ns"])[1]
    if "adopted_from" in row:
        return [f"Adopted on {when}."]
    took = f" after {_measure('time_total_s', row['time_total_s'])[1]}" if "time_total_s" in row else ""
    return [f"Finished on {when}{took}."]


def _environment(row: Mapping[str, Any]) -> Facts:
    """Machine, versions, study and commit of the run that trained it; nothing of a trial that never ran."""
    if not has_run(row.get("state")):
        return []
    plain = [(_bare(name), str(value)) for name, value in row.items() if name.startswith("env_") and name not in _GIT]
    return [*plain, ("git commit", commit_words(*map(row.get, _GIT)))]


def _metrics(row: Mapping[str, Any], layout: Iterable[MetricRow]) -> Iterator[tuple[str, list[str]]]:
    for each in layout:
        values = [row.get(column) if column else None for column in each.columns]
        if any(value is not None for value in values):
            yield (
                each.words,
                [
                    "" if value is None or column is None else _described(column).number(value)
                    for column, value in zip(each.columns, values, strict=True)
                ],
            )


def _metric_rows(columns: Iterable[str]) -> tuple[tuple[str, ...], tuple[MetricRow, ...]]:
    """The headings and rows that fit the metric columns of the results: test first, then validation, training and others."""
    rows: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for column in columns:
        if column.startswith("metric_"):
            metric = describe(column)
            split = next((split for split in ("test", "val", "train") if column.startswith(f"metric_{split}_")), "")
            rows[split, metric.stem, metric.quantity][metric.selection or "last"] = column
    selections = [rule for rule in SELECTION_WORDS if any(rule in by_rule for by_rule in rows.values())]
    order = sorted(rows, key=lambda key: ("test", "val", "train", "").index(key[0]))
    layout = tuple(MetricRow(key[2], tuple(rows[key].get(rule) for rule in selections)) for key in order)
    return tuple(_SELECTIONS[rule] for rule in selections), layout


def _measure(name: str, value: Any) -> tuple[str, str]:
    """Words and printed value of a time or of memory."""
    if name.endswith("_ns"):
        return _bare(name).removesuffix(" ns"), datetime.fromtimestamp(value / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    metric = _described(name)
    return metric.words, f"{metric.number(value)} {metric.unit}"


def _config(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Facts:
    """The resolved configuration in the dotted names of a study file; of a trial without one, its levels."""
    if "config" in spec:
        return list(flat(spec["config"]))
    return [(name.removeprefix("factor_"), str(value)) for name, value in row.items() if name.startswith("factor_")]


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of each setting; the parts of a list go by their names."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from flat(each, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) and "name" in each for each in value):
        for each in value:
            options = {key: option for key, option in each.items() if key != "name"}
            yield from flat(options or "on", f"{prefix}.{each['name']}")
    else:
        yield prefix, _setting(value)


def _setting(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _identity(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Facts:
    """What tells this trial from every other: ids, keys, digests, seeds."""
    facts = [("trial id", row["trial_id"]), ("cell id", row.get("cell_id") or spec.get("cell_id"))]
    facts += [("code key", spec.get("code_key")), ("data digest", spec.get("data_digest"))]
    facts += [("trials it builds on", ", ".join(map(str, spec.get("upstream") or []))), ("plugins", ", ".join(spec.get("plugins") or []))]
    facts += [("seed", row.get("seed"))]
    facts += [(f"seed: {_bare(name)}", value) for name, value in row.items() if name.startswith("seed_")]
    facts += [("MLflow run", row.get("run_id"))]
    return [(name, str(value)) for name, value in facts if value is not None and value != ""]


def _bare(column: str) -> str:
    return column.partition("_")[2].replace("_", " ")


def _askers(results: Iterable[TableResult]) -> dict[str, dict[str, list[Link]]]:
    found: dict[str, dict[str, list[Link]]] = defaultdict(dict)
    for result in results:
        anchors, title = Anchors(result), one_line(result.title)
        for cell in result.cells:
            link = Link(_cell_name(result, cell), f"../index.html#{anchors.cell(cell)}")
            for trial_id in (*cell.trial_ids, *(missing.trial_id for missing in cell.missing)):
                if trial_id is not None:
                    found[trial_id].setdefault(title, []).append(link)
    return found


def _cell_name(result: TableResult, cell: CellResult) -> str:
    several = result.column_kind == "level" and len(result.metrics) > 1
    return f"{one_line(cell.row)} / {one_line(cell.column)}" + (f" ({_described(cell.metric).words})" if several else "")


def _rows(trials: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in trials.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _plans(planned: pa.Table | None) -> dict[str, str]:
    """trial id -> the JSON of its plan."""
    if planned is None:
        return {}
    return dict(zip(planned["trial_id"].to_pylist(), planned["planned"].to_pylist(), strict=True))


def _file_name(trial_id: str) -> str:
    if not re.fullmatch(r"[\w-]+", trial_id):
        raise StoreError(
            f"trial id {trial_id!r} cannot be the name of a page; ids are letters and digits. Write the results anew: dvc repro -f"
        )
    return trial_id
