"""The report of a study: one HTML page that needs no network, with tables, figures, failures and provenance."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.analysis.aggregate import trial_counts
from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.layout import lay_out
from pipeline.analysis.render.html_table import render_template
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import file_stem, join_words, one_line, summary_sentences
from pipeline.errors import ConfigError

_FIGURE_WORDS = {"accuracy": "Accuracy over epochs", "sweep": "Metrics over the factor"}
_TROUBLED = ("failed", "pruned", "skipped")


def write_report(
    folder: Path,
    *,
    study: str,
    results: Sequence[TableResult],
    figure_paths: Iterable[Path],
    trials: pa.Table,
    provenance: Mapping[str, Any],
    captions: Mapping[Path, Caption] | None = None,
) -> Path:
    """Write `folder/index.html` and return its path.

    Args:
        study: name of the study, the headline.
        results: the tables, in the order to show.
        figure_paths: figures as `write_figures` names them, `<table>.<kind>.svg`; other suffixes are passed over.
        trials: results/trials.parquet: reasons of failures, and the env_* columns for the environment.
        provenance: what made these numbers (commit, versions, hardware ...); mappings may be nested.
        captions: words for the figures that need more than those of their kind; these are folded together below the others.

    Raises:
        ConfigError: a figure belongs to none of the tables.
    """
    figures = _figures_by_table(figure_paths, [result.name for result in results], captions or {})
    sections = [
        {
            "id": f"table-{file_stem(result.name)}",
            "title": one_line(result.title),
            "sentences": summary_sentences(result),
            "grid": lay_out(result),
            "figures": [figure for figure in figures[result.name] if not figure["folded"]],
            "pictures": [figure for figure in figures[result.name] if figure["folded"]],
            "cells": [(cell, " ".join(cell.trial_ids), " ".join(cell.run_ids)) for cell in result.cells],
        }
        for result in results
    ]
    page = render_template(
        "report.html.j2",
        study=study,
        counts=_count_sentence(trial_counts(results)),
        sections=sections,
        troubled=_troubled(results, trials),
        provenance=[*_flat(provenance), *_environment(trials)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def inline_svg(text: str, prefix: str, label: str) -> str:
    """An SVG document as an element of a page: no prolog, ids made unique by `prefix`, `label` for screen readers."""
    element = text[text.index("<svg") :]
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    element = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{prefix}-", element)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, count=1, flags=re.DOTALL)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _figures_by_table(paths: Iterable[Path], tables: Sequence[str], captions: Mapping[Path, Caption]) -> dict[str, list[dict[str, Any]]]:
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in tables}
    for path in paths:
        if path.suffix != ".svg":
            continue
        table, _, kind = path.stem.rpartition(".")
        if table not in figures:
            raise ConfigError(
                f"figure {path.name} belongs to no table of the study; figures are called <table>.<kind>.svg, tables: {', '.join(tables)}. "
                "Remove old files from the figures folder."
            )
        words = f"{_FIGURE_WORDS.get(kind, kind)}."
        caption = captions.get(path, Caption(words, f"{words[:-1]}, table {table}"))
        prefix = re.sub(r"\W", "-", path.stem)
        svg = inline_svg(path.read_text(encoding="utf-8"), prefix, caption.alt)
        figures[table].append({"svg": svg, "words": caption.text, "folded": path in captions})
    return figures


def _count_sentence(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    if counts["complete"] == total:
        return f"All {total} trials are complete." if total != 1 else "The only trial is complete."
    others = [f"{count} {state}" for state, count in counts.items() if state != "complete" and count]
    return f"{counts['complete']} of {total} trials are complete, {join_words(others)}."


def _troubled(results: Sequence[TableResult], trials: pa.Table) -> list[dict[str, Any]]:
    """Failed, pruned and skipped trials, each once, with all cells that miss them."""
    reasons = (
        dict(zip(trials["trial_id"].to_pylist(), trials["reason"].to_pylist(), strict=True)) if "reason" in trials.column_names else {}
    )
    found: dict[object, dict[str, Any]] = {}
    for result in results:
        for cell in result.cells:
            for missing in cell.missing:
                if missing.state not in _TROUBLED and missing.state != "complete":
                    continue
                reason = missing.reason or reasons.get(missing.trial_id) or "no reason recorded"
                key = missing.trial_id or (result.name, cell.row, cell.column, missing.seed)
                entry = found.setdefault(
                    key, {"id": missing.trial_id or "", "state": missing.state, "reason": reason, "seed": missing.seed, "where": []}
                )
                entry["where"].append(f"{result.name}: {one_line(cell.row)} / {one_line(cell.column)}")
    return list(found.values())


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows


def _environment(trials: pa.Table) -> list[tuple[str, str]]:
    """Distinct values of each env_* column: more than one tells that the trials did not all run alike."""
    rows = []
    for name in trials.column_names:
        if name.startswith("env_"):
            values = sorted({str(value) for value in trials[name].to_pylist() if value is not None})
            if values:
                rows.append((f"trials: {name.removeprefix('env_').replace('_', ' ')}", "; ".join(values)))
    return rows
