"""All formats print the same numbers, and no label can break one of them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import runpy
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.analysis.render.blocks import in_blocks
from pipeline.analysis.render.csv_table import render_csv
from pipeline.analysis.render.html_table import render_html
from pipeline.analysis.render.json_table import render_json
from pipeline.analysis.render.latex_table import render_latex
from pipeline.analysis.render.markdown_table import render_markdown
from pipeline.analysis.render.text_table import render_text
from pipeline.analysis.render.write import write_tables
from pipeline.analysis.report.page import write_report
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import caption
from pipeline.errors import ConfigError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
GOLDEN = Path(__file__).parents[1] / "golden" / "analysis"
golden_results = runpy.run_path(str(GOLDEN / "regenerate.py"))["golden_results"]
ACCURACY, NLL, TIME = "metric_test_acc_top1_last", "metric_test_nll_last", "time_train_s"
READERS = {"text": runpy.run_path(str(Path(__file__).with_name("parsers.py")))["read_text"]}
RENDERERS = {"markdown": render_markdown, "html": render_html, "latex": render_latex}
# Anything a study file may hold as a name, minus what no text format carries (control and unassigned characters, lone surrogates).
LABEL = st.text(
    st.sampled_from("_%&|<>#$^~\\{}*`[]!\"'-+ab1 Δ±×é中") | st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8
).map(lambda text: " ".join(unicodedata.normalize("NFC", text).split()) or "x")


def design(rows, columns, *, row_fields=("backbone",), column_fields=("arm",), metrics=(ACCURACY,), seeds=8, trouble=None, **changes):
    """A filled table; rows and columns are given field by field, and the numbers follow from their places.

    The more to the right and the further down, the better, by more than the seeds differ. `trouble`: trial id -> reason why it failed.
    """
    cells, records = [], {}
    for (i, row), (j, column), metric in itertools.product(enumerate(rows), enumerate(columns), metrics):
        levels = dict(zip(row_fields, row, strict=True)) | dict(zip(column_fields, column, strict=True))
        trials = []
        for seed in range(seeds):
            trial_id = f"t{i}-{j}-{seed}"
            reason = (trouble or {}).get(trial_id)
            trials.append({"seed": seed, "trial_id": trial_id, "state": "planned", "reason": ""})
            record = records.setdefault(trial_id, {"trial_id": trial_id, "seed": seed, "run_id": f"run-{trial_id}"})
            record |= {"state": "failed" if reason else "complete", "reason": reason or ""}
            accuracy = 0.6 + 0.03 * i + 0.011 * j + 0.004 * ((7 * seed + 3 * i) % 5) + 0.0007 * ((seed * (j + 1)) % 3)
            value = {ACCURACY: accuracy, NLL: 3 - 3 * accuracy, TIME: 12345 - 1000 * i - 30 * j + seed}[metric]
            record[metric] = None if reason else value
        cells.append(
            {
                "row": " · ".join(row), "column": " · ".join(column), "metric": metric, "arm": levels.get("arm"), "cell_id": f"c{i}-{j}",
                "row_levels": dict(zip(row_fields, row, strict=True)), "column_levels": dict(zip(column_fields, column, strict=True)),
                "trials": trials,
            }
        )  # fmt: skip
    spec = {
        "name": "a_table", "title": "A table", "row_fields": list(row_fields), "rows": [" · ".join(row) for row in rows],
        "row_parts": [list(row) for row in rows], "column_fields": list(column_fields), "columns": [" · ".join(each) for each in columns],
        "column_parts": [list(each) for each in columns], "column_kind": "level", "baseline": "ce", "selection": "last",
        "seeds": list(range(seeds)), "fixed": {"epochs": 8}, "cells": cells,
    }  # fmt: skip
    return build_table(spec | changes, pa.Table.from_pylist(list(records.values())), study="made")


BACKBONES = [("resnet8",), ("wrn_10_1",), ("densenet_bc_10_12",)]
ARMS = [("ce",), ("cam",)]
TWO_FIELDS = {
    "rows": [("cluttered_digits", "resnet8"), ("cluttered_digits", "wrn_10_1"), ("fashion", "resnet8"), ("fashion", "wrn_10_1")],
    "row_fields": ("dataset", "backbone"),
}
FULL_STYLE = {"p_values": True, "ranks": True}
REFERENCE = {
    "ISDA": {
        "where": {"table": "ISDA_T2", "dataset": "CIFAR-10", "method": "ISDA"},
        "by": "backbone",
        "names": {"resnet8": "ResNet-32", "wrn_10_1": "ResNet-110"},
    }
}
DESIGNS = {
    "plain": lambda **more: design(BACKBONES, ARMS, **more),
    "failures": lambda **more: design(BACKBONES, ARMS, trouble={"t1-1-3": "loss became nan", "t0-0-2": "killed"}, **more),
    "one seed": lambda **more: design(BACKBONES, ARMS, seeds=1, **more),
    "several metrics": lambda **more: design(BACKBONES, ARMS, metrics=(ACCURACY, NLL, TIME), **more),
    "two row fields": lambda **more: design(**TWO_FIELDS, columns=ARMS, **more),
    "two column fields": lambda **more: design(
        BACKBONES, [("sgd", "ce"), ("sgd", "cam"), ("adam", "ce"), ("adam", "cam")], column_fields=("optimizer", "arm"), **more
    ),
    "arms as rows": lambda **more: design(ARMS, [("resnet8",), ("wrn_10_1",)], row_fields=("arm",), column_fields=("backbone",), **more),
    "published": lambda **more: design(BACKBONES, ARMS, reference=REFERENCE, metrics=(ACCURACY, NLL), **more),
    "tiny p values": lambda **more: design(BACKBONES, ARMS, statistics={"test": "t"}, **more),
    "all at once": lambda **more: design(
        **TWO_FIELDS, columns=[*ARMS, ("focal",)], metrics=(ACCURACY, TIME), trouble={"t2-1-0": "killed"}, **more
    ),
}  # fmt: skip
STYLES = {
    "default": {},
    "full": FULL_STYLE,
    "standard error": {"spread": "se"},
    "interval": {"spread": "ci", "decimals": 1},
    "bare": {"spread": "none", "deltas": False, "averages": False, "bold": "none"},
    "best only, daggers at the values": {"bold": "best", "deltas": False, "decimals": 0},
}


def number(value, metric, style, *, signed=False):
    """`value` as printed: percent with two decimals, nats with four, seconds with one, unless the style says otherwise."""
    scale, decimals = {ACCURACY: (100, 2), NLL: (1, 4), TIME: (1, 1)}[metric]
    decimals = decimals if style.get("decimals") is None else style["decimals"]
    return f"{scale * value:{'+' if signed else ''}z.{decimals}f}"


def printed(numbers, metric, style, prefix=""):
    """'mean ± spread' of an object of the JSON file."""
    mean, sd, n, ci = (numbers[prefix + name] for name in ("mean", "sd", "n", "ci"))
    if mean is None:
        return "--"
    text = number(mean, metric, style, signed=bool(prefix))
    kind = style.get("spread", "sd")
    if sd is None or kind == "none":
        return text
    half = {"sd": sd, "se": sd / n**0.5, "ci": ci and (ci[1] - ci[0]) / 2}[kind]
    return f"{text} ± {number(half, metric, style)}"


def expected_rows(document, style):
    """What every display format must print: (text, bold) by row label, from the published JSON and the style alone."""
    cells = {(cell["row"], cell["column"], cell["metric"]): cell for cell in document["cells"]}
    averages = {(each["column"], each["metric"]): each for each in document["averages"]}
    deltas = style.get("deltas", True)
    bold = {"group": "top", "best": "best", "none": "none"}[style.get("bold", "group")]
    rows = {row: [] for row in document["rows"]}
    average, rank = [], []
    for metric in document["metrics"]:
        for column in document["columns"]:
            for row in document["rows"]:
                cell = cells[row, column, metric]
                dagger = " †" if cell["delta_significant"] and not deltas else ""
                rows[row].append((printed(cell, metric, style) + dagger, cell.get(bold, False)))
            average.append((printed(averages[column, metric], metric, style) if averages else "", False))
            ranks = document["rankings"].get(metric)
            rank.append((f"{ranks['average_ranks'][ranks['names'].index(column)]:.2f}" if ranks else "", False))
        for column in document["columns"]:
            members = [cells[row, column, metric] for row in document["rows"]]
            if not deltas or all(cell["delta_n"] is None for cell in members):
                continue
            for cell in members:
                text = printed(cell, metric, style, "delta_") if cell["delta_n"] is not None else ""
                rows[cell["row"]].append((text + " †" * bool(cell["delta_significant"]), False))
                if style.get("p_values"):
                    p = cell["delta_p_holm"]
                    text = "" if cell["delta_n"] is None else "--" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
                    rows[cell["row"]].append((text, False))
            of_average = averages.get((column, metric))
            text = printed(of_average, metric, style, "delta_") if of_average and of_average["delta_n"] is not None else ""
            average += [(text, False)] + [("", False)] * bool(style.get("p_values"))
            rank += [("", False)] * (1 + bool(style.get("p_values")))
        for published in document["published"]:
            if published["metric"] == metric:
                for row, entry in published["entries"].items():
                    as_published = {"decimals": entry["decimals"]} if entry else {}
                    shown = entry and entry["spread"] is not None and style.get("spread") != "none"
                    spread = f" ± {number(entry['spread'], metric, as_published)}" if shown else ""
                    rows[row].append((number(entry["value"], metric, as_published) + spread if entry else "--", False))
                average.append(("", False))
                rank.append(("", False))
    if averages and style.get("averages", True):
        rows["mean over rows" if len(document["complete_rows"]) == len(document["rows"]) else "mean over complete rows"] = average
    if document["rankings"] and style.get("ranks"):
        rows["average rank"] = rank
    return list(rows.items())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", DESIGNS)
def test_display_formats_agree_with_json(readers, name, style):
    """Markdown, HTML, LaTeX and the terminal print the JSON's numbers, bold and dagger where it says so, and one set of notes."""
    result = DESIGNS[name](style=STYLES[style])
    expected = expected_rows(json.loads(render_json(result)), STYLES[style])
    read = {each: (READERS | readers)[each](render(result)) for each, render in (RENDERERS | {"text": render_text}).items()}
    for each, (headers, rows, _) in read.items():
        assert [(label, [cell[:2] for cell in cells]) for label, cells in rows] == expected, each
        assert all(len(cells) == len(headers) - 1 for _, cells in rows), each
    _, rows, notes = read["markdown"]
    for each, (_, others, other_notes) in read.items():
        assert [[cell[2] for cell in cells] for _, cells in others] == [[cell[2] for cell in cells] for _, cells in rows], each
        assert other_notes == notes, each


def test_csv_has_a_column_for_each_field_and_says_what_its_intervals_and_tests_are():
    """Fields that rows and columns hold together stand apart too; plans that do not tell them apart have no such column."""
    judged = {"test": "t", "alpha": 0.01, "confidence": 0.9}
    arms = [("sgd", "ce"), ("sgd", "cam"), ("adam", "ce"), ("adam", "cam")]
    result = design(**TWO_FIELDS, columns=arms, column_fields=("optimizer", "arm"), metrics=(ACCURACY, NLL), statistics=judged)
    lines = list(csv.DictReader(io.StringIO(render_csv(result))))
    assert len(lines) == 4 * 4 * 2
    for line, ((dataset, backbone), (optimizer, arm), metric) in zip(
        lines, itertools.product(TWO_FIELDS["rows"], arms, (ACCURACY, NLL)), strict=True
    ):
        assert {name: text for name, text in line.items() if name.startswith("factor_")} == {
            "factor_dataset": dataset, "factor_backbone": backbone, "factor_optimizer": optimizer, "factor_arm": arm,
        }  # fmt: skip
        assert (line["row"], line["column"], line["metric"]) == (f"{dataset} · {backbone}", f"{optimizer} · {arm}", metric)
        assert (line["test"], line["alpha"], line["confidence"]) == ("t", "0.01", "0.9")
    whole = replace(result, row_parts=tuple((row,) for row in result.rows))
    assert [name for name in render_csv(whole).splitlines()[0].split(",") if "factor" in name] == ["factor_optimizer", "factor_arm"]


def test_csv_of_metrics_as_columns_calls_them_no_factor(sweep_table):
    """A metric is in the column `metric` already."""
    header, *_ = render_csv(build_table(*sweep_table)).splitlines()
    assert [name for name in header.split(",") if "factor" in name] == ["factor_loss.cam.weight"]


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
    assert [label for label, _ in read] == [*rows, "mean over complete rows"]
    assert [[text for text, _, _ in cells] for _, cells in read] == [
        ["37.50 ± 17.68", "--" if i == 1 else "37.50 ± 17.68", "--" if i == 1 else "+0.00 ± 0.00"] for i in range(4)
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


def source_blocks(name, result):
    """How often a format has to name a group of rows: in each block of columns."""
    return {"latex": render_latex(result).count(r"\begin{tabular}"), "text": render_text(result).count("dataset / backbone")}.get(name, 1)


def test_label_of_the_json_is_read_back_from_grouped_rows_and_columns(readers):
    """Each format says of every number which group of rows and which group of columns it belongs to."""
    rows = [f"{dataset} · {backbone}" for dataset, backbone in TWO_FIELDS["rows"]]
    result = design(**TWO_FIELDS, columns=ARMS, metrics=(ACCURACY, TIME))
    for name, render in (RENDERERS | {"text": render_text}).items():
        headers, read, _ = (READERS | readers)[name](render(result))
        link = ", " if name == "markdown" else " / "
        labels = ["ce", "cam", "Δ cam − ce"]
        assert headers == ["dataset / backbone", *(f"{g}{link}{c}" for g in ("acc_top1 (%)", "training time (s)") for c in labels)], name
        assert [label for label, _ in read] == rows, name
        printed = [line for line in render(result).splitlines() if not line.startswith("%")]
        assert name == "html" or sum("fashion" in line for line in printed) == source_blocks(name, result), name
    arms = [("sgd", "ce"), ("sgd", "cam"), ("adam", "ce")]
    result = design(BACKBONES, arms, column_fields=("optimizer", "arm"), style={"deltas": False})
    for name, render in (RENDERERS | {"text": render_text}).items():
        link = " · " if name == "markdown" else " / "
        headers = (READERS | readers)[name](render(result))[0]
        assert headers == ["backbone", f"sgd{link}ce", f"sgd{link}cam", f"adam{link}ce"], name


def test_a_row_with_a_blank_name_keeps_its_numbers(readers):
    """A level that prints as nothing, such as an empty name, has its row in every format."""
    result = replace(design([("",)], ARMS), row_fields=("",))
    for name, render in (RENDERERS | {"text": render_text}).items():
        if name != "text":  # blank columns are how its reader tells labels from numbers
            assert [cell[0] for cell in (READERS | readers)[name](render(result))[1][0][1]] == [
                "60.86 ± 0.66",
                "61.97 ± 0.68",
                "+1.11 ± 0.06 †",
            ]
        assert "61.97" in render(result)


def test_markdown_escapes_a_small_p_value():
    """'<' is an entity: no reader of Markdown can take it for the start of a tag."""
    assert "| &lt; 0.001 |" in render_markdown(DESIGNS["tiny p values"](style=FULL_STYLE))


def test_one_metric_on_two_splits_or_under_two_protocols_has_two_headings(readers):
    """Columns of the same metric are told apart by split, and where that is the same by protocol."""
    for other, headings in {
        "metric_val_acc_top1_last": ["test accuracy (%)", "validation accuracy (%)"],
        "metric_test_acc_top1_best_val": [
            "test accuracy (%) at the last epoch",
            "test accuracy (%) at the epoch with the best validation accuracy",
        ],
    }.items():
        result = design(BACKBONES, [("ce",)], baseline=None)
        again = [replace(cell, metric=other) for cell in result.cells]
        result = replace(result, metrics=(ACCURACY, other), cells=(*result.cells, *again))
        for name, render in (RENDERERS | {"text": render_text}).items():
            link = ", " if name == "markdown" else " / "
            assert (READERS | readers)[name](render(result))[0][1:] == [f"{heading}{link}ce" for heading in headings], name
        first, second = caption(result).partition(". ")[0].split("; ")
        assert (first.lower().startswith(headings[0]), second.lower().startswith(headings[1])) == (True, True)


def test_bold_groups_and_single_best_differ(readers):
    """Bold marks what the test cannot tell from the best, or the best alone, or nothing, as the style says."""
    bold = {}
    for kind in ("group", "best", "none"):
        _, rows, _ = readers["latex"](render_latex(design(BACKBONES, ARMS, seeds=3, style={"bold": kind})))
        bold[kind] = [is_bold for _, is_bold, _ in rows[0][1]]
    assert bold == {"group": [True, True, False], "best": [False, True, False], "none": [False, False, False]}


def wide(columns=12, **more):
    """A table of many arms with long names, whose rows have long names too."""
    arms = [("ce",), *((f"cam_weight_{0.1 * i:.1f}_detach_off",) for i in range(1, columns))]
    return design(
        [("resnet8",), ("densenet_bc_100_12_with_squeeze_and_excitation_and_a_very_long_name_besides",)],
        arms,
        name=f"wide-{columns}",
        **more,
    )


@pytest.fixture(scope="module")
def typeset(tmp_path_factory):
    """Set tables with pdflatex, each on a page of its own; gives the log and the path of the PDF."""
    if shutil.which("pdflatex") is None or not subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False).stdout:
        pytest.skip("pdflatex with siunitx is not installed")

    def run(tables, version=""):
        folder = tmp_path_factory.mktemp("tex")
        pages = "\n\\clearpage\n".join(tables)
        (folder / "t.tex").write_text(
            "\\documentclass{article}\\usepackage{booktabs}\\usepackage{siunitx}"
            + version
            + "\\begin{document}\n"
            + pages
            + "\n\\end{document}\n",
            encoding="utf-8",
        )
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        return (folder / "t.log").read_text(encoding="utf-8", errors="replace"), folder / "t.pdf"

    return run


@pytest.mark.parametrize("version", ["", "[=v2]"], ids=["siunitx 3", "siunitx 2"])
def test_latex_compiles_and_fits_the_page(arms, typeset, version):
    """Both versions of siunitx set every design in every style, odd letters and wide tables included, without a complaint."""
    spec, trials = arms
    results = [
        build_table(spec | {"name": "odd", "title": 'Odd: _%&|<>#$^~\\{}" [Δ±×λ†é中]', "rows": spec["rows"]}, trials),
        design(
            [("_x_",), ("[a]|b",), ("*50 % & more",)], [("ce",), ("<b>&amp;",), (r"\|",)], name="labels", trouble={"t1-1-0": "/a_b" * 60}
        ),
        *(wide(columns, style=FULL_STYLE) for columns in (8, 12, 25)),
        design([(f"row_{i}",) for i in range(90)], ARMS, name="long", style=FULL_STYLE),
        design([(f"data_{i // 10}", f"net_{i % 10}") for i in range(60)], ARMS, row_fields=("dataset", "backbone"), name="long-groups"),
        *golden_results(GOLDEN),
        *(make(style=style, name=f"{name}-{i}") for name, make in DESIGNS.items() for i, style in enumerate(STYLES.values())),
    ]
    log, pdf = typeset(map(render_latex, results), version)
    assert pdf.stat().st_size > 0
    assert [line for line in log.splitlines() if "undefined" in line or "multiply" in line or "too large" in line] == []
    assert [line for line in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log) if float(line) > 10] == []


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
@pytest.mark.parametrize("version", ["", "[=v2]"], ids=["siunitx 3", "siunitx 2"])
def test_latex_aligns_numbers_on_paper(typeset, version):
    """In the PDF ± stands below ± to a tenth of a point, and the digits before it end there too, bold, dagger and notes or not."""
    result = design(BACKBONES, ARMS, trouble={"t1-1-3": "loss became nan"}, style={"bold": "best"} | FULL_STYLE)
    _, pdf = typeset([render_latex(result)], version)
    page = subprocess.run(["pdftotext", "-bbox", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    words = [
        (float(left), float(right), float(top), text)
        for left, top, right, text in re.findall(r'xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="[\d.]+">(.*)</word>', page)
    ]
    first = min(top for _, _, top, text in words if text.startswith("resnet8"))
    signs = [left for left, _, top, text in words if text == "±" and top > first - 2]
    columns = [[left for left in signs if abs(left - start) < 0.1] for start in sorted({round(left, 1) for left in signs})]
    assert [len(column) for column in columns] == [4, 3, 3]
    assert "U+" not in page
    widths = {right - left for left, right, top, text in words if text == "61.97" and top > first - 2}
    plain = {right - left for left, right, top, text in words if text == "60.86" and top > first - 2}
    assert min(widths) > max(plain) + 1.5, "what is best is not bold"
    bold_pt = 1.8  # two bold digits are that much wider than two others
    for column in columns:
        ends = [max(right for _, right, at, _ in words if abs(at - top) < 1 and right < left) for left, _, top, text in words
                if text == "±" and abs(left - column[0]) < 0.1]  # fmt: skip
        assert max(ends) - min(ends) < bold_pt


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_latex_numbers_stand_under_the_middle_of_a_wide_heading(typeset):
    """A heading wider than the numbers does not push them, or their spread, to one side."""
    _, pdf = typeset([render_latex(design(BACKBONES, [("ce",), ("crossentropywithlabelsmoothing",)], style={"deltas": False}))])
    page = subprocess.run(["pdftotext", "-bbox", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    places = {text: (float(a), float(b)) for a, b, text in re.findall(r'xMin="([\d.]+)" .*?xMax="([\d.]+)" .*?>(.*)</word>', page)}
    heading, left, right = places["crossentropywithlabelsmoothing"], places["61.97"][0], places["0.68"][1]
    assert right - left < 65
    assert sum(heading) / 2 == pytest.approx((left + right) / 2, abs=6)


def test_long_latex_table_goes_on_in_a_further_float(readers):
    """More rows than a page holds: further floats keep the number of the table, and no row is lost or said twice."""
    result = design([(f"row_{i}",) for i in range(90)], ARMS, style=FULL_STYLE)
    source = render_latex(result)
    assert source.count(r"\begin{table}") == source.count(r"\addtocounter{table}{-1}") + 1 > 2
    assert source.count(r"\label{") == 1
    assert readers["latex"](source)[1] == readers["markdown"](render_markdown(result))[1]


def test_latex_names_its_packages_and_the_trials_of_every_cell():
    """The first line says what to load; behind each row stand the trials of its cells, once, also where the table is cut in blocks."""
    result = wide(12)
    source = render_latex(result)
    assert source.startswith("% needs \\usepackage{booktabs} and \\usepackage{siunitx}")
    assert source.count(r"\begin{tabular}") > 1
    for cell in result.cells:
        assert source.count(f"% {cell.row} | {cell.column}: {' '.join(cell.trial_ids)}\n") == 1
    assert "resizebox" not in source


def test_latex_says_of_what_differences_averages_and_ranks_are_computed():
    """A comment each, once: the two cells of a difference, the rows and columns of a closing line."""
    comments = [line for line in render_latex(DESIGNS["several metrics"](style=FULL_STYLE)).splitlines() if line.startswith("% ")]
    for row, metric in itertools.product(("resnet8", "wrn_10_1", "densenet_bc_10_12"), (ACCURACY, NLL, TIME)):
        assert comments.count(f"% Δ and p of {row} | cam | {metric}: these trials and those of {row} | ce") == 1
    rows = "in the rows resnet8; wrn_10_1; densenet_bc_10_12"
    assert comments[-2:] == [
        f"% mean over rows: the trials of the column (Δ: of both columns) {rows}",
        f"% average rank: the trials of all columns {rows}",
    ]
    bare = render_latex(DESIGNS["plain"](style=STYLES["bare"]))
    assert "% Δ" not in bare
    assert "% mean over rows" not in bare


def test_markdown_leads_to_the_json_file_beside_it(tmp_path):
    """The last line is a link to a file that is there and holds the trials."""
    write_tables([DESIGNS["plain"](name="größe.v1")], tmp_path)
    *_, last = (tmp_path / "größe.v1.md").read_text(encoding="utf-8").splitlines()
    (link,) = (token for token in MarkdownIt("commonmark").parseInline(last)[0].children if token.type == "link_open")
    document = json.loads((tmp_path / unquote(link.attrGet("href"))).read_text(encoding="utf-8"))
    assert [cell["trial_ids"][0] for cell in document["cells"]] == [f"t{i}-{j}-0" for i in range(3) for j in range(2)]


@pytest.mark.parametrize("name", ["several metrics", "arms as rows", "all at once", "two column fields"])
def test_every_number_of_a_page_leads_to_the_trials_that_it_is_made_of(readers, tmp_path, name):
    """Differences, p values, averages and ranks too: their links end at a list of trials, or of the cells that they are computed of."""
    result = DESIGNS[name](style=FULL_STYLE)
    text = render_html(result)
    body, listed = text.split("<details>", 1)
    cells = re.findall(r"<td>(.*?)</td>", body)
    assert all(cell.startswith('<a href="#') for cell in cells if cell)
    assert len(re.findall(r"</tr>", body)) > len(result.rows)
    places = dict(re.findall(r'<div id="(cell-[^"]+)">(.*?)</div>', listed, flags=re.DOTALL))
    closing = dict(re.findall(r'<li id="(closing-[^"]+)">(.*?)</li>', listed, flags=re.DOTALL))
    assert set(re.findall(r'"#([^"]+)"', text)) <= {*places, *closing}
    for cell, place in zip(result.cells, places.values(), strict=True):
        assert all(f"trials/{trial_id}.html" in place for trial_id in cell.trial_ids)
        baselines = [places[anchor] for anchor in re.findall(r'"#([^"]+)"', place)]
        assert len(baselines) == (cell.delta is not None)
        if cell.delta is not None:
            base = result.cell(cell.delta.baseline_row, cell.delta.baseline_column, cell.metric)
            assert all(f"trials/{trial_id}.html" in baselines[0] for trial_id in base.trial_ids)
    assert len(closing) == (len(result.columns) * len(result.metrics))
    for text, (metric, column) in zip(closing.values(), itertools.product(result.metrics, result.columns), strict=True):
        behind = [places[anchor] for anchor in re.findall(r'"#(cell-[^"]+)"', text)]
        of_column = [cell for cell in result.cells if (cell.column, cell.metric) == (column, metric) and cell.row in result.complete_rows]
        assert len(behind) == len(result.complete_rows)
        assert all(f"trials/{cell.trial_ids[0]}.html" in place for cell, place in zip(of_column, behind, strict=True))
    trials = pa.Table.from_pylist([{"trial_id": each, "state": "complete"} for each in {t for c in result.cells for t in _all_trials(c)}])
    write_tables([result], tmp_path / "tables")
    write_report(tmp_path / "report", study="made", results=[result], figure_paths=[], trials=trials, provenance={})
    pages = re.findall(r'href="(\.\./[^"]+)"', (tmp_path / "tables/a_table.html").read_text(encoding="utf-8"))
    assert pages
    assert [page for page in pages if not (tmp_path / "tables" / page).is_file()] == []


def _all_trials(cell):
    return [*cell.trial_ids, *(missing.trial_id for missing in cell.missing)]


def test_list_of_what_stands_below_a_column_names_the_lines_that_do():
    """A closing line that the style hides is not spoken of."""
    both, averages, ranks, none = (
        re.findall(r'<li id="closing-a_table-1">([^,]*), of', render_html(design(BACKBONES, ARMS, style={"averages": a, "ranks": b})))
        for a, b in itertools.product((True, False), repeat=2)
    )
    rank = "average rank among the columns of these rows"
    assert (both, averages, ranks, none) == ([f"ce: mean over rows and {rank}"], ["ce: mean over rows"], [f"ce: {rank}"], [])


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ({}, "mean 60.86 %, sample SD 0.66 %, n = 8"),
        ({"spread": "se", "decimals": 3}, "mean 60.861 %, sample SD 0.662 %, standard error 0.234 %, n = 8"),
        ({"spread": "ci"}, "mean 60.86 %, sample SD 0.66 %, half the 95 % t interval 0.55 %, n = 8"),
        ({"spread": "none", "decimals": 0}, "mean 61 %, n = 8"),
    ],
)
def test_what_a_number_is_made_of_says_what_each_figure_is(style, text):
    """Spreads are called by their names, with the digits of the table, and left out where it shows none; ± stands in the table only."""
    page = render_html(design(BACKBONES, ARMS, style=style))
    assert f"<dt>resnet8 / ce: {text}</dt>" in page
    values = re.findall(r"<dd>seed \d+: (\S+) %", page)
    assert {len(value.partition(".")[2]) for value in values} == {2 if style.get("decimals") is None else style["decimals"]}
    assert "±" not in page.split("<details>")[1]


def test_html_page_is_accessible_and_needs_no_network(arms, readers):
    """The page has a caption, a scope on every header cell, and refers to nothing outside itself."""
    page = readers["page"](render_html(build_table(*arms)))
    assert page.captions == 1
    assert page.scopes[:7] == ["col"] * 4 + ["row"] * 3
    assert [reference for reference in page.references if not reference.startswith(("#", "../report/"))] == []


def test_terminal_table_aligns_spreads_of_unequal_length(make_spec, make_trials):
    """± stands below ± whatever the number of digits on either side of it."""
    spec = make_spec(["a", "b", "c"], ["ce"], [0, 1])
    values = {("a", "ce"): [0.01, 0.9], ("b", "ce"): [0.05, 0.06], ("c", "ce"): [0.99, 1.01]}
    lines = [line for line in render_text(build_table(spec, make_trials(spec, values))).splitlines() if line[:1] in "abc" and "±" in line]
    assert len(lines) == 3
    assert len({line.index("±") for line in lines}) == 1
    assert len({line.rindex(".") for line in lines}) == 1


def test_terminal_heading_of_one_narrow_column_is_whole():
    """A column is at least as wide as the heading of the group that it stands for."""
    text = render_text(design(BACKBONES, [("ce",)], metrics=(ACCURACY, TIME), seeds=1, baseline=None, style={"decimals": 0}), width=50)
    assert "acc_top1 (%)" in text
    assert "training time" in text


@SETTINGS
@given(columns=st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 6))), room=st.integers(4, 12))
def test_blocks_keep_order_fit_and_do_not_split_groups_in_vain(columns, room):
    """Blocks hold the columns in order, fit unless one column does not, and a group that fits one block is in one."""

    def fits(block):
        return sum(width for _, width in block) <= room

    blocks = in_blocks(columns, lambda column: column[0], fits)
    assert [column for block in blocks for column in block] == columns
    assert all(fits(block) or len(block) == 1 for block in blocks)
    assert all(not fits([*block, following[0]]) or following[0][0] for block, following in itertools.pairwise(blocks))
    edges = set(itertools.accumulate(map(len, blocks)))
    at = 0
    for name, members in itertools.groupby(columns, key=lambda column: column[0]):
        group = list(members)
        if name and fits(group):
            assert not edges & set(range(at + 1, at + len(group)))
        at += len(group)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("make", [*DESIGNS.values(), wide], ids=[*DESIGNS, "wide"])
def test_terminal_table_keeps_to_the_width(readers, make, width):
    """Wide tables go into further blocks that repeat the row labels, each within the width; no number and no word is lost."""
    result = make(style=FULL_STYLE)
    text = render_text(result, width=width)
    assert max(map(len, text.splitlines())) <= width
    whole = render_text(result, width=10_000)
    table, again = ("".join(each.partition("\n\n")[2].split()).replace("-", "") for each in (whole, text))
    assert all(again.count(character) >= table.count(character) for character in set(table))
    if make is not wide:  # its row labels are broken
        assert READERS["text"](text)[1] == READERS["text"](whole)[1]


def test_caption_names_metric_protocol_seeds_baseline_and_settings(arms):
    """The caption holds all that is needed to read the table."""
    assert caption(build_table(*arms)) == (
        "Test accuracy (%) at the last epoch. Mean ± sample SD over n = 3 seeds. Δ: difference to the baseline ce in percentage points, "
        "paired by seed. No difference to the baseline is significant (two-sided sign-flip test, α = 0.05). With 3 seeds no two-sided "
        "sign-flip test can go below p = 0.25. Bold: best in its row, and what the same test cannot tell from it (Holm's correction within "
        "the row). No mean over rows: 1 of 3 rows is complete. Fixed: dataset = cluttered_digits, epochs = 8."
    )


def test_caption_ties_each_metric_of_a_cell_to_the_heading_of_its_columns(readers):
    """What the caption calls a metric stands above its columns, with the unit."""
    result = DESIGNS["several metrics"]()
    words = caption(result).partition(". ")[0].split("; ")
    assert words == ["acc_top1: test accuracy (%) at the last epoch", "nll: test negative log-likelihood (nats) at the last epoch",
                     "Training time (s)"]  # fmt: skip
    headers, _, _ = readers["html"](render_html(result))
    assert [header.partition(" / ")[0].lower() for header in headers[1::3]] == ["acc_top1 (%)", "nll (nats)", words[2].lower()]


def test_caption_names_the_baseline_where_no_difference_is_shown():
    """Without columns of differences the sentence on significance says what is compared with what."""
    few = DESIGNS["plain"](seeds=3, style={"deltas": False})
    assert "No difference to the baseline ce is significant (" in caption(few)
    assert "†: differs from the baseline ce (" in caption(DESIGNS["plain"](style={"deltas": False}))
    assert "†: differs from the baseline (" in caption(DESIGNS["plain"]())  # behind 'Δ: difference to the baseline ce'


@pytest.mark.parametrize(
    ("failed", "rows", "style", "sentence"),
    [
        (2, 3, {}, "No mean over rows: 1 of 3 rows is complete."),
        (3, 3, {}, "No mean over rows: none of 3 rows is complete."),
        (2, 3, FULL_STYLE, "No mean over rows and no average rank: 1 of 3 rows is complete."),
        (2, 3, {"averages": False}, None),
        (1, 3, FULL_STYLE, None),
        (0, 1, {}, None),
        (0, 1, FULL_STYLE, "No average rank: the table has one row."),
    ],
)
def test_caption_says_why_a_closing_line_is_not_there(failed, rows, style, sentence):
    """Where fewer than two rows are complete, of the lines that the style asks for; else nothing."""
    result = design(BACKBONES[:rows], ARMS, trouble={f"t{i}-0-0": "killed" for i in range(failed)}, style=style)
    assert re.findall(r"No (?:mean over rows|average rank).*?\.", caption(result)) == ([sentence] if sentence else [])


def test_caption_gives_no_reason_for_a_mean_over_datasets_that_never_is():
    """Rows on different data are not averaged, complete or not."""
    rows = [("birds",), ("cars",)]
    result = design(rows, ARMS, row_fields=("dataset",), trouble={"t0-0-0": "killed"}, style=FULL_STYLE)
    assert re.findall(r"No (?:mean|average).*?\.", caption(result)) == ["No average rank: 1 of 2 rows is complete."]


def test_caption_explains_a_number_that_is_not_bold_and_has_no_dagger(make_spec, make_trials):
    """Told from the best by the correction within the row, not after that over the table: said where it happens, and only there."""
    words = "Fewer comparisons share that correction than the table's, so a number may fall behind the best of its row without a †."
    rows = [f"r{i}" for i in range(8)]  # 8 x 2 / 2^8 > 0.05, 1 x 2 / 2^8 is not
    spec = make_spec(rows, ["ce", "cam"], range(8), baseline="ce")
    values = {(row, "ce"): [0.5 + 0.01 * i for i in range(8)] for row in rows}
    better = {(row, "cam"): [0.52 + 0.011 * i for i in range(8)] for row in rows}
    told = build_table(spec, make_trials(spec, values | better))
    assert [(cell.top, cell.delta and cell.delta.significant) for cell in told.cells[:2]] == [(False, None), (True, False)]
    assert words in caption(told)
    assert "may fall behind" not in caption(replace(told, style=told.style | {"bold": "best"}))
    found = build_table(spec | {"statistics": {"alpha": 0.1}}, make_trials(spec, values | better))
    assert found.cells[1].delta.significant
    assert "may fall behind" not in caption(found)
    equal = build_table(spec, make_trials(spec, values | {(row, "cam"): values[row, "ce"] for row in rows}))
    assert "may fall behind" not in caption(equal)


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
    marks = ",".join(marks for _, _, marks in rows[1][1])
    assert any("best test accuracy" in notes[mark] for mark in marks.split(","))
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
