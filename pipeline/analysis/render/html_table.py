"""A table as an HTML page of its own that needs no network, and the parts of it that the report shows too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from pipeline.analysis.layout import RANK_LABEL, Entry, Grid, Line, lay_out
from pipeline.analysis.metrics import describe
from pipeline.analysis.tables import CellResult, TableResult
from pipeline.analysis.wording import missing_note, one_line, told_mean

TRIALS = "trials"  # folder of the pages of trials, beside the report's index.html
_REPORT = "../report"  # as seen from tables/

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline.analysis"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class LinkedEntry:
    """A printed cell, and the place that tells what its number is made of; '' for none."""

    entry: Entry
    href: str = ""


@dataclass(frozen=True)
class HtmlLine:
    """A row: its label under the heading of its group, and its cells."""

    label: str
    cells: tuple[LinkedEntry, ...]
    kind: str


@dataclass(frozen=True)
class HtmlTable:
    """What the template of a table prints.

    Attributes:
        grid: the texts.
        groups: (heading, rows); the heading is '' where rows are not grouped.
        closing: averages and ranks, which are not sorted with the rows.
    """

    grid: Grid
    groups: tuple[tuple[str, tuple[HtmlLine, ...]], ...]
    closing: tuple[HtmlLine, ...]


@dataclass(frozen=True)
class SeedFact:
    """One trial behind a cell: 'seed 0: 93.10 %', its page, and its MLflow run; '' where there is none."""

    text: str
    trial_id: str
    page: str
    run: str


@dataclass(frozen=True)
class CellLink:
    """The name of a cell, or of a column, and the place on the page that tells what it is made of."""

    name: str
    href: str


@dataclass(frozen=True)
class CellFacts:
    """One number and the trials behind it; `anchor` is its id on the page, `baseline` the cell that it is compared with."""

    anchor: str
    name: str
    text: str
    seeds: tuple[SeedFact, ...]
    baseline: CellLink | None


@dataclass(frozen=True)
class ClosingFacts:
    """What stands below one column: the cells that it is computed of, and the column that an average is compared with."""

    anchor: str
    name: str
    cells: tuple[CellLink, ...]
    baseline: CellLink | None


@dataclass(frozen=True)
class TableFacts:
    """What all numbers of a table are made of."""

    cells: tuple[CellFacts, ...]
    closing: tuple[ClosingFacts, ...]


class Anchors:
    """Ids of what a page says of the cells of one table; by position, as labels may hold anything."""

    def __init__(self, result: TableResult) -> None:
        self._table = result.name
        self._rows, self._columns = ({name: i for i, name in enumerate(names, 1)} for names in (result.rows, result.columns))
        several = result.column_kind == "level" and len(result.metrics) > 1
        self._metrics = {metric: f"-{i}" if several else "" for i, metric in enumerate(result.metrics, 1)}

    def cell(self, cell: CellResult) -> str:
        """Where the trials behind a cell are listed."""
        return f"cell-{self._place(cell)}"

    def difference(self, cell: CellResult) -> str:
        """Where its difference to the baseline is judged."""
        return f"difference-{self._place(cell)}"

    def closing(self, column: str, metric: str) -> str:
        """Where the cells are listed of which the average and the rank of a column are computed."""
        return f"closing-{self._table}-{self._columns[column]}{self._metrics[metric]}"

    def _place(self, cell: CellResult) -> str:
        return f"{self._table}-{self._rows[cell.row]}-{self._columns[cell.column]}{self._metrics[cell.metric]}"


def render_html(result: TableResult) -> str:
    """A self-contained page with one table, and below it the trials behind each number with links into the report."""
    table, cells = html_table(result), cell_facts(result, f"{_REPORT}/{TRIALS}")
    return render_template("table_page.html.j2", table=table, cells=cells, study=result.study)


def render_template(name: str, **values: Any) -> str:
    """Fill a template of this package; every text is escaped, an undefined name is an error."""
    return template(name).render(**values).strip() + "\n"


@cache
def template(name: str) -> jinja2.Template:
    """A template of this package."""
    return _ENVIRONMENT.get_template(name)


def html_table(result: TableResult, *, differences: bool = False) -> HtmlTable:
    """The table with its links: numbers lead to `Anchors.cell`, those of closing lines to `Anchors.closing`.

    Args:
        result: the table.
        differences: whether the page has `Anchors.difference` too, where numbers of differences then lead.
    """
    grid, anchors = lay_out(result), Anchors(result)
    places = list(_places(result, grid))

    def href(row: str, place: tuple[str, str, str] | None) -> str:
        if place is None:
            return ""
        kind, column, metric = place
        cell = result.cell(row, column, metric)
        if cell is None or (kind != "value" and cell.delta is None):
            return ""
        judged = differences and kind != "value" and cell.delta is not None and cell.delta.mean is not None
        return "#" + (anchors.difference(cell) if judged else anchors.cell(cell))

    def line(source: Line, row: str | None) -> HtmlLine:
        below = ["" if place is None else f"#{anchors.closing(*place[1:])}" for place in places]
        hrefs = below if row is None else [href(row, place) for place in places]
        cells = tuple(LinkedEntry(entry, link if entry.text else "") for entry, link in zip(source.entries, hrefs, strict=True))
        return HtmlLine(source.short if source.group else source.label, cells, source.kind)

    rows = iter(result.rows)
    groups = [(heading, tuple(line(each, next(rows)) for each in lines if each.kind == "row")) for heading, lines in grid.row_groups]
    closing = tuple(line(each, None) for each in grid.lines if each.kind != "row")
    return HtmlTable(grid, tuple((heading, lines) for heading, lines in groups if lines), closing)


def _places(result: TableResult, grid: Grid) -> Iterator[tuple[str, str, str] | None]:
    """(kind, column, metric) of the cells that each printed column shows; None for published numbers."""
    if result.column_kind == "metric":
        metric_of = {cell.column: cell.metric for cell in result.cells}
        values = [(column, metric_of[column]) for column in result.columns if column in metric_of]
    else:
        values = [(column, metric) for metric in result.metrics for column in result.columns]
    compared = {(cell.column, cell.metric) for cell in result.cells if cell.delta is not None}
    left = {"value": iter(values), **{kind: iter([place for place in values if place in compared]) for kind in ("delta", "p")}}
    for column in grid.columns:
        yield (column.kind, *next(left[column.kind])) if column.kind in left else None


def cell_facts(result: TableResult, folder: str, runs: Mapping[str, str] | None = None) -> TableFacts:
    """What each number of a table is made of, seed by seed, those without a value among them.

    Args:
        result: the table.
        folder: of the trials' pages, relative to the page that lists them.
        runs: trial id -> address of its MLflow run.
    """
    anchors, facts = Anchors(result), []
    decimals = result.style["decimals"]

    def seed(text: str, trial_id: str | None) -> SeedFact:
        page = f"{folder}/{trial_id}.html" if trial_id else ""
        return SeedFact(text, trial_id or "", page, (runs or {}).get(trial_id or "", ""))

    for cell in result.cells:
        metric = describe(cell.metric)
        unit = f" {metric.unit}" if metric.unit else ""
        told = [
            (number, seed(f"seed {number}: {metric.number(value, decimals=decimals)}{unit}", trial_id))
            for number, value, trial_id in zip(cell.seeds, cell.values, cell.trial_ids, strict=True)
        ]
        told += [(missing.seed, seed(missing_note([missing]), missing.trial_id)) for missing in cell.missing]
        seeds = tuple(fact for _, fact in sorted(told, key=lambda pair: pair[0]))
        facts.append(CellFacts(anchors.cell(cell), _name(result, cell), told_mean(result, cell), seeds, _baseline(result, cell, anchors)))
    return TableFacts(tuple(facts), tuple(_closing_facts(result, anchors)))


def _name(result: TableResult, cell: CellResult) -> str:
    return f"{one_line(cell.row)} / {one_line(cell.column)}" + (f", {describe(cell.metric).words}" if len(result.metrics) > 1 else "")


def _baseline(result: TableResult, cell: CellResult, anchors: Anchors) -> CellLink | None:
    delta = cell.delta
    base = None if delta is None else result.cell(delta.baseline_row, delta.baseline_column, cell.metric)
    return None if base is None else CellLink(_name(result, base), f"#{anchors.cell(base)}")


def _closing_facts(result: TableResult, anchors: Anchors) -> Iterator[ClosingFacts]:
    """One a column with an average or a rank that is printed."""
    averages = {(each.column, each.metric): each for each in result.averages if result.style["averages"]}
    ranked = result.style["ranks"] and bool(result.rankings)
    for metric in result.metrics if averages or ranked else ():
        for column in result.columns:
            cells = [cell for row in result.complete_rows if (cell := result.cell(row, column, metric)) is not None]
            average = averages.get((column, metric))
            delta = average.delta if average is not None else None
            base = (
                None if delta is None else CellLink(one_line(delta.baseline_column), f"#{anchors.closing(delta.baseline_column, metric)}")
            )
            words = " and ".join(["mean over rows"] * bool(averages) + [f"{RANK_LABEL} among the columns of these rows"] * ranked)
            links = tuple(CellLink(_name(result, cell), f"#{anchors.cell(cell)}") for cell in cells)
            measured = f", {describe(metric).words}" if len(result.metrics) > 1 else ""
            yield ClosingFacts(anchors.closing(column, metric), f"{one_line(column)}{measured}: {words}", links, base)
