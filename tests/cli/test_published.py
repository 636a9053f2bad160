"""`ablate published`: tables, numbers, sources."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from pipeline.analysis.published import find, load_published
from pipeline.cli import app
from pipeline.errors import UnknownNameError


def said(*arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["published", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def cells(text: str) -> list[list[str]]:
    """The rows of a printed table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_without_filters_the_tables_are_listed() -> None:
    """Each with its counts by protocol and runs; they add up to all numbers."""
    entries = json.loads(said("--json"))
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry["table"]] += entry["numbers"]
    assert counts == Counter(row.table for row in load_published())
    text = said()
    assert text == said(" ")
    assert ["Cutout_README", "4", "unknown", "3", "", "CIFAR-10, CIFAR-100, SVHN"] in cells(text)
    assert ["CloserLook_backbone", "120", "unknown", "?", "ci95", "CUB-200-2011, mini-ImageNet"] in cells(text)
    assert text.endswith("1116 numbers in 28 tables. `ablate published --table NAME` shows one.\n")


def test_filters_and_words_choose_numbers() -> None:
    """All filters hold at once; words look in what the filters leave; JSON says which values are fractions."""
    where = {"table": "ISDA_T2", "dataset": "CIFAR-100", "backbone": "ResNet-110", "method": "ISDA"}
    (entry,) = json.loads(said(*(part for field, name in where.items() for part in (f"--{field}", name)), "--json"))
    (row,) = find(where)
    assert (entry["value"], entry["spread"], entry["spread_kind"], entry["n"], entry["is_fraction"]) == (row.value, 0.0046, "sd", 5, True)
    words = json.loads(said("bottleneck", "--dataset", "CIFAR-100", "--method", "CE_baseline", "--json"))
    assert [(each["backbone"], each["value"]) for each in words] == [("ResNet-44", 0.7473), ("ResNet-56", 0.7518), ("ResNet-110", 0.7627)]
    assert json.loads(said("", "--method", "EEKD (teacher-student gap)", "--json"))[0]["is_fraction"] is False


def test_each_number_leads_to_its_source() -> None:
    """Value with its spread, protocol and runs; the source, how the protocol is known and the note stand below, once each."""
    text = said("--table", "hysts")
    *_, last = (line for line in text.splitlines() if line.startswith("["))
    assert last.startswith(
        "[3] github.com/hysts/pytorch_image_classification@01bf0ed:README.md (1 run, cosine). Protocol: the README says 1 run"
    )
    assert [
        "hysts",
        "CIFAR-10",
        "classification",
        "ResNet-110",
        "CE_baseline",
        "acc_top1",
        "93.48 %",
        "median of 3 runs",
        "3",
        "[1]",
    ] in cells(text)
    line = cells(said("--table", "ISDA_T2", "--backbone", "ResNet-110", "--dataset", "CIFAR-100", "--method", "CE_baseline"))[0]
    assert line[6:] == ["71.33 ± 0.44 % (sd)", "unknown", "5", "[1]"]
    gap = said("--table", "EEKD_summary")
    assert cells(gap)[0][4:8] == ["ResNet-34", "none (teacher-student gap)", "top1_gap_points", "3.56"]
    assert "Note: secondary source; percentage points between teacher and student, not an accuracy." in gap


def test_a_name_that_nobody_published_is_an_error_for_the_user() -> None:
    """With the nearest."""
    with pytest.raises(UnknownNameError, match="Did you mean 'CIFAR-100'"):
        said("--dataset", "CIFAR100")
