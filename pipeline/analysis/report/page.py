"""The report of a study: one HTML page that needs no network, with tables, figures, failures and provenance, and a page a trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.aggregate import trial_counts
from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.render.html_table import TRIALS, Anchors, cell_facts, html_table, render_template
from pipeline.analysis.report.figures import Picture, Shared, pictures_by_table
from pipeline.analysis.report.listing import Link, Listing
from pipeline.analysis.report.protocol import protocol_of
from pipeline.analysis.report.provenance import hardware, mixed_hardware, provenance_rows, trained_rows
from pipeline.analysis.report.statistics import published_of, statistics_of, verdict
from pipeline.analysis.report.trial_page import write_trial_pages
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import file_stem, join_words, one_line, summary_sentences

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
    history: pa.Table | None = None,
    planned: pa.Table | None = None,
    run_links: Mapping[str, str] | None = None,
    description: str = "",
) -> Path:
    """Write `folder/index.html` and a page a trial, `folder/trials/<trial_id>.html`; returns the path of the index.

    Args:
        study: name of the study, the headline.
        results: the tables, in the order to show.
        figure_paths: figures as `write_figures` names them, `<table>.<kind>.svg`; other suffixes are passed over.
        trials: results/trials.parquet.
        provenance: what made these numbers (commit, versions, data ...); mappings may be nested.
        captions: words for the figures that need more than those of their kind.
        history: results/history.parquet, for the curves of the trials.
        planned: plan/trials.parquet, for the configuration of the trials.
        run_links: MLflow run id -> address.
        description: what the study file says that the study is about.

    Raises:
        ConfigError: a figure belongs to none of the tables, or a table's name cannot be part of an address.
        StoreError: a trial id cannot be the name of a page.
    """
    shared = Shared()
    pages = frozenset(trials["trial_id"].to_pylist())
    pictures = pictures_by_table(figure_paths, [result.name for result in results], captions or {}, shared, pages)
    runs = _runs(trials, run_links or {})
    facts = Listing("Code, versions and data", ("what", "value"), (*trained_rows(trials), *provenance_rows(provenance)), texts=2)
    page = render_template(
        "report.html.j2",
        study=study,
        description=one_line(description),
        finished=_finished(trials),
        counts=_counts(results, trials),
        sections=[_section(result, pictures[result.name], trials, runs) for result in results],
        served=bool(runs),
        protocol=protocol_of(results, planned),
        troubled=_troubled(results, trials),
        provenance=[listing for listing in (facts if facts.rows else None, hardware(trials)) if listing is not None],
        shared=shared,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_trial_pages(folder, study=study, results=results, trials=trials, history=history, planned=planned, runs=runs)
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def _section(result: TableResult, pictures: Sequence[Picture], trials: pa.Table, runs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": f"table-{file_stem(result.name)}",
        "title": one_line(result.title),
        "sentences": [*summary_sentences(result), *verdict(result), *mixed_hardware(result, trials)],
        "table": html_table(result, differences=True),
        "figures": [picture for picture in pictures if not picture.folded],
        "pictures": [picture for picture in pictures if picture.folded],
        "statistics": statistics_of(result),
        "published": published_of(result),
        "cells": cell_facts(result, TRIALS, runs),
    }


def _runs(trials: pa.Table, run_links: Mapping[str, str]) -> dict[str, str]:
    """trial id -> address of its MLflow run."""
    if "run_id" not in trials.column_names:
        return {}
    pairs = zip(trials["trial_id"].to_pylist(), trials["run_id"].to_pylist(), strict=True)
    return {trial_id: run_links[run_id] for trial_id, run_id in pairs if run_id in run_links}


def _finished(trials: pa.Table) -> str:
    """The day (UTC) on which the last trial finished, '2026-11-23'; '' where no record tells."""
    last = pc.max(trials["time_finished_ns"]).as_py() if "time_finished_ns" in trials.column_names else None
    return "" if last is None else datetime.fromtimestamp(last / 1e9, UTC).date().isoformat()


def _counts(results: Sequence[TableResult], trials: pa.Table) -> str:
    """How many trials are complete, and how long they took."""
    counts = trial_counts(results)
    seconds = pc.sum(trials["time_total_s"]).as_py() if "time_total_s" in trials.column_names else None
    return _count_sentence(counts) + (f" They took {_duration(seconds)}, one after the other." if seconds else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _count_sentence(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    if counts["complete"] == total:
        return f"All {total} trials are complete." if total != 1 else "The only trial is complete."
    others = [f"{count} {state}" for state, count in counts.items() if state != "complete" and count]
    return f"{counts['complete']} of {total} trials are complete, {join_words(others)}."


def _troubled(results: Sequence[TableResult], trials: pa.Table) -> Listing | None:
    """Failed, pruned and skipped trials, and those without a value, each once, with all cells that miss them."""
    reasons = (
        dict(zip(trials["trial_id"].to_pylist(), trials["reason"].to_pylist(), strict=True)) if "reason" in trials.column_names else {}
    )
    pages = set(trials["trial_id"].to_pylist())
    found: dict[object, tuple[str, str, str, str | Link]] = {}
    where: dict[object, list[Link]] = {}
    for result in results:
        anchors = Anchors(result)
        for cell in result.cells:
            for missing in cell.missing:
                if missing.state not in _TROUBLED and missing.state != "complete":
                    continue
                key = missing.trial_id or (result.name, cell.row, cell.column, missing.seed)
                trial = missing.trial_id or "--"
                page = Link(trial, f"{TRIALS}/{trial}.html") if trial in pages else trial
                reason = one_line(missing.reason or reasons.get(missing.trial_id) or "no reason recorded")
                found.setdefault(key, (missing.state, reason, str(missing.seed), page))
                place = f"{result.name}: {one_line(cell.row)} / {one_line(cell.column)}"
                where.setdefault(key, []).append(Link(place, f"#{anchors.cell(cell)}"))
    if not found:
        return None
    rows = tuple((*facts, tuple(where[key])) for key, facts in found.items())
    return Listing("Trials without a number", ("state", "reason", "seed", "trial", "cells"), rows, texts=5)
