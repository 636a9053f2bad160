"""Published numbers in a finished table: what caption and notes say of them, and the digits that are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from pipeline.analysis.layout import Grid, lay_out
from pipeline.analysis.published import find
from pipeline.analysis.tables import build_table
from pipeline.analysis.wording import caption

ISDA = {"table": "ISDA_T2", "dataset": "CIFAR-100", "method": "CE_baseline"}
Build = Callable[..., Grid]


@pytest.fixture(name="grid")
def grid_fixture(make_spec: Callable[..., dict[str, Any]], make_trials: Callable[..., pa.Table]) -> Build:
    """A table of CIFAR-100 with the backbones `rows` and one reference column, laid out; keywords replace parts of its plan."""

    def grid(rows: list[str], where: dict[str, str], names: dict[str, str] | None = None, *, by: Any = "backbone", **changes: Any) -> Grid:
        reference = {"P": {"where": where, "by": by, "names": names or {}}}
        fixed = {"dataset": "cifar100", "epochs": 8}
        spec = make_spec(rows, ["ce"], [0, 1], **{"reference": reference, "fixed": fixed} | changes)
        return lay_out(build_table(spec, make_trials(spec, {(row, "ce"): [0.7, 0.71] for row in rows})))

    return grid


def notes(grid: Grid) -> dict[str, str]:
    """Row -> the note at its published number."""
    texts = dict(grid.notes)
    column = next(index for index, each in enumerate(grid.columns) if each.kind == "published")
    return {line.label: texts[line.entries[column].marks[0]] for line in grid.lines if line.kind == "row"}


def printed(grid: Grid) -> list[str]:
    """The published numbers, from top to bottom."""
    column = next(index for index, each in enumerate(grid.columns) if each.kind == "published")
    return [line.entries[column].text for line in grid.lines if line.kind == "row"]


def protocols(grid: Grid) -> str:
    """What the caption says of protocols; '' for nothing."""
    return next((f"Protocols{part}" for part in grid.caption.split("Protocols")[1:]), "").partition(" Fixed:")[0]


def test_a_note_says_what_the_row_does_not(grid: Build) -> None:
    """Backbone, dataset, task and teacher as published, each where the row has it otherwise; short where all agree."""
    (short,) = notes(grid(["ResNet-110"], ISDA)).values()
    assert short.startswith("CE_baseline, github.com/")
    (other,) = notes(grid(["resnet8"], ISDA, {"resnet8": "ResNet-110"}, fixed={"dataset": "d1"})).values()
    assert other.startswith("CE_baseline (backbone ResNet-110, dataset CIFAR-100), github.com/")
    crd = {"table": "CRD", "dataset": "CIFAR-100", "method": "KD", "teacher": "resnet56"}
    (distilled,) = notes(grid(["resnet20"], crd)).values()
    assert distilled.startswith("KD (task kd, teacher resnet56), github.com/")
    (spelled,) = notes(grid(["resnet110"], ISDA, {"resnet110": "ResNet-110"})).values()
    assert spelled.startswith("CE_baseline (backbone ResNet-110), "), "two spellings of a backbone can be two networks"


def test_what_the_table_says_itself_is_not_said_again(make_spec: Callable[..., dict[str, Any]], grid: Build) -> None:
    """The row's label, the name inside a level with options, and a setting that all cells share all count as said."""
    (by_label,) = notes(grid(["ResNet-110"], ISDA, levels={"ResNet-110": {"name": "resnet", "depth": 110}})).values()
    assert by_label.startswith("CE_baseline, ")
    named = {"levels": {"deep": {"name": "ResNet-110", "dropout": 0.1}}}
    (by_level,) = notes(grid(["deep"], ISDA, {"deep": "ResNet-110"}, **named)).values()
    assert by_level.startswith("CE_baseline, ")
    where = {"table": "ISDA_T2", "dataset": "CIFAR-100", "backbone": "ResNet-110"}
    for backbone, start in (("ResNet-110", "ISDA, "), ("resnet8", "ISDA (backbone ResNet-110), ")):
        cells = make_spec(["ISDA"], ["ce"], [0, 1])["cells"]
        changes = {"cells": [cell | {"row_levels": {"loss": "ISDA"}} for cell in cells], "row_fields": ["loss"]}
        fixed = {"dataset": "cifar100", "backbone": backbone}
        (by_setting,) = notes(grid(["ISDA"], where, by="loss", fixed=fixed, **changes)).values()
        assert by_setting.startswith(start)


def test_another_dataset_is_said_in_the_caption(make_spec: Callable[..., dict[str, Any]], grid: Build) -> None:
    """Unless it is spelled alike but for case and hyphens, or `names` says that the two are one, which a note still names."""
    rows, names = ["resnet8", "resnet20"], {"resnet8": "ResNet-110", "resnet20": "ResNet-32"}
    assert "Other dataset" not in grid(rows, ISDA, names).caption
    other = grid(rows, ISDA, names, fixed={"dataset": "d1"})
    assert " of the table. Other dataset: P (published) on CIFAR-100, this table on d1. Protocols" in other.caption
    reference = {header: {"where": ISDA, "by": "backbone", "names": names} for header in ("P", "Q")}
    both = grid(rows, ISDA, fixed={"dataset": "d1"}, reference=reference).caption
    assert "Other dataset: P (published) and Q (published) on CIFAR-100, this table on d1." in both
    cells = make_spec(["D"], ["ce"], [0, 1])["cells"]
    cells = [cell | {"row_levels": {"dataset": "d1", "backbone": "ResNet-110"}} for cell in cells]
    labelled = {"row_fields": ["dataset", "backbone"], "row_parts": [["D", "ResNet-110"]], "cells": cells, "fixed": {}}
    assert " this table on D. " in grid(["D"], ISDA, **labelled).caption
    assert "Other dataset" not in grid(rows, ISDA, names, fixed={}).caption, "nobody says on which data this table is"
    where = {"table": "ISDA_T2", "method": "CE_baseline", "backbone": "ResNet-110"}
    changes = {"row_fields": ["dataset"], "fixed": {"backbone": "ResNet-110"}}
    claimed = grid(["d1"], where, {"d1": "CIFAR-100"}, by="dataset", **changes)
    assert "Other dataset" not in claimed.caption
    assert notes(claimed)["d1"].startswith("CE_baseline (dataset CIFAR-100), ")


@pytest.mark.parametrize(
    ("selection", "where", "names", "said"),
    [
        ("best_test", {"table": "mdistiller_README", "method": "DKD", "teacher": "ResNet56"}, {"a": "ResNet20"}, ""),
        ("last", {"table": "CRD", "method": "KD", "teacher": "resnet56"}, {"a": "resnet20"}, ""),
        (
            "last",
            {"table": "mdistiller_README", "method": "DKD", "teacher": "ResNet56"},
            {"a": "ResNet20"},
            "Protocols are mixed: this table shows the last epoch, the published numbers the best test epoch.",
        ),
        (
            "best_val",
            {"table": "CRD", "method": "KD", "teacher": "resnet56"},
            {"a": "resnet20"},
            "Protocols are mixed: this table shows the best validation epoch, the published numbers the last epoch.",
        ),
        (
            "last",
            ISDA,
            {"a": "ResNet-110"},
            "Protocols may be mixed: this table shows the last epoch; the epoch of the published numbers is not known.",
        ),
        (
            "last",
            {"table": "hysts", "dataset": "CIFAR-10"},
            {"a": "ResNet-preact-110", "b": "DenseNet-100 (k=12)"},
            "Protocols are mixed: this table shows the last epoch, the published numbers the median of 3 runs and an unknown epoch.",
        ),
    ],
)
def test_protocols_are_mixed_only_where_they_are(
    grid: Build, selection: str, where: dict[str, str], names: dict[str, str], said: str
) -> None:
    """'best' is `best_test`; what is not known is not said to differ."""
    for name in names.values():
        find({**where, "backbone": name})
    assert protocols(grid(list(names), where, names, selection=selection)) == said


def test_known_and_unknown_epochs_in_one_table(grid: Build) -> None:
    """Where some numbers are of the table's own epoch, only the others are in doubt."""
    crd = {"where": {"table": "CRD", "method": "KD", "teacher": "resnet56"}, "by": "backbone", "names": {"a": "resnet20"}}
    isda = {"where": ISDA, "by": "backbone", "names": {"a": "ResNet-110"}}
    said = protocols(grid(["a"], ISDA, reference={"CRD": crd, "ISDA": isda}))
    assert said == "Protocols may be mixed: this table shows the last epoch; the epoch of some published numbers is not known."


def test_a_row_without_a_published_number_says_so(grid: Build) -> None:
    """Two dashes with a note, beside rows that have one."""
    table = grid(["resnet8", "ResNet-110", "resnet20"], ISDA)
    assert printed(table) == ["--", "71.33 ± 0.44", "--"]
    assert notes(table)["resnet8"] == notes(table)["resnet20"] == "no published number for this row"


@pytest.mark.parametrize("style", [{"decimals": 0}, {"decimals": 4}, {"spread": "se"}, {"spread": "ci", "decimals": 1}])
def test_published_digits_are_those_of_the_source(grid: Build, style: dict[str, Any]) -> None:
    """Style rounds the table's own numbers only, so that no published SD becomes 0; the note says what the ± is."""
    table = grid(["WRN-28-10"], {"table": "Cutout_README", "dataset": "CIFAR-100", "method": "CE_baseline"}, style=style)
    assert printed(table) == ["81.2"]
    table = grid(["ResNet-110"], ISDA, style=style)
    assert printed(table) == ["71.33 ± 0.44"]
    assert "; n = 5; ± SD over runs; " in notes(table)["ResNet-110"]


def test_no_spread_is_none_of_published_numbers_either(grid: Build) -> None:
    """Neither ± nor a word on what it is."""
    table = grid(["ResNet-110"], ISDA, style={"spread": "none"})
    assert printed(table) == ["71.33"]
    assert "±" not in notes(table)["ResNet-110"]


def test_a_table_without_cells_has_no_reference_column(
    make_spec: Callable[..., dict[str, Any]], make_trials: Callable[..., pa.Table]
) -> None:
    """As while its dataset is not prepared: under which metric the numbers belong is not known."""
    spec = make_spec(["ResNet-110"], ["ce"], [0], reference={"P": {"where": ISDA, "by": "backbone"}})
    trials = make_trials(spec, {("ResNet-110", "ce"): [0.7]})
    assert build_table(spec, trials).published
    result = build_table(spec | {"cells": []}, trials)
    assert result.published == ()
    assert "Published" not in caption(result)
