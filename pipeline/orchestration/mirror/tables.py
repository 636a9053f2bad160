"""What MLflow shows of the tables of a study: one run a table, with its files, its cells as metrics and the way to its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.analysis.metrics import describe
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import caption, file_stem
from pipeline.orchestration.mirror.tracker import NullTracker, TableView
from pipeline.study.project import FIGURES, TABLES

_DELTA = {"mean": "delta_mean", "sd": "delta_sd", "n": "delta_n", "p": "p"}  # number of a difference -> name of its metric
_ROOM = 7000  # characters of a description that links to trials may fill


def mirror_tables(tracker: NullTracker, results: Iterable[TableResult], figures: Iterable[Path]) -> int:
    """Make one run a table, with its files of tables/ and those of `figures` that are named after it; returns how many."""
    runs, experiment_id, pictures = tracker.run_ids(), tracker.experiment_id(), sorted(figures)
    count = 0
    for result in results:
        stem = file_stem(result.name)
        tracker.table(
            TableView(
                study=result.study,
                name=result.name,
                title=result.title,
                description=table_note(result, runs, experiment_id),
                metrics=table_metrics(result),
                shown=list(dict.fromkeys(cell.metric.removeprefix("metric_") for cell in result.cells)),
                cells=table_cells(result),
                artifacts={
                    TABLES.name: [TABLES / f"{stem}.{suffix}" for suffix in FORMATS],
                    FIGURES.name: [path for path in pictures if path.name.startswith(f"{stem}.")],
                },
            )
        )
        count += 1
    return count


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
