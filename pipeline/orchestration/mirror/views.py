"""What the MLflow UI opens with: saved views of the run table, and the description of the experiment.

The UI of MLflow 3.17 keeps a view of the run table in a tag of its experiment and lists it under "Views":
`mlflow.sharedViewState.<key>` = {"name", "createdAt", "updatedAt", "state"}, where `state` is the JSON of filter, order, columns and
grouping. `?viewStateShareKey=<key>` opens it. Read off the UI's own code (no API writes it); another version may ignore the tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

VIEW = "mlflow.sharedViewState."
KIND = "mlflow.experimentKind"  # without it the UI may open its pages for language models
NOTE = "mlflow.note.content"
_TRAINING = "workflowType=machine_learning"  # the side bar of training, not of language models
_LINK = f"{_TRAINING}&viewStateShareKey="
WRITTEN = "<!-- written by ablate; change this line to keep your own words -->"
NAMES = {"trials": "Trials", "cells": "Cells: mean over seeds", "tables": "Tables"}  # view key -> as listed, the first on top

ROW, COLUMN, MEAN = OF_TABLES = ("row.", "column.", "mean.")  # beginnings of tags that tables give the runs of their trials

_NO_FACTOR = {"kind", "study", "trial_id", "cell_id", "cell", "tables", "table", "title", "seed", "order", "state", "reason", "metrics"}
_LED_BY = ("dataset", "backbone", "regularizers", "arm")  # first columns of the table, where they vary
USUAL_METRICS = ("test_acc_top1_last",)  # columns while no table says which
MOST_METRICS = 3
_NAME, _CREATED, _DURATION = (
    "attributes.`Run Name`",
    "runDateAndNestInfo",
    "duration",
)  # columns that are always there, as the UI calls them
_WIDTHS = {_NAME: 300, "tags.`title`": 300, "tags.`numbers`": 700, "tags.`seed`": 60}  # pixels
_CELL_WIDTH, _TABLE_WIDTH = 560, 200  # of the name
_METRIC_WIDTH = 150
_MOST_COLLAPSED = 200  # groups: their names must fit into the tag


def is_ours_to_describe(tags: Mapping[str, str]) -> bool:
    """Whether what has these tags has no description, or one that the mirror wrote: words of the user's own stay."""
    return WRITTEN in tags.get(NOTE, WRITTEN)


def natural_order(name: str) -> str:
    """`name` so that numbers in it sort by size: 'resnet8 · seed 2' -> 'resnet0008 · seed 0002', before seed 10."""
    return re.sub(r"(?<![\d.])\d+", lambda digits: digits[0].zfill(4), name)


def experiment_tags(study: str, experiment_id: str, trials: Collection[Mapping[str, str]], metrics: Sequence[str]) -> dict[str, str]:
    """Tags of the experiment: its kind, its description and its views.

    Args:
        study: its name.
        experiment_id: for links.
        trials: tags of the runs of trials.
        metrics: those of their metrics that are columns.
    """
    return {KIND: "custom_model_development", NOTE: _note(study, experiment_id, trials)} | _views(trials, metrics)


def view_links(experiment: Mapping[str, Any], base: str) -> list[str]:
    """Lines that name an experiment of the REST API and its views, with their addresses under `base`."""
    runs = f"{base}/#/experiments/{experiment['experiment_id']}/runs"
    there = {tag["key"] for tag in experiment.get("tags", [])}
    views = [f"  {name}: {runs}?{_LINK}{key}" for key, name in NAMES.items() if VIEW + key in there]
    return [f"Experiment {experiment['name']!r}: {runs}?{_TRAINING}", *views]


def _views(trials: Collection[Mapping[str, str]], metrics: Sequence[str]) -> dict[str, str]:
    factors = _varying(trials)
    measured = [f"metrics.`{name}`" for name in metrics]
    failed = ["tags.`reason`"] if any("reason" in tags for tags in trials) else []
    levels = [f"tags.`{name}`" for name in factors]
    by_order = {"orderByKey": "tags.`order`", "orderByAsc": True}
    only_trials = {"searchFilter": "tags.kind = 'trial'", **by_order}
    states = {
        "trials": {**only_trials, **_columns([*measured, *levels, "tags.`seed`", *failed])},
        "cells": {**only_trials, **_columns(measured, name_width=_CELL_WIDTH), **_groups(trials, metrics)},
        "tables": {
            "searchFilter": "tags.kind = 'table'",
            "orderByKey": "tags.`mlflow.runName`",
            "orderByAsc": True,
            **_columns(["tags.`numbers`", "tags.`title`"], name_width=_TABLE_WIDTH),
        },
    }
    newest = len(NAMES)
    return {
        VIEW + key: json.dumps(
            # The menu lists the newest view first; fixed dates keep the tag the same from run to run.
            {"name": name, "createdAt": newest - place, "updatedAt": newest - place, "state": json.dumps(states[key], ensure_ascii=False)},
            ensure_ascii=False,
        )
        for place, (key, name) in enumerate(NAMES.items())
    }


def _columns(selected: list[str], *, name_width: int = _WIDTHS[_NAME]) -> dict[str, Any]:
    """These columns, in this order, between name and duration."""
    order = [_NAME, _CREATED, *selected, _DURATION]
    widths = {name: _METRIC_WIDTH for name in selected if name.startswith("metrics.")} | _WIDTHS | {_NAME: name_width}
    return {"selectedColumns": selected, "columnOrder": order, "columnWidths": {name: widths[name] for name in order if name in widths}}


def _groups(trials: Collection[Mapping[str, str]], metrics: Sequence[str]) -> dict[str, Any]:
    """Runs of a cell under one line with their mean, closed; told apart by id where two cells are called the same.

    Such a line shows what it is grouped by, and no other tag: the printed mean ± SD is among that, unless it would tear a cell apart, as
    it does while some of its trials are not in the tables yet.
    """
    cells = {(tags.get("cell", ""), tags.get("cell_id", "")) for tags in trials}
    keys = ["cell"] if len({cell for cell, _ in cells}) == len(cells) else ["cell", "cell_id"]
    printed = next((MEAN + name for name in metrics if any(MEAN + name in tags for tags in trials)), None)
    if printed and len({(tags.get("cell", ""), tags.get("cell_id", ""), tags.get(printed)) for tags in trials}) == len(cells):
        keys.append(printed)
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": key} for key in keys]}
    closed = {",".join(f"tag.{key}.{tags.get(key)}" for key in keys): False for tags in trials}
    return {"groupBy": group, "groupsExpanded": dict(sorted(closed.items())) if len(closed) <= _MOST_COLLAPSED else {}}


def _varying(trials: Iterable[Mapping[str, str]]) -> list[str]:
    """Factors that differ between trials, the usual ones first; a loss is not named beside the arm that it makes."""
    levels: dict[str, set[str | None]] = {}
    trials = list(trials)
    for name in {key for tags in trials for key in tags} - _NO_FACTOR:
        if not name.startswith(("mlflow.", *OF_TABLES)):
            levels[name] = {tags.get(name) for tags in trials}
    varying = {name for name, seen in levels.items() if len(seen) > 1}
    if "arm" in varying:
        varying.discard("loss")
    return [name for name in _LED_BY if name in varying] + sorted(varying - set(_LED_BY))


def _note(study: str, experiment_id: str, trials: Collection[Mapping[str, str]]) -> str:
    runs = f"#/experiments/{experiment_id}/runs"
    levels = {name: sorted({tags[name] for tags in trials if name in tags}) for name in _varying(trials)}
    factors = [f"| {_tag(name)} | {', '.join(f'`{level}`' for level in _some(seen))} |" for name, seen in levels.items()]
    tables = sorted({name for tags in trials for name in tags.get("tables", "").split(", ") if name})
    examples = ["tags.kind = 'trial' AND tags.state = 'failed'", "tags.kind = 'trial' AND tags.seed = '0'"]
    examples += [f"tags.kind = 'trial' AND tags.tables LIKE '%{table}%'" for table in tables]
    examples += [f"tags.kind = 'trial' AND tags.{_tag(name)} = '{seen[-1]}'" for name, seen in levels.items() if name in _LED_BY and seen]
    rows = {f"{ROW}{table}": sorted({tags[ROW + table] for tags in trials if ROW + table in tags}) for table in tables}
    examples += [f"tags.kind = 'trial' AND tags.{_tag(name)} = '{seen[0]}'" for name, seen in rows.items() if seen]
    return "\n".join(
        [
            f"**Study {study}.** One run a trial (one cell and seed) and one run a table; a mirror of the trial store, which is the truth.",
            "",
            *(f"- [{name}]({runs}?{_LINK}{key})" for key, name in NAMES.items()),
            "",
            *(["| tag | levels |", "|---|---|", *factors, ""] if factors else []),
            "Filters to paste:",
            "",
            "```",
            *examples,
            "metrics.test_acc_top1_last > 0.9",
            "```",
            "",
            f"`ablate mlflow rebuild --study {study}` makes everything here again, also runs that were deleted.",
            "",
            WRITTEN,
        ]
    )


def _tag(name: str) -> str:
    return name if name.isidentifier() else f"`{name}`"


def _some(levels: list[str], most: int = 12) -> list[str]:
    return levels if len(levels) <= most else [*levels[:most], "…"]
