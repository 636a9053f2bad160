"""Numbers that others published: published."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.app import JsonOption, app, print_json, say
from pipeline.errors import counted

if TYPE_CHECKING:
    from pipeline.analysis.published import Published


@app.command(epilog="Examples:  ablate published · ablate published cutmix --dataset CIFAR-100 · ablate published --table ISDA_T2")
def published(
    text: Annotated[
        str | None, typer.Argument(help="Words to look for in names, sources and notes; without words and options, all tables.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset, as it was published.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone, as it was published.")] = None,
    method: Annotated[str | None, typer.Option(help="Method, as it was published.")] = None,
    table: Annotated[str | None, typer.Option(help="Table of a source.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Published numbers with protocol, number of runs, source and what to look out for; a study may put them beside its own.

    Most numbers are accuracies in percent, also where an error was published; mAP, BLEU and differences in points say so.
    """
    from pipeline.analysis.published import find, load_published, search

    chosen = {"table": table, "dataset": dataset, "backbone": backbone, "method": method}
    where = {field: name for field, name in chosen.items() if name is not None}
    text = (text or "").strip()
    if not where and not text:
        _list_tables(load_published(), as_json)
        return
    rows = find(where)
    if text:
        rows = search(text, rows)
    if as_json:
        print_json([dataclasses.asdict(row) | {"is_fraction": row.is_fraction} for row in rows])
        return
    _print_rows(rows)


def _list_tables(rows: Iterable[Published], as_json: bool) -> None:
    groups = Counter((row.table, row.protocol, row.n, row.spread_kind) for row in rows)
    datasets = {name: sorted({row.dataset for row in rows if row.table == name}) for name, *_ in groups}
    entries = [
        {"table": name, "datasets": datasets[name], "protocol": protocol, "n": n, "spread_kind": spread, "numbers": count}
        for (name, protocol, n, spread), count in groups.items()
    ]
    if as_json:
        print_json(entries)
        return
    heads = ("table", "numbers", "protocol", "runs", "±", "datasets")
    shown = Table(*heads, title="Published numbers, by table, protocol and runs", title_justify="left")
    for entry in entries:
        shown.add_row(
            entry["table"], str(entry["numbers"]), entry["protocol"], _runs(entry["n"]), entry["spread_kind"], ", ".join(entry["datasets"])
        )
    _print(shown)
    say(f"{counted(sum(groups.values()), 'number')} in {counted(len(datasets), 'table')}. `ablate published --table NAME` shows one.")


def _print_rows(rows: list[Published]) -> None:
    """One line a number; sources, evidence and notes are long and shared, so they are listed below."""
    remarks = {remark: str(index) for index, remark in enumerate(dict.fromkeys(_remark(row) for row in rows), start=1)}
    heads = ("table", "dataset", "task", "backbone", "teacher", "method", "quantity", "value", "protocol", "runs", "source")
    lines = [
        (
            *(row.table, row.dataset, row.task, row.backbone, row.teacher, row.method),
            *(row.quantity, _value(row), row.protocol, _runs(row.n), f"[{remarks[_remark(row)]}]"),
        )
        for row in rows
    ]
    kept = [index for index in range(len(heads)) if any(line[index] for line in lines)]
    shown = Table(*(heads[index] for index in kept), title=counted(len(rows), "published number"), title_justify="left")
    for line in lines:
        shown.add_row(*(Text(line[index]) for index in kept))
    _print(shown)
    for remark, number in remarks.items():
        say(f"[{number}] {remark}")


def _remark(row: Published) -> str:
    source = row.source.partition(" [")[0]  # what follows in brackets is in the note
    return f"{source}. Protocol: {row.evidence}.{f' Note: {row.note}.' if row.note else ''}"


def _value(row: Published) -> str:
    """'77.39 ± 0.25 % (sd)' for a fraction, '22.9' for points."""
    scale, unit = (100, " %") if row.is_fraction else (1, "")
    spread = "" if row.spread is None else f" ± {row.spread * scale:.{row.decimals}f}"
    return f"{row.value * scale:.{row.decimals}f}{spread}{unit}{f' ({row.spread_kind})' if spread else ''}"


def _runs(n: int | None) -> str:
    return "?" if n is None else str(n)


def _print(table: Table) -> None:
    console = Console()
    # Where the terminal is too narrow it breaks lines; rich would cut names.
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
    console.print(table)
