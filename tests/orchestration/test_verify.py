"""`ablate verify`: what is published against what plan and store give. Whatever was changed by hand is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.analysis.collect import collect, read_run_ids
from pipeline.analysis.render.write import FORMATS
from pipeline.analysis.tables import TableResult, build_tables, load_tables
from pipeline.analysis.verify.attribution import Attribution
from pipeline.analysis.verify.tables import Findings, check_tables
from pipeline.analysis.verify.texts import TOKEN, changes
from pipeline.errors import ConfigError, StoreError
from pipeline.orchestration.verify import Verdict, verify
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from tests.orchestration.published import PARAMS, edit_json, make_published

DIGITS = "0123456789"
FIGURES_LEFT_OUT = "Figures were not compared; `ablate verify --figures` draws them anew and does."


@pytest.fixture(scope="session")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published study; not to be changed."""
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_published(root)
    return root


@pytest.fixture
def published(published_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published study, which is the working directory."""
    root = tmp_path / "study"
    shutil.copytree(published_once, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def tables(published_once: Path) -> list[TableResult]:
    """The tables that plan and store give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(published_once)
        run_ids = read_run_ids(Path("results/outcomes.json"))
        results = collect(Path("plan/trials.parquet"), TrialStore("store"), run_ids)
        return build_tables(load_tables(Path("plan/tables.json")), results.trials)


def check(**options: Any) -> Verdict:
    return verify(PARAMS, **options)


def told(**options: Any) -> list[str]:
    return [str(problem) for problem in check(**options).problems]


def replace_once(path: Path, old: str, new: str) -> None:
    """Replace the first of some places of a published text."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")


def number_of(table: TableResult, row: str, column: str, metric: str) -> float:
    cell = table.cell(row, column, metric)
    assert cell is not None
    assert cell.mean is not None
    return cell.mean


def test_what_was_published_holds(published: Path) -> None:
    """Nothing is wrong with files that nobody touched, and what was looked at is counted."""
    verdict = check()
    assert verdict.problems == []
    assert verdict.cells == 24  # 3 x 3 cells with 2 metrics, and 3 x 2
    assert verdict.checked == {
        "segments": 2, "records": 27, "tables": 2, "formats": 5, "trials": 27, "epochs": 104, "pages": 28,
    }  # fmt: skip
    assert verdict.notices == ["Runs were not compared, as tracking.uri is null in params.yaml.", FIGURES_LEFT_OUT]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_number_changed_by_hand_is_named_with_its_cell_and_format(published: Path, tables: list[TableResult], suffix: str) -> None:
    """Mean of one cell, in each format: table, row, column and metric are named, and what should be there."""
    mean = number_of(tables[0], "cutout", "cam", "metric_test_nll_last")
    text = repr(mean) if suffix in ("json", "csv") else f"{mean:.4f}"
    other = text[:4] + DIGITS[(int(text[4]) + 5) % 10] + text[5:]
    replace_once(published / f"tables/methods.{suffix}", text, other)
    (line,) = told()
    assert line.startswith(f"methods: cutout / cam, test negative log-likelihood [{suffix}]: ")
    assert text in line
    assert (repr(float(other)) if suffix == "json" else other) in line


def test_cells_of_one_line_are_told_apart(published: Path, tables: list[TableResult]) -> None:
    """Two numbers of one row, one of them a difference: two cells are named."""
    file = published / "tables/methods.md"
    cell = tables[0].cell("mixup", "cam_strong", "metric_test_acc_top1_last")
    first = f"{number_of(tables[0], 'mixup', 'ce', 'metric_test_acc_top1_last') * 100:.2f}"
    assert cell is not None
    assert cell.delta is not None
    assert cell.delta.mean is not None
    for text in (first, f"{cell.delta.mean * 100:+.2f}"):
        replace_once(file, text, text[:-1] + DIGITS[(int(text[-1]) + 5) % 10])
    assert [line.split(":")[1].strip() for line in told()] == ["mixup / ce, test accuracy [md]", "mixup / cam_strong, test accuracy [md]"]


def test_a_field_of_a_cell_is_named(published: Path) -> None:
    """Every number of a cell counts, not only its mean; so do its trials."""

    def change(document: dict[str, Any]) -> None:
        cell = next(cell for cell in document["cells"] if cell["row"] == "mixup" and cell["column"] == "cam")
        cell["delta_p_holm"] = 0.01
        cell["top"] = not cell["top"]
        cell["trial_ids"][1] = "0123456789abcdef"

    edit_json(published / "tables/methods.json", change)
    (line,) = told()
    assert line.startswith("methods: mixup / cam, test accuracy [json]: ")
    for said in ("delta_p_holm is 0.01 but ", "top is ", "trial_ids[1] is 0123456789abcdef but "):
        assert said in line


def test_a_cell_that_is_gone_and_one_that_was_never_planned(published: Path) -> None:
    """Both are named."""

    def change(document: dict[str, Any]) -> None:
        document["cells"].append({**document["cells"].pop(1), "column": "made up"})

    edit_json(published / "tables/loss_weight.json", change)
    assert told() == [
        "loss_weight: 0 / caam_energy [json]: is missing",
        "loss_weight: 0 / made up [json]: is no cell of the plan",
    ]


def test_the_same_values_written_otherwise_and_a_cell_that_stands_twice(published: Path) -> None:
    """Published files are equal to the byte: who writes one anew is told, also where a cell is only repeated."""
    file = published / "tables/methods.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    assert told()[0].startswith("tables/methods.json: line 2 is ")
    document["cells"].append(document["cells"][0])
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert told()[0].startswith("tables/methods.json: line ")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [1]}', '{"cells": 3}', '{"cells": [{"row": "none"}]}'])
def test_a_file_that_is_no_table(published: Path, text: str) -> None:
    """It is said, without a traceback, and the other formats are looked at."""
    (published / "tables/methods.json").write_text(text)
    (line,) = told()
    assert line.startswith("tables/methods.json: is no table ")


def test_files_that_are_missing_or_nobody_asked_for(published: Path) -> None:
    """Each is named with what to do."""
    for name in ("tables/methods.tex", "tables/loss_weight.json", "metrics.json", "curves/methods.csv", "results/history.parquet"):
        (published / name).unlink()
    (published / "tables/old.md").write_text("| a |\n")
    lines = told()
    assert len(lines) == 6
    for name in ("tables/methods.tex", "tables/loss_weight.json", "metrics.json", "curves/methods.csv", "results/history.parquet"):
        assert any(line.startswith(f"{name}: is missing. Write it anew with `dvc repro") for line in lines), name
    assert any(line.startswith("tables/old.md: belongs to no table") for line in lines)


def test_tables_of_an_earlier_version_are_said_to_be_so(published: Path) -> None:
    """JSON without the newer keys is told once, with what to do, and what both versions have is still compared."""

    def change(document: dict[str, Any]) -> None:
        for key in ("metrics", "statistics", "complete_rows", "averages", "versus", "rankings", "published"):
            del document[key]
        for cell in document["cells"]:
            cell["ci95"] = cell.pop("ci")
            for key in [key for key in cell if key.startswith("delta_") and key not in ("delta_mean", "delta_sd", "delta_n", "delta_p")]:
                del cell[key]

    edit_json(published / "tables/methods.json", change)
    (published / "tables/methods.md").write_text("of the earlier version, too\n")
    (line,) = told()
    assert line.startswith("tables/methods.json: was written by another version (no ci, ")
    assert "`dvc repro -f aggregate`" in line
    (published / "report/index.html").write_text("of the earlier version, too\n")
    assert len(told()) == 1
    assert check().notices[0].startswith("report/ was not compared, as another version published its tables.")
    edit_json(published / "tables/methods.json", lambda document: document["cells"][2].update(mean=0.5))
    assert any(line.startswith("methods: none / cam, test accuracy [json]: mean is 0.5 but ") for line in told())


def test_lines_that_are_missing_are_one_message(published: Path) -> None:
    """Several one after the other are counted from the first; a single one is quoted; a line too many has its own number."""
    file = published / "tables/methods.csv"
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join(lines[:1] + lines[5:]), encoding="utf-8", newline="")
    (line,) = told()
    assert line.startswith('tables/methods.csv: 4 lines are missing from line 2 on, the first of them "tiny,methods,none,')
    file.write_text("\n".join(lines[:3] + lines[4:]), encoding="utf-8", newline="")
    (line,) = told()
    assert line.startswith('tables/methods.csv: line 4 is missing: "')
    file.write_text("\n".join([*lines[:3], "a", "b", *lines[3:]]), encoding="utf-8", newline="")
    assert told() == [f'tables/methods.csv: line {number} should not be there: "{text}"' for number, text in ((4, "a"), (5, "b"))]


@given(published=st.lists(st.sampled_from("abc")), truth=st.lists(st.sampled_from("abc")))
def test_changes_lead_from_one_text_to_the_other(published: list[str], truth: list[str]) -> None:
    """What is told of two texts, applied to the published one from the bottom up, gives the truth."""
    lines = "\n".join(published).split("\n")
    wanted = "\n".join(truth).split("\n")
    for change in reversed(list(changes("\n".join(published), "\n".join(truth)))):
        place = change.number - 1
        if change.published is None:
            lines[place:place] = wanted[change.at : change.at + change.lines]
            assert wanted[change.at] == change.truth
        else:
            assert lines[place] == change.published
            lines[place : place + 1] = [] if change.truth is None else [change.truth]
    assert lines == wanted


def test_a_difference_by_rounding_is_said_to_be_one(published: Path) -> None:
    """Another processor may round otherwise: the last digit counts, and the reader is told what it may mean."""

    def change(document: dict[str, Any]) -> None:
        document["cells"][0]["mean"] *= 1 + 4e-16

    edit_json(published / "tables/methods.json", change)
    assert "equal to 12 digits" in told()[0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_digit_of_any_table_counts(published: Path, published_once: Path, tables: list[TableResult], data: st.DataObject) -> None:
    """Change any one numeric character of any published table: it is noticed. Put it back: silence."""
    name = data.draw(st.sampled_from(sorted(path.name for path in (published_once / "tables").iterdir())))
    original, file = (published_once / "tables" / name).read_text(encoding="utf-8"), published / "tables" / name
    at = data.draw(st.sampled_from([i for i, character in enumerate(original) if character in DIGITS]))
    digit = data.draw(st.sampled_from(DIGITS.replace(original[at], "")))
    file.write_text(original[:at] + digit + original[at + 1 :], encoding="utf-8", newline="")
    try:
        findings = [Findings(table) for table in tables]
        assert check_tables(findings, published / "tables") == []
        problems = [str(problem) for found in findings for problem in found.problems()]
        assert problems
        assert all(name.rpartition(".")[0] in problem for problem in problems)
    finally:
        file.write_text(original, encoding="utf-8", newline="")
    findings = [Findings(table) for table in tables]
    assert check_tables(findings, published / "tables") == []
    assert [problem for found in findings for problem in found.problems()] == []


@pytest.mark.parametrize("suffix", ["md", "tex", "html"])
def test_every_printed_mean_is_attributed_to_its_cell(tables: list[TableResult], suffix: str) -> None:
    """For each printed cell, by position: the token that holds its mean belongs to it. Means of these tables are all different."""
    for table in tables:
        lines = FORMATS[suffix](table).split("\n")
        attribution = Attribution(table, FORMATS[suffix])
        texts = {
            (c.row, c.column, c.metric): f"{c.mean:.4f}" if "nll" in c.metric else f"{c.mean * 100:.2f}" for c in table.cells if c.mean
        }
        body = [i for i, line in enumerate(lines) if any(line.lstrip("| ").startswith(start) for start in _row_starts(table, suffix))]
        found = set()
        for i in body:
            for at, token in enumerate(TOKEN.findall(lines[i])):
                cell = attribution.cell(i, at)
                if cell is not None and token.strip("*") == texts.get((cell.row, cell.column, cell.metric)):
                    found.add((cell.row, cell.column, cell.metric))
        assert found == texts.keys()
        assert attribution.cell(0, 0) is None


def _row_starts(table: TableResult, suffix: str) -> list[str]:
    return [f'<tr><th scope="row">{row}' if suffix == "html" else f"{row} " for row in table.rows]


def test_a_number_changed_in_the_report_is_named_with_its_cell(published: Path, tables: list[TableResult]) -> None:
    """In the table of the report, in its statistics and in its list of trials the cell is named."""
    index = published / "report/index.html"
    original = index.read_text(encoding="utf-8")
    cell = tables[0].cell("cutout", "cam", "metric_test_acc_top1_last")
    assert cell is not None
    mean, value = f"{number_of(tables[0], 'cutout', 'cam', 'metric_test_acc_top1_last') * 100:.2f}", f"{cell.values[1] * 100:.2f}"
    for old, new in ((f">{mean} ±", ">12.34 ±"), (f"mean {mean} %", "mean 12.34 %"), (f"seed 1: {value} %", "seed 1: 12.34 %")):
        assert old in original
        index.write_text(original.replace(old, new, 1), encoding="utf-8", newline="")
        lines = told()
        assert [line.split(": line")[0] for line in lines] == ["methods: cutout / cam, test accuracy [report]"], (old, lines)
        assert "12.34" in lines[0]
    index.unlink()
    assert told() == ["report/index.html: is missing. Write it anew with `dvc repro -f report`"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_digit_of_the_report_counts(published: Path, published_once: Path, data: st.DataObject) -> None:
    """Change any digit of the index or of a trial's page outside the styles and what it says of code and data: it is noticed."""
    name = data.draw(
        st.sampled_from(sorted(path.relative_to(published_once).as_posix() for path in published_once.glob("report/**/*.html")))
    )
    original, file = (published_once / name).read_text(encoding="utf-8"), published / name
    first = original.find("</style>")
    last = original.find('id="provenance"') if name.endswith("index.html") else len(original)
    at = data.draw(st.sampled_from([i for i, character in enumerate(original) if character in DIGITS and first < i < last]))
    file.write_text(original[:at] + DIGITS[int(original[at]) - 1] + original[at + 1 :], encoding="utf-8", newline="")
    try:
        assert told()
    finally:
        file.write_text(original, encoding="utf-8", newline="")


def test_pages_of_trials(published: Path) -> None:
    """A changed, a missing and a foreign page are named by their trial."""
    changed, missing = sorted((published / "report/trials").glob("*.html"))[:2]
    replace_once(changed, "<h1>", "<h1>9")
    missing.unlink()
    (published / "report/trials/stray.html").write_text("<p>1</p>")
    lines = told()
    assert len(lines) == 3
    assert any(line.startswith(f"report/trials/{changed.name}: line ") for line in lines)
    assert any(line.startswith(f"report/trials/{missing.name}: is missing") for line in lines)
    assert any(line.startswith("report/trials/stray.html: is a page of no planned trial") for line in lines)


def test_what_the_report_says_of_code_is_of_its_day(published: Path) -> None:
    """A commit after publishing is no drift."""
    replace_once(published / "report/index.html", "0123456789abcdef", "fedcba9876543210")
    assert told() == []


def _rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Alter rows of a Parquet file; its types stay."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_values_of_the_results_are_named_by_trial_and_column(published: Path) -> None:
    """One value in trials.parquet, one in history.parquet; then a row that is gone."""
    ids = pq.read_table("results/trials.parquet")["trial_id"].to_pylist()
    _rewrite(published / "results/trials.parquet", lambda rows: rows[3].update(time_train_s=1.5))
    _rewrite(published / "results/history.parquet", lambda rows: rows[9].update(metric_test_acc_top1=0.25))
    row = pq.read_table("results/history.parquet").slice(9, 1).to_pylist()[0]
    lines = told()
    assert len(lines) == 2
    assert lines[0].startswith(f"results/trials.parquet: trial {ids[3]}: time_train_s is 1.5 but ")
    assert lines[1].startswith(f"results/history.parquet: trial {row['trial_id']}, epoch {row['epoch']}: metric_test_acc_top1 is 0.25 but ")
    _rewrite(published / "results/trials.parquet", lambda rows: [rows.pop(3), rows[3].update(time_train_s=rows[3]["time_train_s"])])
    assert f"results/trials.parquet: has no row of trial {ids[3]}" in told()


def test_metrics_and_curves_are_named_by_their_place(published: Path) -> None:
    """metrics.json by table, row and column; curves by row, column and epoch."""
    edit_json(published / "metrics.json", lambda document: document["methods"]["cutout"].update(cam=12.5))
    curve = (published / "curves/methods.csv").read_text().split("\n")
    fields = curve[2].split(",")
    place = curve[0].split(",").index("accuracy")
    curve[2] = ",".join([*fields[:place], "0.125", *fields[place + 1 :]])
    (published / "curves/methods.csv").write_text("\n".join(curve))
    lines = told()
    assert len(lines) == 2
    assert lines[1].startswith("metrics.json: methods / cutout / cam is 12.5 but ")
    assert lines[0].startswith(f"curves/methods.csv: none / ce, epoch 2: accuracy is 0.125 but {fields[place]} from the store")


def _segments() -> list[Path]:
    return sorted(Path("store/segments").glob("*.records.parquet"))


def _holder(trial_id: str) -> Path:
    return next(path for path in _segments() if trial_id in pq.read_table(path)["trial_id"].to_pylist())


def test_a_record_altered_in_place_is_named_with_its_segment(published: Path, tables: list[TableResult]) -> None:
    """The segment is not what was written; the trial and every cell that it is behind are named; the rest is still checked."""
    cell = tables[0].cell("none", "cam", "metric_test_acc_top1_last")
    assert cell is not None
    trial_id = cell.trial_ids[0]
    path = _holder(trial_id)

    def change(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["trial_id"] == trial_id)["metric_test_acc_top1_last"] = 0.999

    _rewrite(path, change)
    verdict = check()
    by_kind = {kind: [str(p) for p in verdict.problems if p.kind == kind] for kind in ("store", "record", "cell", "file")}
    (store,) = by_kind["store"]
    assert store.startswith(f"{path.as_posix()}: is not what was written; trials in it: ")
    (record,) = by_kind["record"]
    assert record.startswith(f"trial {trial_id} [segments/{path.name}]: its record in the store is not the one of when the study was run")
    start = f"methods: none / cam, test accuracy [json, csv, md, tex, html, report]: mean is {cell.mean} but "
    assert any(line.startswith(start) for line in by_kind["cell"])
    assert not any(line.startswith(("methods: cutout", "methods: mixup")) for line in by_kind["cell"])
    assert (
        f"results/trials.parquet: trial {trial_id}: metric_test_acc_top1_last is {cell.values[0]} but 0.999 from the store"
        in by_kind["file"]
    )


def test_a_record_altered_with_all_its_digests_is_still_found(published: Path, tables: list[TableResult]) -> None:
    """A better record put beside the first one, by the store's own means: the trial is named with both segments."""
    trial_id = tables[1].cells[0].trial_ids[0]
    row = dict(TrialStore("store").records()[trial_id]) | {"metric_test_loss_last": 0.5}
    before = _holder(trial_id)
    TrialStore("store").append([Record(row, TrialStore("store").history(trial_id))])
    after = _segments()[-1]
    (record,) = [str(problem) for problem in check().problems if problem.kind == "record"]
    assert record.startswith(f"trial {trial_id} [segments/{before.name}, segments/{after.name}]: its record in the store is not the one")


@pytest.mark.parametrize("suffix", ["records", "history"])
def test_a_damaged_segment_does_not_stop_the_rest(published: Path, suffix: str) -> None:
    """Bytes that the disk has lost: the file is named with its trials, and a table changed by hand is found all the same."""
    path = sorted(Path("store/segments").glob(f"*.{suffix}.parquet"))[0]
    trials = set(pq.read_table(path)["trial_id"].to_pylist())
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    edit_json(published / "tables/loss_weight.json", lambda document: document.update(title="Other"))
    verdict = check()
    (store,) = [str(problem) for problem in verdict.problems if problem.kind == "store"]
    assert store.startswith(f"{path.as_posix()}: cannot be read")
    assert any(trial_id in store for trial_id in trials)
    assert any(str(problem).startswith("tables/loss_weight.json: title is Other but ") for problem in verdict.problems)
    if suffix == "history":
        assert [problem for problem in verdict.problems if problem.kind in ("record", "cell")] == []
        assert not any("history.parquet" in problem.where for problem in verdict.problems if problem.kind == "file")


def test_a_segment_without_its_key_does_not_stop_the_rest(published: Path) -> None:
    """Altered so that its rows belong to nobody: the file is named, and its trials by what the study was run with."""
    path = _segments()[0]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["trial_id"]), path)
    problems = check().problems
    (store,) = [str(problem) for problem in problems if problem.kind == "store"]
    assert store.startswith(f"{path.as_posix()}: has no column trial_id; trials in it: ")
    assert any(problem.kind == "cell" for problem in problems)


def test_a_segment_that_was_removed_names_its_trials(published: Path) -> None:
    """Nothing tells of the file, but the trials were there when the study was run."""
    path = _segments()[0]
    trials = pq.read_table(path)["trial_id"].to_pylist()
    for file in path.parent.glob(path.name.removesuffix(".records.parquet") + ".*"):
        file.unlink()
    found = {str(problem) for problem in check().problems if problem.kind == "record"}
    said = "is no longer in the store. Bring it back from a copy, or run it again with `ablate run` and publish with `dvc repro -f run`"
    assert found == {f"trial {trial_id}: {said}" for trial_id in trials}


def test_a_store_that_is_not_here(published: Path) -> None:
    """After a pull into a fresh clone there is no store: one message instead of one a trial."""
    shutil.rmtree("store")
    with pytest.raises(
        StoreError, match=r"There is no trial in the store at 'store', .* set `store\.url` in params\.yaml to where it is\."
    ):
        check()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_half_of_a_figure_that_is_gone_is_named_without_drawing(published: Path, suffix: str) -> None:
    """Each figure has two files; to see that one is lost nothing has to be drawn."""
    figures = published / "figures"
    figures.mkdir(exist_ok=True)
    for other in (".svg", ".png"):
        (figures / f"methods.cost{other}").write_text("<svg></svg>")
    (figures / f"methods.cost{suffix}").unlink()
    (line,) = [line for line in told() if line.startswith("figures/")]
    assert line == f"figures/methods.cost{suffix}: is missing. Draw it anew with `dvc repro -f report`"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"trials": 3}', '{"trials": {"a": 1}}', '{"trials": {"a": {}}}'])
def test_outcomes_that_cannot_be_read(published: Path, content: str | None) -> None:
    """results/outcomes.json is missing or is none: it is said, with what to do."""
    file = published / "results/outcomes.json"
    file.unlink() if content is None else file.write_text(content)
    assert any(line.startswith("results/outcomes.json: ") and "`dvc repro -f run`" in line for line in told())


def test_a_study_file_that_was_edited_since_is_a_notice(published: Path) -> None:
    """The published tables belong to the plan in plan/, whatever would be planned now."""
    replace_once(published / "studies/tiny.yaml", "seeds: 3", "seeds: 4")
    verdict = check()
    assert verdict.problems == []
    assert verdict.notices[1] == (
        "The published tables belong to the plan in plan/; study file, data or code plan 9 trials more and 0 trials fewer now. "
        "`dvc repro` publishes that."
    )
    replace_once(published / "studies/tiny.yaml", "seeds: 4", "seeds: 3")
    replace_once(published / "studies/tiny.yaml", "ranks: true", "ranks: false")
    assert "lays its tables out otherwise now" in check().notices[1]
    replace_once(published / "studies/tiny.yaml", "seeds: 3", "seeds: three")
    assert "what would be planned now cannot be said" in check().notices[1]
    assert check().problems == []


def test_nothing_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder is told what to run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"nothing has been published\. Run `dvc repro`"):
        check()


def test_the_command_prints_lines_and_json(published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0 with counts, or 1 with a line a problem; --json keeps `cells` and `drift`."""
    from pipeline.cli import main

    def ablate(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["ablate", "verify", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().out

    (published / "params.yaml").write_text("study: tiny\ntracking: {uri: null}\n")
    code, out = ablate()
    assert code == 0
    assert "24 cells checked against the store, 0 differences." in out
    assert FIGURES_LEFT_OUT in out.splitlines()[-3:]
    edit_json(published / "tables/methods.json", lambda document: document["cells"][0].update(sd=0.5))
    code, out = ablate()
    assert code == 1
    assert "methods: none / ce, test accuracy [json]: sd is 0.5 but " in out
    assert "24 cells checked against the store, 1 difference." in out
    code, out = ablate("--json")
    document = json.loads(out)
    assert code == 1
    assert (document["cells"], len(document["drift"])) == (24, 1)
    assert document["problems"][0].keys() == {"kind", "where", "message"}
    assert document["drift"][0] == f"{document['problems'][0]['where']}: {document['problems'][0]['message']}"
