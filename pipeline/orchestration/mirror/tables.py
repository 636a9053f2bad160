"""What MLflow shows of the tables of a study: one run a table, with its files, its cells as metrics and the way to its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.analysis.metrics import describe
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.tables import Average, CellResult, TableResult
from pipeline.analysis.wording import caption, file_stem, told_mean
from pipeline.orchestration.mirror.points import cut
from pipeline.orchestration.mirror.tracker import NullTracker, TableView
from pipeline.orchestration.mirror.views import COLUMN, MEAN, NOTE, ROW, WRITTEN
from pipeline.study.project import FIGURES, REPORT, TABLES

_DELTA = {"mean": "delta_mean", "sd": "delta_sd", "n": "delta_n", "p": "p"}  # number of a difference -> name of its metric
_ROOM = 7000  # characters of a description that links to trials may fill
_MOST_CELLS = 25  # that the description of a trial shows
_NUMBERS = 500  # characters of a line of numbers

_Place = tuple[TableResult, CellResult, str]  # a cell that a trial is in, and what it brings: its value as printed, or its state


def mirror_tables(tracker: NullTracker, results: Iterable[TableResult], figures: Iterable[Path]) -> int:
    """Make one run a table, with its files of tables/ and those of `figures` that are named after it; returns how many.

    These must be all tables of the study: they also give the runs of their trials tags and descriptions.
    """
    runs, experiment_id, pictures = tracker.run_ids(), tracker.experiment_id(), sorted(figures)
    results = list(results)
    tags = cell_tags(results)
    for result in results:
        tracker.table(replace(table_view(result, runs, experiment_id, pictures), trials=tags))
    return len(results)


def table_view(result: TableResult, runs: Mapping[str, str], experiment_id: str | None, figures: Iterable[Path] = ()) -> TableView:
    """What MLflow shows of a table, with its files of tables/ and those of `figures` that are named after it.

    Args:
        result: the table.
        runs: trial id -> run id.
        experiment_id: for links.
        figures: of all tables.
    """
    stem = file_stem(result.name)
    return TableView(
        study=result.study,
        name=result.name,
        title=result.title,
        description=table_note(result, runs, experiment_id),
        metrics=table_metrics(result),
        shown=list(dict.fromkeys(cell.metric.removeprefix("metric_") for cell in result.cells)),
        cells=table_cells(result),
        artifacts={
            TABLES.name: [TABLES / f"{stem}.{suffix}" for suffix in FORMATS],
            FIGURES.name: [path for path in figures if path.name.startswith(f"{stem}.")],
        },
        numbers=table_numbers(result),
    )


def cell_tags(results: Iterable[TableResult]) -> dict[str, dict[str, str]]:
    """What tables say of the trials in them: trial id -> tags of its run.

    `row.<table>` and, where columns are levels, `column.<table>`: its place, in the words of the table; of several places all, separated
    by commas. `mean.<metric>`: mean ± sample SD of its cell, where no seed is missing. And a description of the run.
    """
    places: dict[str, list[_Place]] = {}
    for result in results:
        for cell in result.cells:
            for trial_id, value in zip(cell.trial_ids, cell.values, strict=True):
                places.setdefault(trial_id, []).append((result, cell, describe(cell.metric).number(value)))
            for gone in cell.missing:
                if gone.trial_id is not None:
                    places.setdefault(gone.trial_id, []).append((result, cell, gone.state))
    return {trial_id: _place_tags(own) | {NOTE: _trial_note(trial_id, own)} for trial_id, own in places.items()}


def _place_tags(places: Iterable[_Place]) -> dict[str, str]:
    words: dict[str, list[str]] = {}
    for result, cell, _ in places:
        words.setdefault(ROW + result.name, []).append(cell.row)
        if result.column_kind == "level":
            words.setdefault(COLUMN + result.name, []).append(cell.column)
        if cell.mean is not None:
            unit = describe(cell.metric).unit
            words.setdefault(MEAN + cell.metric.removeprefix("metric_"), [f"{_printed(cell)} {unit}".rstrip()])
    return {key: cut(", ".join(dict.fromkeys(found)), _ROOM) for key, found in words.items() if any(found)}


def _trial_note(trial_id: str, places: Sequence[_Place]) -> str:
    """Description of a trial's run: the cells that it is in, with numbers, and where its page is."""
    lines = [f"A trial of study {places[0][0].study}. Its cells:", ""]
    lines += ["| table | cell | measured | this trial | its cell |", "|---|---|---|---|---|"]
    for result, cell, own in places[:_MOST_CELLS]:
        parts = (result.name, f"{cell.row} / {cell.column}", describe(cell.metric).quantity, own, told_mean(result, cell))
        lines.append("| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |")
    page = f"Curves, configuration and environment: `{REPORT}/trials/{trial_id}.html`; all tables: `{REPORT}/index.html`."
    more = [f"And {len(places) - _MOST_CELLS} more cells.", ""] if len(places) > _MOST_CELLS else []
    return "\n".join([*lines, "", *more, page, "", WRITTEN])


def table_numbers(result: TableResult) -> str:
    """'test accuracy (%), mean ± SD over rows – ce: 87.14 ± 1.40, ...'; the cells, row by row, of a table without such a line."""
    words = {metric: describe(metric).quantity for metric in result.metrics}
    lines = []
    for metric, quantity in words.items():
        averages = [f"{each.column}: {_printed(each)}" for each in result.averages if each.metric == metric]
        cells = [cell for cell in result.cells if cell.metric == metric and cell.mean is not None]
        labels = [cell.row if result.column_kind == "metric" else f"{cell.row} / {cell.column}" for cell in cells]
        rows = [f"{label}: {_printed(cell)}" for label, cell in zip(labels, cells, strict=True)]
        if averages or rows:
            lines.append(f"{quantity}{', mean ± SD over rows' if averages else ', mean ± SD'} – {', '.join(averages or rows)}")
    return cut("; ".join(lines), _NUMBERS)


def _printed(numbers: CellResult | Average) -> str:
    """'90.77 ± 0.68': mean ± sample SD, whatever the style of the table, as one list shows several tables."""
    assert numbers.mean is not None
    return describe(numbers.metric).spread(numbers.mean, numbers.sd)


def table_metrics(result: TableResult) -> dict[str, float]:
    """Summary of each cell by 'row/column/...': n, and of a complete cell mean, sd and its difference to the baseline.

    In a table with several metrics a cell the name goes on with the words of the metric: 'row/column/test accuracy/mean'.
    """
    metrics: dict[str, float] = {}
    names = _names(result)
    for cell in result.cells:
        numbers = {"n": float(cell.n), "mean": cell.mean, "sd": cell.sd}
        numbers |= {metric: getattr(cell.delta, key, None) for key, metric in _DELTA.items()} if cell.delta else {}
        metrics |= {f"{names[_key(cell)]}/{name}": float(value) for name, value in numbers.items() if value is not None}
    return metrics


def table_cells(result: TableResult) -> list[dict[str, Any]]:
    """A row a cell, rounded as printed, with the trials behind it; MLflow compares tables by their first two columns."""
    rows = []
    for cell in result.cells:
        metric = describe(cell.metric)
        delta = cell.delta.mean if cell.delta else None
        rows.append(
            {
                "cell": f"{cell.row} / {cell.column}",
                "mean ± sd": "" if cell.mean is None else metric.spread(cell.mean, cell.sd),
                "n": cell.n,
                "Δ to baseline": "" if delta is None else metric.number(delta, signed=True),
                "metric": metric.quantity,
                "missing": ", ".join(f"seed {each.seed}: {each.state}" for each in cell.missing),
                "trials": " ".join(cell.trial_ids),
            }
        )
    return rows


def table_note(result: TableResult, runs: Mapping[str, str], experiment_id: str | None) -> str:
    """Caption, a filter for the runs of the table's trials, and links to them while they fit.

    Args:
        result: the table.
        runs: trial id -> run id.
        experiment_id: for links.
    """
    lines = [caption(result), "", "Its trials, as a filter to paste into the list of runs:", ""]
    lines += ["```", f"tags.kind = 'trial' AND tags.tables LIKE '%{result.name}%'", "```", ""]
    links = ["| cell | runs |", "|---|---|"]
    for cell in {(cell.row, cell.column): cell for cell in result.cells}.values():  # cells of several metrics share their trials
        seeds = zip(cell.seeds, cell.trial_ids, strict=True)
        found = [f"[seed {seed}](#/experiments/{experiment_id}/runs/{runs[trial]})" for seed, trial in seeds if trial in runs]
        name = f"{cell.row} / {cell.column}".replace("|", "\\|")
        links.append(f"| {name} | {' '.join(found)} |")
    text = "\n".join(links)
    return "\n".join([*lines, text] if experiment_id and len(text) <= _ROOM else lines)


def _key(cell: CellResult) -> tuple[str, str, str]:
    return cell.row, cell.column, cell.metric


def _names(result: TableResult) -> dict[tuple[str, str, str], str]:
    """Metric name of each cell, without what it says of it."""
    several = max(Counter((cell.row, cell.column) for cell in result.cells).values(), default=1) > 1
    words = {cell.metric: describe(cell.metric) for cell in result.cells}
    alike = Counter(metric.words for metric in words.values())
    names = {}
    for cell in result.cells:
        metric = words[cell.metric]
        last = metric.words if alike[metric.words] == 1 else f"{metric.words} {metric.selection}"
        names[_key(cell)] = f"{cell.row}/{cell.column}" + (f"/{last}" if several else "")
    return names
