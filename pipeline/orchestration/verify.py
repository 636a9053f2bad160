"""Whether what is published still follows from plan and store: every number of every format, every record, every run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipeline.analysis.collect import Results, collect
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.analysis.verify import Problem
from pipeline.analysis.verify.report import Figures, check_report
from pipeline.analysis.verify.results import curve_problems, metric_problems, result_problems
from pipeline.analysis.verify.tables import Findings, check_tables
from pipeline.errors import ConfigError, PipelineError, StoreError, counted
from pipeline.store.readable import ReadableStore
from pipeline.store.records import Record
from pipeline.store.repair import Finding, examine_segments
from pipeline.store.segments import FOLDER, RECORDS
from pipeline.store.trial_store import TrialStore
from pipeline.study.identity import digest
from pipeline.study.params import Params
from pipeline.study.project import CURVES, FIGURES, METRICS, OUTCOMES, PLAN, REPORT, RESULTS, TABLES, absolute_url

if TYPE_CHECKING:
    from pipeline.orchestration.mirror.check import PublishedRuns

_NAMED = 8  # trials or cells that one message names


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        cells: number of cells that were computed anew.
        checked: number of what else was looked at, by its word.
        problems: what does not hold.
        notices: what could not be looked at, and what is worth knowing.
    """

    cells: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def verify(
    params: Params, *, mlflow: bool | None = None, figures: bool = False, progress: Callable[[str], None] = lambda line: None
) -> Verdict:
    """Compute every published number anew, from plan/ and the store, and compare all published files with it.

    Damage in the store does not stop it: what can still be read is used.

    Args:
        params: where the store and MLflow are.
        mlflow: whether MLflow must answer; None: a database here must, a server is compared if it does; False: it is not asked.
        figures: draw the figures anew and compare their files.
        progress: told what is being done.

    Raises:
        ConfigError: nothing has been published yet, or there is no plan.
        StoreError: the store cannot be listed, or is empty.
    """
    if not any(TABLES.glob("*.json")):
        raise ConfigError(f"No tables in {TABLES}/: nothing has been published. Run `dvc repro`.")
    document = load_tables(PLAN / "tables.json")
    verdict = Verdict()
    progress("Reading the store")
    store, lost = _store(params, verdict)
    outcomes = _outcomes(verdict)
    records = _records(store, outcomes, lost, verdict)
    results = collect(PLAN / "trials.parquet", store, _run_ids(outcomes))
    tables = build_tables(document, results.trials)
    verdict.cells = sum(len(table.cells) for table in tables)
    progress("Comparing tables, results, curves and metrics")
    findings = [Findings(table) for table in tables]
    others = check_tables(findings, TABLES)
    others += result_problems(results, RESULTS, lost=lost)
    others += curve_problems(document, results, CURVES)
    others += metric_problems(tables, METRICS)
    verdict.checked |= {"tables": len(tables), "formats": len(FORMATS), "trials": len(results.trials), "epochs": len(results.history)}
    drawn = Figures(sorted(FIGURES.glob("*.svg")), {}, drawn_anew=False)
    with tempfile.TemporaryDirectory() as scratch:
        if figures:
            progress("Drawing the figures once more")
            drawn = _draw(document, tables, results, Path(scratch))
            others += _compare_figures(Path(scratch), verdict)
        else:
            others += _halves_of_figures()
        others += _report(drawn, document, findings, results, verdict, progress)
    verdict.problems += [problem for found in findings for problem in found.problems()] + others
    if mlflow is not False:
        older = frozenset(found.result.name for found in findings if found.other_version)
        _runs(params, tables, results, outcomes, records, only_looked_for=older, wanted=bool(mlflow), verdict=verdict)
    _plan_of_today(params, document, verdict)
    if not figures:
        verdict.notices.append("Figures were not compared; `ablate verify --figures` draws them anew and does.")
    return verdict


def _store(params: Params, verdict: Verdict) -> tuple[ReadableStore, frozenset[str]]:
    """The store as far as it can be read, and the trials of its damaged segments."""
    url = absolute_url(params.store.url)
    store = TrialStore(url)
    damage = [finding for finding in examine_segments(store) if finding.severity == "damage"]
    verdict.problems += [Problem("store", f"{params.store.url}/{finding.file}", _damage_words(finding)) for finding in damage]
    verdict.checked["segments"] = sum(name.endswith(RECORDS) for name in store.files.names(FOLDER))
    if not verdict.checked["segments"]:
        raise StoreError(
            f"There is no trial in the store at {params.store.url!r}, so no published number can be computed anew. "
            "Bring it back from a copy, or set `store.url` in params.yaml to where it is."
        )
    return ReadableStore(url, [finding.file for finding in damage]), frozenset(trial for finding in damage for trial in finding.trials)


def _damage_words(finding: Finding) -> str:
    held = f"; trials in it: {_named(finding.trials)}" if finding.trials else "; which trials are in it cannot be read"
    return f"{finding.what.partition(';')[0]}{held}. Bring it back from a copy, or let `ablate doctor --repair` put it aside and run again"


def _outcomes(verdict: Verdict) -> dict[str, Any]:
    """Trial id -> state, digest and run of its record, when the study was run."""
    try:
        trials = json.loads(OUTCOMES.read_text(encoding="utf-8"))["trials"]
        return {trial_id: {key: entry[key] for key in ("state", "digest", "run_id")} for trial_id, entry in trials.items()}
    except FileNotFoundError:
        said = "is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"cannot be read ({type(error).__name__}: {error})"
    verdict.problems.append(Problem("file", OUTCOMES.as_posix(), f"{said}. Write it anew with `dvc repro -f run`"))
    return {}


def _run_ids(outcomes: Mapping[str, Any]) -> dict[str, str]:
    return {trial_id: entry["run_id"] for trial_id, entry in outcomes.items() if entry["run_id"]}


def _records(store: ReadableStore, outcomes: Mapping[str, Any], lost: frozenset[str], verdict: Verdict) -> dict[str, Record]:
    """Compare each record with its digest of when the study was run; returns those that are the same."""
    records = store.records()
    wrong = {
        trial_id: said
        for trial_id, entry in outcomes.items()
        if (said := _record_words(records.get(trial_id), entry)) and not (trial_id in lost and trial_id not in records)
    }
    files = store.segments_of(wrong) if wrong else {}
    for trial_id, said in wrong.items():
        where = f" [{', '.join(files[trial_id])}]" if files[trial_id] else ""
        verdict.problems.append(Problem("record", f"trial {trial_id}{where}", said))
    verdict.checked["records"] = len(outcomes)
    return {trial_id: record for trial_id, record in records.items() if trial_id in outcomes and trial_id not in wrong}


def _record_words(record: Record | None, entry: Mapping[str, Any]) -> str:
    """What is wrong with a record; '' for nothing."""
    if record is None:
        return "is no longer in the store. Bring it back from a copy, or run it again with `ablate run` and publish with `dvc repro -f run`"
    if record["state"] != entry["state"]:
        return f"is {record['state']} in the store but was {entry['state']} when the study was run. Publish anew with `dvc repro -f run`"
    try:
        same = digest(dict(record)) == entry["digest"]
    except ValueError:  # NaN, which no record that was written so holds
        same = False
    if same:
        return ""
    return "its record in the store is not the one of when the study was run. If it was run again since, publish with `dvc repro -f run`"


def _draw(document: Mapping[str, Any], tables: list[TableResult], results: Results, folder: Path) -> Figures:
    """Draw all figures into another folder, as `publish` does."""
    from pipeline.orchestration.publish import draw

    captions = draw(document, tables, trials=results.trials, history=results.history, panels=results.panels, folder=folder)
    return Figures(list(captions), captions, drawn_anew=True)


def _compare_figures(drawn: Path, verdict: Verdict) -> list[Problem]:
    problems = []
    names = {path.name for folder in (drawn, FIGURES) for path in folder.glob("*")}
    for name in sorted(names):
        if not (FIGURES / name).exists():
            said = "is missing"
        elif not (drawn / name).exists():
            said = "is no figure of the study"
        elif (drawn / name).read_bytes() != (FIGURES / name).read_bytes():
            said = "is not what plan and store give"
        else:
            continue
        problems.append(Problem("file", (FIGURES / name).as_posix(), f"{said}. Draw it anew with `dvc repro -f report`"))
    verdict.checked["figures"] = len(names)
    return problems


def _halves_of_figures() -> list[Problem]:
    """Figures of which only one of the two files is there."""
    names = {path.name for path in FIGURES.glob("*")}
    lost = {name.removesuffix(a) + b for a, b in ((".svg", ".png"), (".png", ".svg")) for name in names if name.endswith(a)} - names
    return [Problem("file", (FIGURES / name).as_posix(), "is missing. Draw it anew with `dvc repro -f report`") for name in sorted(lost)]


def _report(
    drawn: Figures,
    document: Mapping[str, Any],
    findings: list[Findings],
    results: Results,
    verdict: Verdict,
    progress: Callable[[str], None],
) -> list[Problem]:
    if not REPORT.is_dir():
        verdict.notices.append(f"There is no {REPORT}/ to look at. `dvc repro` writes it.")
        return []
    if any(found.other_version for found in findings):
        verdict.notices.append(f"{REPORT}/ was not compared, as another version published its tables. `dvc repro` writes both anew.")
        return []
    progress(f"Writing the report and the pages of {counted(len(results.trials), 'trial')} once more")
    verdict.checked["pages"] = sum(1 for _ in REPORT.rglob("*.html"))
    return check_report(
        REPORT,
        findings,
        drawn,
        study=document["study"],
        description=document.get("description", ""),
        trials=results.trials,
        history=results.history,
        planned=pq.read_table(PLAN / "trials.parquet"),
    )


def _runs(
    params: Params,
    tables: list[TableResult],
    results: Results,
    outcomes: Mapping[str, Any],
    records: Mapping[str, Record],
    *,
    only_looked_for: frozenset[str],
    wanted: bool,
    verdict: Verdict,
) -> None:
    """Look for the MLflow runs of the study's trials and tables, and compare what they say."""
    run_ids = _run_ids(outcomes)
    cause = "tracking.uri is null in params.yaml" if params.tracking.uri is None else "the study was run without tracking"
    if params.tracking.uri is not None and run_ids:
        from pipeline.orchestration.mirror.check import run_problems
        from pipeline.orchestration.mirror.uri import database_path, resolve_uri

        try:
            wanted |= database_path(resolve_uri(params.tracking.uri)) is not None  # a server may be away; a file here is gone or damaged
            published = _published_runs(params, tables, results, outcomes, records, only_looked_for)
            verdict.problems += run_problems(params.tracking.uri, published)
        except PipelineError as error:
            cause = str(error).rstrip(".")
        else:
            verdict.checked["runs"] = len(run_ids) + len(published.tables)
            if lacking := len(outcomes) - len(run_ids):
                verdict.notices.append(f"{counted(lacking, 'trial')} had no run in MLflow when the study was run; none was looked for.")
            return
    if wanted:
        verdict.problems.append(Problem("mlflow", "runs", f"not compared, as {cause}."))
    else:
        verdict.notices.append(f"Runs were not compared, as {cause}.")


def _published_runs(
    params: Params,
    tables: list[TableResult],
    results: Results,
    outcomes: Mapping[str, Any],
    records: Mapping[str, Record],
    only_looked_for: frozenset[str],
) -> PublishedRuns:
    """What MLflow should have; a run is compared where its trial's record is the one of when the study was run."""
    from pipeline.orchestration.driver import view_of
    from pipeline.orchestration.mirror.check import PublishedRuns
    from pipeline.orchestration.mirror.content import last_epochs, trial_content
    from pipeline.orchestration.planning import read_plan

    plan, run_ids, last = read_plan(PLAN), _run_ids(outcomes), last_epochs(results.history)
    prepared = Path(params.data.prepared)
    trials = {
        trial_id: trial_content(view_of(plan.trials[trial_id], plan.study, prepared), records[trial_id], last.get(trial_id))
        for trial_id in run_ids
        if trial_id in plan.trials and trial_id in records
    }
    trials_of = {table["name"]: {entry["trial_id"] for cell in table["cells"] for entry in cell["trials"]} for table in plan.tables}
    unsure = {name for name, ids in trials_of.items() if not ids.isdisjoint(outcomes.keys() - records.keys())}
    # The report stage writes the runs of tables: without a report it has not run.
    return PublishedRuns(plan.study, run_ids, trials, tables if REPORT.is_dir() else (), only_looked_for | unsure)


def _plan_of_today(params: Params, document: Mapping[str, Any], verdict: Verdict) -> None:
    """Say when study file, data or code plan other trials than those that are published."""
    from pipeline.orchestration.planning import make_plan
    from pipeline.study.config import load_study

    study, belongs = document["study"], f"The published tables belong to the plan in {PLAN}/"
    if params.study != study:
        verdict.notices.append(f"{belongs}, of study {study}; params.yaml says {params.study} now.")
        return
    try:
        made = make_plan(load_study(params.study), params)
    except PipelineError as error:
        verdict.notices.append(f"{belongs}; what would be planned now cannot be said: {str(error).splitlines()[0]}")
        return
    if made.blocked:
        verdict.notices.append(f"{belongs}; what would be planned now cannot be said: {'; '.join(made.why_blocked())}.")
        return
    published = set(pq.read_table(PLAN / "trials.parquet", columns=["trial_id"])["trial_id"].to_pylist())
    new, gone = made.trials.keys() - published, published - made.trials.keys()
    if new or gone:
        counts = f"{counted(len(new), 'trial')} more and {counted(len(gone), 'trial')} fewer"
        verdict.notices.append(f"{belongs}; study file, data or code plan {counts} now. `dvc repro` publishes that.")
    elif json.loads(json.dumps(made.tables)) != document["tables"]:
        verdict.notices.append(f"{belongs}; the study file lays its tables out otherwise now. `dvc repro` publishes that.")


def _named(names: Any) -> str:
    """The first of some names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
