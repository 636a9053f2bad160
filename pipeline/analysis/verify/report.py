"""report/index.html and the pages of trials against what plan and store give, written once more."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.render.html_table import TRIALS, Anchors
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import CellResult
from pipeline.analysis.verify.problem import Problem
from pipeline.analysis.verify.tables import MOST, Findings, place_of, read_text
from pipeline.analysis.verify.texts import Change, changes
from pipeline.analysis.wording import file_stem

_REMEDY = "Write it anew with `dvc repro -f report`"
_PAGES = 100  # that are told one by one
_FIGURES = tuple(re.compile(text, re.DOTALL) for text in (r"<style>.*?</style>", r'<svg class="shared".*?</svg>', r"<figure>.*?</figure>"))
_FACTS = re.compile(r'(id="provenance".*?<tbody>)(.*?)(</tbody>)', re.DOTALL)  # code, versions, data: of the day of publishing
_RUN = re.compile(r'href="([^"]*/)([0-9a-f]{32})"')
_PLACE = re.compile(r"(?:cell|difference)-[^\s\"#]+")


@dataclass(frozen=True)
class Figures:
    """Figures for the index.

    Attributes:
        paths: in the order in which they were drawn.
        captions: of those that have one of their own.
        drawn_anew: whether they were drawn from plan and store; else the page is compared without its figures.
    """

    paths: Sequence[Path]
    captions: Mapping[Path, Caption]
    drawn_anew: bool


def check_report(
    folder: Path,
    findings: Sequence[Findings],
    figures: Figures,
    *,
    study: str,
    description: str,
    trials: pa.Table,
    history: pa.Table,
    planned: pa.Table,
) -> list[Problem]:
    """Compare every page of a report with the same page written from plan and store; `findings` take what differs in cells.

    What the index says of code, versions and data is of the day when it was written, and not judged.

    Returns:
        What is wrong beside the cells.
    """
    path = folder / "index.html"
    index = read_text(path)
    if index is None:
        return [Problem("file", path.as_posix(), f"is missing. {_REMEDY}")]
    with tempfile.TemporaryDirectory() as scratch:
        write_report(
            Path(scratch),
            study=study,
            description=description,
            results=[found.result for found in findings],
            figure_paths=figures.paths,
            captions=figures.captions,
            trials=trials,
            provenance={"code": "of the day of publishing"},
            history=history,
            planned=planned,
            run_links=_run_links(index, trials),
        )
        truth = read_text(Path(scratch) / "index.html") or ""
        problems = _pages(Path(scratch), folder)
    cut = () if figures.drawn_anew else _FIGURES
    (numbers, published_lines), (_, truth_lines) = _comparable(index, cut), _comparable(truth, cut)
    found = list(changes("\n".join(published_lines), "\n".join(truth_lines)))
    for change in found[:MOST]:
        number = numbers[min(change.number, len(numbers)) - 1]
        _tell(replace(change, number=number), truth_lines, path, findings)
    if len(found) > MOST:
        problems.append(Problem("file", path.as_posix(), f"{len(found) - MOST} more lines differ"))
    return problems


def _run_links(index: str, trials: pa.Table) -> dict[str, str]:
    """Addresses that the runs of the trials have, where the published page says that they are served."""
    bases = [base for base, _ in _RUN.findall(index)]
    if not bases or "run_id" not in trials.column_names:
        return {}
    base = max(set(bases), key=bases.count)
    return {run_id: base + run_id for run_id in trials["run_id"].to_pylist() if run_id}


def _comparable(index: str, cut: Sequence[re.Pattern[str]]) -> tuple[list[int], list[str]]:
    """The lines of a page, and their numbers, without what is to be cut and without what is of the day of publishing."""
    for pattern in cut:
        index = pattern.sub(lambda match: "\0\n" * match[0].count("\n"), index)
    index = _FACTS.sub(lambda match: match[1] + "\0\n" * match[2].count("\n") + match[3], index, count=1)
    lines = [(number, line.replace("\0", "")) for number, line in enumerate(index.split("\n"), 1) if line != "\0"]
    return [number for number, _ in lines], [line for _, line in lines]


def _tell(change: Change, truth: Sequence[str], path: Path, findings: Sequence[Findings]) -> None:
    """Tell a line that differs to the table in whose section it stands, and to the cells that it is about."""
    found = _section_of(truth, change.at, findings)
    if found is None:
        findings[0].file(path, change.words())
        return
    cells = _cells_of(change, truth, found)
    for cell in cells:
        found.cell(place_of(cell), "report", change.words())
    if not cells:
        found.file(path, f"table {found.result.name}: {change.words()}")


def _section_of(truth: Sequence[str], at: int, findings: Sequence[Findings]) -> Findings | None:
    by_id = {f'id="table-{file_stem(found.result.name)}"': found for found in findings}
    for line in reversed(truth[: at + 1]):
        for mark, found in by_id.items():
            if mark in line:
                return found
        if "<h2 " in line:
            return None
    return None


def _cells_of(change: Change, truth: Sequence[str], found: Findings) -> list[CellResult]:
    """The cells whose anchors stand where a line differs: in the same field of a row, or above it in a list of trials."""
    if change.truth is None or change.published is None:
        return []
    anchors = Anchors(found.result)
    by_anchor = {name: cell for cell in found.result.cells for name in (anchors.cell(cell), anchors.difference(cell))}
    ours, theirs = change.truth.split("<td"), change.published.split("<td")
    differing = [a for a, b in zip(ours, theirs, strict=False) if a != b] if len(ours) == len(theirs) else ours
    named: Iterable[str] = (name for field in differing for name in _PLACE.findall(field))
    cells = [by_anchor[name] for name in named if name in by_anchor] or [by_anchor[n] for n in _PLACE.findall(ours[0]) if n in by_anchor]
    if not cells and "<d" in change.truth[:4]:
        for line in reversed(truth[: change.at]):
            if names := [name for name in _PLACE.findall(line) if name in by_anchor]:
                return [by_anchor[names[0]]]
            if "<dl" in line:
                break
    return list({place_of(cell): cell for cell in cells}.values())


def _pages(scratch: Path, folder: Path) -> list[Problem]:
    """The pages of trials, and the style that they share."""
    names = {path.relative_to(root).as_posix() for root in (scratch, folder) for path in root.rglob("*") if path.is_file()}
    problems = []
    for name in sorted(names - {"index.html"}):
        truth, published = read_text(scratch / name), read_text(folder / name)
        if truth == published:
            continue
        if published is None:
            said = f"is missing. {_REMEDY}"
        elif truth is None:
            said = "is a page of no planned trial" if name.startswith(f"{TRIALS}/") else "is no part of the report"
        else:
            found = list(changes(published, truth))
            more = f"; {len(found) - 3} more lines differ" if len(found) > 3 else ""
            said = "; ".join(change.words() for change in found[:3]) + more
        problems.append(Problem("file", (folder / name).as_posix(), said))
    if len(problems) > _PAGES:
        rest = f"{len(problems) - _PAGES} more pages differ; if all do, another version of the code wrote them. {_REMEDY}"
        problems = [*problems[:_PAGES], Problem("file", (folder / TRIALS).as_posix(), rest)]
    return problems
