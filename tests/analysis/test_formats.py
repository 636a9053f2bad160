"""All formats print the same numbers, and no label can break one of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.analysis.render.csv_table import render_csv
from pipeline.analysis.render.html_table import render_html
from pipeline.analysis.render.json_table import render_json
from pipeline.analysis.render.latex_table import render_latex
from pipeline.analysis.render.markdown_table import render_markdown
from pipeline.analysis.render.text_table import render_text
from pipeline.analysis.render.write import write_tables
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import caption
from pipeline.errors import ConfigError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
RENDERERS = {"markdown": render_markdown, "html": render_html, "latex": render_latex}
# Anything a study file may hold as a name, minus what no text format carries (control and unassigned characters, lone surrogates).
LABEL = st.text(
    st.sampled_from("_%&|<>#$^~\\{}*`[]!\"'-+ab1 Δ±×é中") | st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8
).map(lambda text: " ".join(unicodedata.normalize("NFC", text).split()) or "x")


def printed_cells(result) -> dict[tuple[str, str], tuple[str, bool]]:
    """What every display format must print, from the published JSON alone."""
    document = json.loads(render_json(result))
    cells = {}
    for cell in document["cells"]:
        text = "--" if cell["mean"] is None else f"{100 * cell['mean']:.2f}"
        text += f" ± {100 * cell['sd']:.2f}" if cell["sd"] is not None else ""
        cells[cell["row"], cell["column"]] = (text, cell["best"])
        if document["baseline"] not in (None, cell["column"]):
            delta = "--" if cell["delta_mean"] is None else f"{100 * cell['delta_mean']:+z.2f}"
            delta += f" ± {100 * cell['delta_sd']:.2f}" if cell["delta_sd"] is not None else ""
            cells[cell["row"], f"Δ {cell['column']} − {document['baseline']}"] = (delta, False)
    return cells


@pytest.mark.parametrize("name", RENDERERS)
def test_display_formats_agree_with_json(arms, readers, name):
    """Markdown, HTML and LaTeX print the JSON's numbers, in bold where it says best, cell by cell."""
    result = build_table(*arms)
    headers, rows, _ = readers[name](RENDERERS[name](result))
    read = {(label, header): cell[:2] for label, cells in rows for header, cell in zip(headers[1:], cells, strict=True)}
    expected = printed_cells(result)
    assert {key: value for key, value in read.items() if not key[1].startswith("Δ") or key in expected} == expected


def test_csv_agrees_with_json_to_the_last_bit(arms):
    """CSV and JSON carry the same full-precision fractions, counts, ids and flags."""
    result = build_table(*arms, study="quick")
    lines = list(csv.DictReader(io.StringIO(render_csv(result))))
    cells = json.loads(render_json(result))["cells"]
    assert len(lines) == len(cells)
    for line, cell in zip(lines, cells, strict=True):
        assert (line["study"], line["row"], line["column"], line["metric"]) == ("quick", cell["row"], cell["column"], cell["metric"])
        for name in ("mean", "sd", "n", "delta_mean", "delta_sd", "delta_n", "delta_p"):
            assert (json.loads(line[name]) if line[name] else None) == cell[name]
        assert [float(value) for value in line["values"].split()] == cell["values"]
        assert line["trial_ids"].split() == cell["trial_ids"]
        assert line["run_ids"].split() == cell["run_ids"]
        assert json.loads(line["best"]) == cell["best"]
        assert bool(line["missing"]) == bool(cell["missing"])


def test_text_prints_every_cell_of_the_json(arms):
    """The terminal table holds each number of the JSON, with a star where it says best."""
    result = build_table(*arms)
    lines = {line.split("  ")[0]: line for line in render_text(result).splitlines() if " ± " in line}
    for (row, _), (text, best) in printed_cells(result).items():
        assert (f"{text}*" if best else text) in lines[row]


@pytest.mark.parametrize("name", RENDERERS)
def test_failed_and_skipped_cells_print_dashes_with_a_note(arms, readers, name):
    """A cell with a missing seed prints '--', and its note says which seed and why."""
    headers, rows, notes = readers[name](RENDERERS[name](build_table(*arms)))
    cell = {label: dict(zip(headers[1:], cells, strict=True))["cam"] for label, cells in rows}
    assert cell["wrn_10_1"] == ("--", False, "a")
    assert cell["vit_tiny"] == ("--", False, "b")
    assert notes == {
        "a": "seed 1 failed: loss became nan at step 12 (epoch 1)",
        "b": "seeds 0, 1 and 2 skipped: vit_tiny has layers after pooling: no CAM",
    }


@pytest.mark.parametrize("name", RENDERERS)
@SETTINGS
@given(labels=st.lists(LABEL, min_size=5, max_size=5, unique=True), reason=LABEL)
@example(labels=["_x_", "a|b", "50 % & more", "<b>&amp;", r"\|"], reason="**x** $y$ <i>")
@example(labels=["[1]", "*", r"\\", "```", "-"], reason="{")
def test_no_label_breaks_a_format(make_spec, make_trials, readers, name, labels, reason):
    """Whatever characters rows, columns and reasons are made of, each format still reads back cell by cell."""
    *rows, first, second = labels
    spec = make_spec(rows, [first, second], [0, 1], baseline=first, title=f"On {reason}")
    values = {(row, column): [0.25, 0.5] for row in rows for column in (first, second)}
    result = build_table(spec, make_trials(spec, values, {"t110": ("failed", reason)}))
    headers, read, notes = readers[name](RENDERERS[name](result))
    assert headers == ["backbone", first, second, f"Δ {second} − {first}"]
    assert [label for label, _ in read] == rows
    assert [[text for text, _, _ in cells] for _, cells in read] == [
        ["37.50 ± 17.68", "--" if i == 1 else "37.50 ± 17.68", "--" if i == 1 else "+0.00 ± 0.00"] for i in range(3)
    ]
    assert notes == {"a": f"seed 0 failed: {reason}"}


@SETTINGS
@given(labels=st.lists(LABEL, min_size=4, max_size=4, unique=True))
def test_no_label_breaks_csv_json_or_text(make_spec, make_trials, labels):
    """CSV and JSON give labels back unchanged, and the terminal table cuts none."""
    rows, columns = labels[:2], labels[2:]
    spec = make_spec(rows, columns, [0])
    result = build_table(spec, make_trials(spec, {(row, column): [0.5] for row in rows for column in columns}))
    places = [(row, column) for row in rows for column in columns]
    assert [(line["row"], line["column"]) for line in csv.DictReader(io.StringIO(render_csv(result)))] == places
    assert [(cell["row"], cell["column"]) for cell in json.loads(render_json(result))["cells"]] == places
    text = render_text(result)
    assert all(label in text for label in labels)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(arms, tmp_path):
    """pdflatex sets the table, odd letters included, without an error."""
    spec, trials = arms
    table = render_latex(build_table(spec | {"title": 'Odd: _%&|<>#$^~\\{}" Δ±×λé中'}, trials))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_html_page_is_accessible_and_needs_no_network(arms, readers):
    """The page has a caption, a scope on every header cell, and refers to nothing outside itself."""
    page = readers["page"](render_html(build_table(*arms)))
    assert page.captions == 1
    assert page.scopes == ["col"] * 4 + ["row"] * 3
    assert page.references == []


def test_terminal_table_keeps_to_the_width(make_spec, make_trials):
    """Many columns go into further blocks that repeat the row labels, each within 100 characters."""
    columns = [f"arm_{i}" for i in range(12)]
    spec = make_spec(["resnet8", "wrn_10_1"], columns, [0, 1], baseline="arm_0")
    text = render_text(build_table(spec, make_trials(spec, {(row, c): [0.5, 0.6] for row in spec["rows"] for c in columns})))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("resnet8") > 1
    assert all(text.count(f"Δ {column} − arm_0") == 1 for column in columns[1:])


def test_caption_names_metric_protocol_seeds_baseline_and_settings(arms):
    """The caption holds all that is needed to read the table."""
    assert caption(build_table(*arms)) == (
        "Test accuracy (%) at the last epoch. Mean ± sample SD over n = 3 seeds. Δ: difference to the baseline ce in percentage points, "
        "paired by seed. Bold: best in its row. Fixed: dataset = cluttered_digits, epochs = 8."
    )


@pytest.mark.parametrize("selection", ["last", "best_val", "best_test"])
def test_caption_states_the_selection_protocol(make_spec, make_trials, selection):
    """Each protocol has its own words, and choosing on the test split is called optimistic."""
    words = {"last": "last epoch", "best_val": "best validation accuracy", "best_test": "best test accuracy (optimistic"}
    spec = make_spec(["a"], ["m"], [0], metrics={"m": f"metric_test_acc_top1_{selection}"}, selection=selection)
    text = caption(build_table(spec, make_trials(spec, {("a", "m"): [0.5]})))
    assert [name for name, each in words.items() if each in text] == [selection]
    assert "One seed, so no SD." in text


def test_mixed_protocols_and_mixed_n_are_said(make_spec, make_trials, readers):
    """A table whose cells differ in protocol or in number of seeds says so in the caption and in notes of the cells."""
    spec = make_spec(["a", "b"], ["ce"], [0, 1])
    values = {("a", "ce"): [0.5, 0.6], ("b", "ce"): [0.5, 0.6, 0.7]}
    spec["cells"][1]["metric"] = "metric_test_acc_top1_best_test"
    spec["cells"][1]["trials"].append({"seed": 2, "trial_id": "extra", "state": "planned", "reason": ""})
    result = build_table(spec, make_trials(spec, values))
    assert "mixes selection protocols (best_test, last)" in caption(result)
    assert "mixes n" in caption(result)
    _, rows, notes = readers["markdown"](render_markdown(result))
    assert any("best test accuracy" in notes[mark] for mark in rows[1][1][0][2].split(","))
    assert any(note.startswith("n = ") for note in notes.values())


def test_metric_columns_print_their_own_units(make_spec, make_trials, readers):
    """Percent, seconds and MiB stand side by side, each named in its header."""
    metrics = {"acc_top1": "metric_test_acc_top1_last", "time": "time_train_s", "memory": "mem_peak_bytes"}
    spec = make_spec(["a"], list(metrics), [0], metrics=metrics)
    result = build_table(spec, make_trials(spec, {("a", "acc_top1"): [0.936], ("a", "time"): [61.25], ("a", "memory"): [3.5 * 2**20]}))
    headers, rows, _ = readers["markdown"](render_markdown(result))
    assert headers[1:] == ["acc_top1 (%)", "time (s)", "memory (MiB)"]
    assert [text for text, _, _ in rows[0][1]] == ["93.60", "61.2", "3.5"]


def test_average_row_is_printed_last(make_spec, make_trials, readers):
    """A complete table closes with the mean over its rows in every display format and in JSON."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0, 1], baseline="ce")
    values = {("a", "ce"): [0.5, 0.6], ("b", "ce"): [0.3, 0.4], ("a", "cam"): [0.6, 0.7], ("b", "cam"): [0.5, 0.6]}
    result = build_table(spec, make_trials(spec, values))
    for name, render in RENDERERS.items():
        label, cells = readers[name](render(result))[1][-1]
        assert (label, [text for text, _, _ in cells]) == ("mean over rows", ["45.00 ± 7.07", "60.00 ± 7.07", "+15.00 ± 0.00"])
    assert [average["mean"] for average in json.loads(render_json(result))["averages"]] == pytest.approx([0.45, 0.6])


def test_place_outside_the_design_is_marked(make_spec, make_trials, readers):
    """A row and column without a cell prints '--' with a note, and JSON lists no cell there."""
    spec = make_spec(["a", "b"], ["ce", "cam"], [0])
    trials = make_trials(spec, {(row, column): [0.5] for row in "ab" for column in ("ce", "cam")})
    del spec["cells"][3]
    result = build_table(spec, trials)
    _, rows, notes = readers["html"](render_html(result))
    assert rows[1][1][1] == ("--", False, "a")
    assert notes == {"a": "not part of this table's design"}
    assert len(json.loads(render_json(result))["cells"]) == 3


def test_files_of_a_table(arms, tmp_path):
    """write_tables writes five files a table, the same bytes each time, and refuses a name that is no file name."""
    result = build_table(*arms)
    paths = write_tables([result], tmp_path / "tables")
    assert [path.name for path in paths] == [f"backbones.{suffix}" for suffix in ("md", "tex", "html", "csv", "json")]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_tables([result], tmp_path / "tables")] == first
    spec, trials = arms
    with pytest.raises(ConfigError, match=r"'\.\./x' cannot be a file name"):
        write_tables([build_table(spec | {"name": "../x"}, trials)], tmp_path)
