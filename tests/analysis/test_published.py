"""Published numbers: that they are the collected ones, how they are read, found and set beside the rows of a table."""

from __future__ import annotations

import csv
import hashlib
import math
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from pipeline.analysis.published import FIELDS, Published, find, load_published, match_column, published_columns, search
from pipeline.errors import ConfigError, UnknownNameError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "published.csv"
DIGEST = "b5b3a35a9dcb033c0cedd51c7abe75efe59d1977c734b7a5566abb6cab49273f"
PACKAGE = resources.files("pipeline.analysis.published")
ISDA = {"table": "ISDA_T2", "dataset": "CIFAR-100", "method": "CE_baseline"}


def raw(file: str) -> list[dict[str, str]]:
    """The rows of one of the two files, as text."""
    with (ROOT / "pipeline" / "analysis" / "published" / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def one(**where: str) -> Published:
    """The only published number with these fields."""
    (row,) = find(where)
    return row


def near(value: float | None, expected: float) -> bool:
    return value is not None and math.isclose(value, expected, rel_tol=0, abs_tol=1e-12)


def test_the_numbers_are_the_collected_ones() -> None:
    """Byte for byte: the digest was taken when they were collected."""
    assert hashlib.sha256(PACKAGE.joinpath("published.csv").read_bytes()).hexdigest() == DIGEST


@pytest.mark.skipif(not REFERENCE.exists(), reason="the collection is not beside this project")
def test_the_numbers_are_those_of_the_collection() -> None:
    """The file that they were copied from has not changed since."""
    assert PACKAGE.joinpath("published.csv").read_bytes() == REFERENCE.read_bytes()


def test_both_files_go_into_the_wheel(tmp_path: Path) -> None:
    """A wheel built with the configuration of this project has them, byte for byte."""
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(ROOT / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        for name in ("published.csv", "sources.csv"):
            assert packed.read(f"pipeline/analysis/published/{name}") == PACKAGE.joinpath(name).read_bytes()


def test_nothing_is_lost_in_reading() -> None:
    """One number a row, in order, its words as they stand in the file; no two agree in all of them."""
    rows = load_published()
    assert [{field: getattr(row, field) for field in (*FIELDS, "source")} for row in rows] == [
        {field: line[field] for field in (*FIELDS, "source")} for line in raw("published.csv")
    ]
    assert len({tuple(getattr(row, field) for field in FIELDS) for row in rows}) == len(rows) == 1116


def test_every_table_has_sources_that_end_in_one_for_all() -> None:
    """Each table of either file is in the other; the last entry of a table has no condition, and every entry covers a number."""
    sources = raw("sources.csv")
    assert {line["source_table"] for line in sources} == {line["table"] for line in raw("published.csv")}
    last = {line["source_table"]: line["where"] for line in sources}
    assert {table for table, where in last.items() if where} == {"hysts"}  # its rows name the runs one by one
    used = {(row.table, row.protocol, str(row.n or ""), row.evidence) for row in load_published()}
    assert {(line["source_table"], line["protocol"], line["n"], line["evidence"]) for line in sources} == used
    conditions = [line["where"] for line in sources if line["where"]]
    assert all(part.partition("=")[0] in (*FIELDS, "std", "source") for where in conditions for part in where.split(" & "))


def test_protocols_runs_and_spreads_are_the_known_kinds() -> None:
    """A protocol is a word the documentation has; every group says in words how it is known."""
    for row in load_published():
        assert row.protocol in {"last", "best", "median of 3 runs", "median of last 10 epochs", "unknown"}
        assert row.n in {None, 1, 3, 4, 5}
        assert row.evidence
        assert (row.spread is None) == (row.spread_kind == "")
        assert row.spread_kind in {"", "sd", "ci95"}


def test_every_value_is_in_range() -> None:
    """Fractions lie in [0, 1], points in [0, 100], a spread is a small part of it; no accuracy is below chance."""
    for row in load_published():
        assert 0 < row.value < (1 if row.is_fraction else 100)
        assert row.quantity not in ("acc_top1", "acc_top5") or row.value > 0.4
        assert row.spread is None or 0 < row.spread < 0.02


@pytest.mark.parametrize(
    ("where", "value", "quantity", "spread"),
    [
        (
            {"table": "ISDA_T2", "dataset": "CIFAR-100", "backbone": "DenseNet-BC-100-12", "method": "CE_baseline"},
            0.7739,
            "acc_top1",
            0.0010,
        ),
        ({"table": "CRD", "backbone": "wrn-16-2", "teacher": "wrn-40-2", "method": "KD"}, 0.7492, "acc_top1", None),
        ({"table": "weiaicunzai", "backbone": "mobilenet", "metric": "top5_err"}, 0.8944, "acc_top5", None),
        ({"table": "LogitStd_T3", "backbone": "ResNet34", "metric": "top5_acc"}, 0.9142, "acc_top5", None),
        (
            {
                "table": "CloserLook_backbone",
                "dataset": "CUB-200-2011",
                "task": "fewshot_5way_1-shot",
                "backbone": "Conv-4",
                "method": "Baseline",
            },
            0.4712,
            "acc",
            0.0074,
        ),
        ({"table": "WSOL_eval", "dataset": "CUB-200-2011", "backbone": "VGG16", "method": "CAM"}, 0.637, "MaxBoxAccV2", None),
        ({"table": "WSOL_eval", "dataset": "OpenImages30k", "backbone": "VGG16", "method": "CAM"}, 0.583, "PxAP", None),
        ({"table": "PsyNet_README", "dataset": "CUB-200-2011", "method": "PsyNet (paper)"}, 0.8378, "loc_IoU0.5", None),
        ({"table": "CutMix_README_transfer", "method": "CutMix", "metric": "loc_acc"}, 0.5481, "loc_acc", None),
        ({"table": "unofficial_CAMloss", "method": "CE", "metric": "best_acc_fraction"}, 0.988, "acc_top1", None),
        ({"table": "unofficial_CAMloss", "method": "CE", "metric": "best_macroF1_fraction"}, 0.9883, "best_macroF1_fraction", None),
    ],
)
def test_accuracies_and_errors_become_fractions(where: dict[str, str], value: float, quantity: str, spread: float | None) -> None:
    """Each kind of metric, against what stands in the source, turned by hand."""
    row = one(**where)
    assert near(row.value, value)
    assert row.quantity == quantity
    assert row.is_fraction
    assert row.spread is None if spread is None else near(row.spread, spread)


@pytest.mark.parametrize(
    ("metric", "method", "task", "value"),
    [
        ("mAP", "CutMix", "transfer_detection_SSD", 77.6),
        ("BLEU-4", "CutMix", "transfer_captioning", 24.9),
        ("loc_pct_as_in_README", "CutMix", "wsol", 46.25),
        ("top1_gap_points", "EEKD (teacher-student gap)", "kd", 1.64),
    ],
)
def test_what_is_no_share_stays_as_published(metric: str, method: str, task: str, value: float) -> None:
    """Points and differences keep the published scale and say so."""
    row = find({"metric": metric, "method": method, "task": task})[0]
    assert (row.value, row.quantity, row.is_fraction) == (value, metric, False)


@pytest.mark.parametrize(
    ("where", "protocol", "n", "kind"),
    [
        ({"table": "CRD", "backbone": "resnet8x4", "method": "KD"}, "last", None, ""),
        ({"table": "CRD_teachers", "backbone": "resnet56"}, "last", None, ""),
        ({"table": "mdistiller_README", "backbone": "ResNet8x4", "method": "DKD"}, "best", None, ""),
        ({"table": "mdistiller_README", "backbone": "ResNet8x4", "method": "KD"}, "unknown", None, ""),
        ({"table": "ISDA_T2", "dataset": "CIFAR-10", "backbone": "ResNet-32", "method": "ISDA"}, "unknown", 5, "sd"),
        ({"table": "ISDA_T4", "dataset": "CIFAR-10", "backbone": "Shake-Shake (26, 2x112d)", "method": "Cutout"}, "unknown", None, ""),
        ({"table": "Cutout_README", "dataset": "SVHN", "method": "Cutout"}, "unknown", 5, ""),
        ({"table": "Cutout_README", "dataset": "CIFAR-10", "backbone": "Shake-Shake", "method": "Cutout"}, "unknown", 3, ""),
        ({"table": "hysts", "backbone": "ResNet-110"}, "median of 3 runs", 3, ""),
        ({"table": "hysts", "backbone": "DenseNet-100 (k=12)"}, "unknown", 1, ""),
        ({"table": "hysts", "method": "Cutout 16 200ep"}, "unknown", 1, ""),
        (
            {"table": "OpenMixup", "backbone": "ResNet-18", "dataset": "CIFAR-10", "method": "CutMix 200ep"},
            "median of last 10 epochs",
            None,
            "",
        ),
        ({"table": "weiaicunzai", "backbone": "resnet18", "metric": "top1_err"}, "unknown", 1, ""),
        (
            {
                "table": "CloserLook_backbone",
                "dataset": "mini-ImageNet",
                "task": "fewshot_5way_5-shot",
                "backbone": "Conv-4",
                "method": "MAML",
            },
            "unknown",
            None,
            "ci95",
        ),
        ({"table": "LogitStd_T2", "backbone": "ResNet8x4", "method": "KD+LogitStd"}, "unknown", 4, ""),
        ({"table": "LogitStd_T2", "backbone": "ResNet8x4", "method": "CRD"}, "unknown", None, ""),
        ({"table": "unofficial_CAMloss", "method": "CE", "metric": "best_acc_fraction"}, "best", 1, ""),
    ],
)
def test_protocol_and_runs_are_those_of_the_row(where: dict[str, str], protocol: str, n: int | None, kind: str) -> None:
    """Also within a table whose rows are of several kinds; what is not known stays unknown."""
    row = one(**where)
    assert (row.protocol, row.n, row.spread_kind) == (protocol, n, kind)


def test_notes_warn_of_what_is_odd_about_a_row() -> None:
    """Wrong column labels, images, secondary sources, copied and contradicting numbers."""
    for table in ("mdistiller_README", "ExpKD_README"):
        notes = [row.note for row in find({"table": table, "backbone": "MobileNet-V2", "teacher": "ResNet32x4"})]
        assert len(notes) == 2
        assert all("README column header says MobileNet-V2; KD value 74.45" in note for note in notes)
        assert "ShuffleNet-V2" not in one(table=table, backbone="MobileNet-V2", teacher="VGG13", method="KD").note
    for row in load_published():
        assert ("read from image" in row.source) == ("read from an image" in row.note)
        assert ("secondary source" in row.source) == ("secondary source" in row.note)
    assert one(table="KDpp_README", backbone="ResNet-8x4", method="DKD").note == "* = reproduced by those authors"
    assert {row.note for row in find({"table": "CRD"})} == {""}


def test_values_said_to_be_those_of_crd_are() -> None:
    """Notes that speak of the same or another number in RepDistiller's README agree with that README's rows, and none is missing."""

    def key(row: Published) -> tuple[str, str, str]:
        return (row.backbone.lower().replace("-", ""), row.teacher.lower().replace("-", ""), row.method)

    crd = {key(row): row.value for row in load_published() if row.table == "CRD"}
    shared = [row for row in load_published() if row.table != "CRD" and row.task == "kd" and row.dataset == "CIFAR-100" and key(row) in crd]
    differing = [row for row in shared if row.value != crd[key(row)]]
    assert [row for row in differing if f"RepDistiller's README has {crd[key(row)]:.2%} here".replace("%", "") not in row.note] == []
    assert len(differing) == 3
    copied = [row for row in shared if "that CRD has too are the same" in row.note]
    assert {row.table for row in copied} == {"mdistiller_README", "ExpKD_README"}
    assert not set(copied) & set(differing)


def test_no_number_of_the_cam_loss_paper_is_pretended() -> None:
    """The only rows that name CAM-loss are of an unofficial reimplementation, and say so."""
    rows = search("cam-loss", load_published())
    assert {row.table for row in rows} == {"unofficial_CAMloss"}
    assert all("not the authors' code" in row.note for row in rows)


@hypothesis.given(row=st.sampled_from(load_published()), fields=st.lists(st.sampled_from(FIELDS), unique=True, max_size=len(FIELDS)))
def test_find_agrees_with_a_plain_filter(row: Published, fields: list[str]) -> None:
    """Whatever the fields and their order: exactly the rows that agree in all of them, and all seven give one."""
    where = {field: getattr(row, field) for field in fields}
    expected = [each for each in load_published() if all(getattr(each, field) == name for field, name in where.items())]
    assert find(where) == expected
    assert row in expected
    assert len(find({field: getattr(row, field) for field in FIELDS})) == 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"tabel": "CRD"}, "Unknown field 'tabel' in published numbers. Did you mean 'table'?"),
        ({"dataset": "CIFAR100", "table": "ISDA_T2"}, "Unknown dataset 'CIFAR100' in published numbers, table 'ISDA_T2'. Did you mean 'CIFAR-100'? Known: CIFAR-10, CIFAR-100. It is written 'CIFAR-100' there."),  # noqa: E501
        ({"table": "isda_t2", "backbone": "WRN-16-8"}, "It is written 'ISDA_T2' there."),
        ({"table": "isda_t2", "backbone": "WRN-16-8"}, "Known: Cutout_README, ISDA_T2."),
        ({"table": "hysts", "dataset": "CIFAR-100"}, "Known: CIFAR-10."),
        ({"table": "ISDA_T2", "teacher": "resnet56"}, "Known: ''."),
        ({"dataset": "CIFAR-1O", "method": "CutMx"}, "Unknown dataset 'CIFAR-1O' in published numbers, method 'CutMx'. Did you mean"),
        ({"method": "CutMx"}, "Did you mean 'CutMix'?"),
        ({"method": "CutMx"}, "These are the nearest of 96; `ablate published` shows them all."),
        ({"backbone": "mobilenet-v2"}, "It is written 'MobileNet-V2' or 'MobileNetV2' or 'mobilenetv2' there."),
        ({"table": None}, "Unknown table None"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_answered_with_those_that_are(where: dict[str, Any], message: str) -> None:
    """Nearest name, the names under the other filters, and how it is written there."""
    with pytest.raises(UnknownNameError) as caught:
        find(where)
    assert message in str(caught.value)


def test_search_wants_every_word_somewhere() -> None:
    """In a field, the source or the note, whatever the case; a word that is nowhere is named with the nearest."""
    rows = search("CUTOUT svhn", load_published())
    assert {(row.table, row.dataset) for row in rows} == {("Cutout_README", "SVHN")}
    assert {row.table for row in search("bottleneck cifar-100", load_published())} == {"RandomErasing_README"}
    with pytest.raises(ConfigError, match=r"has the word 'cutmxi'. Did you mean 'cutmix'\?"):
        search("cifar-100 cutmxi", load_published())
    with pytest.raises(ConfigError, match="all words of 'svhn imagenet' at once"):
        search("svhn imagenet", load_published())


def test_a_column_has_the_number_of_each_row() -> None:
    """By backbone, with our names for theirs; None where theirs has no such network."""
    spec = {"where": ISDA, "by": "backbone", "names": {"resnet110": "ResNet-110", "densenet_bc_100_12": "DenseNet-BC-100-12"}}
    rows = [{"backbone": name} for name in ("densenet_bc_100_12", "resnet8", "resnet110")]
    densenet, nothing, resnet = match_column(spec, rows)
    assert densenet is not None
    assert resnet is not None
    assert near(densenet.value, 0.7739)
    assert near(resnet.value, 0.7133)
    assert nothing is None
    assert match_column(spec | {"names": {}}, [{"backbone": "WRN-16-8"}]) == [one(**ISDA, backbone="WRN-16-8")]
    assert match_column({"where": ISDA, "by": "backbone"}, []) == []


def test_a_column_by_dataset_or_by_method() -> None:
    """A level is read as the table prints it; fields that published.csv does not know pick by method."""
    by_dataset = {
        "where": {"table": "ISDA_T2", "backbone": "ResNet-32", "method": "ISDA"},
        "by": "dataset",
        "names": {"cifar100": "CIFAR-100"},
    }
    (row,) = match_column(by_dataset, [{"dataset": {"name": "cifar100"}}])
    assert row == one(table="ISDA_T2", backbone="ResNet-32", method="ISDA", dataset="CIFAR-100")
    by_method = {
        "where": {"table": "CutMix_README", "dataset": "CIFAR-100"},
        "by": "regularizers",
        "names": {"none": "baseline", "cutout(size=16)": "Cutout", "cutmix": "CutMix"},
    }
    levels = ["none", {"cutout": {"size": 16}}, ["cutmix"], "mixup"]
    found = match_column(by_method, [{"regularizers": level} for level in levels])
    assert [row and row.method for row in found] == ["baseline", "Cutout", "CutMix", None]
    by_depth = {"where": ISDA, "by": "backbone.depth", "names": {32: "ResNet-32"}}
    assert match_column(by_depth, [{"backbone.depth": 32}]) == [one(**ISDA, backbone="ResNet-32")]


def test_a_column_by_two_fields() -> None:
    """Rows that differ in dataset and backbone get the number of both, or none."""
    names = {"c10": "CIFAR-10", "c100": "CIFAR-100", "r110": "ResNet-110"}
    spec = {"where": {"table": "ISDA_T2", "method": "CE_baseline"}, "by": ["dataset", "backbone"], "names": names}
    rows = [{"dataset": data, "backbone": net} for data in ("c10", "c100") for net in ("r110", "resnet8")]
    assert [row and near(row.value, expected) for row, expected in zip(match_column(spec, rows), (0.9324, 0, 0.7133, 0), strict=True)] == [
        True,
        None,
        True,
        None,
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"where": {"table": "ISDA_T2"}}, ConfigError, "4 published numbers fit row 'r110'. They differ in dataset (CIFAR-10, CIFAR-100); method (CE_baseline, ISDA). Add"),  # noqa: E501
        ({"where": {"table": "ISDA_T2"}}, ConfigError, "Add to `where` what tells them apart, e.g. dataset: CIFAR-10, method: CE_baseline."),  # noqa: E501
        ({"where": {"table": "ISDA_T2", "dataset": "CIFAR-10"}}, ConfigError, "e.g. method: CE_baseline."),
        ({"where": {"dataset": "CIFAR-100"}, "names": {"r110": "resnet20"}}, ConfigError, "tells them apart, e.g. table: CRD_students."),
        ({"where": {"dataset": "CIFAR-100"}, "names": {"r110": "resnet20"}}, ConfigError, "teacher ('', resnet110, resnet56)"),
        ({"where": {"dataset": "CIFAR-100"}, "names": {"r110": "resnet20"}}, ConfigError, "method (AB, AT, CC, CRD, FSP, FT, FitNet, KD and 6 more)"),  # noqa: E501
        ({"where": {"table": "ISDA"}}, ConfigError, "<where.table>: Unknown table 'ISDA'"),
        ({"where": {"tabel": "ISDA"}}, ConfigError, "<where.tabel>: Unknown field 'tabel' in published numbers. Did you mean 'table'?"),
        ({"where": {"dataset": "CIFAR-100", "table": "hysts"}}, ConfigError, "<where.dataset>: Unknown dataset 'CIFAR-100'"),
        ({"names": {"r110": "resnet110"}}, ConfigError, "<names.r110>: Unknown backbone 'resnet110' in published numbers, table 'ISDA_T2', dataset 'CIFAR-100', method 'CE_baseline'."),  # noqa: E501
        ({"names": {"r110": "resnet110"}}, ConfigError, "It is written 'ResNet-110' there."),
        ({"names": {"r11": "ResNet-110"}}, UnknownNameError, "Unknown level 'r11' in <names.r11>. Did you mean 'r110'?"),
        ({"by": "bakbone"}, UnknownNameError, "Unknown row field 'bakbone' in <by>. Did you mean 'backbone'?"),
        ({"where": {"backbone": "ResNet-110"}}, ConfigError, "by their backbone, but `where` fixes backbone"),
        ({"where": {"table": "CutMix_README"}, "by": ["arm", "regularizers"]}, ConfigError, "another field of `by` picks by method"),
        ({"by": "dataset", "names": {}}, ConfigError, "by their dataset, but `where` fixes dataset. Take one"),
        ({"where": {"table": "ISDA_T2"}, "by": "dataset", "names": {}}, ConfigError, "<by>: dataset cannot tell rows apart: 2 rows are c100."),  # noqa: E501
        ({"names": {}}, ConfigError, "<by>: no row has a published number. Looked for backbone 'r110', 'resnet8'; published with table 'ISDA_T2', dataset"),  # noqa: E501
        ({"names": {}}, ConfigError, "Say under `names` what the source calls the levels, e.g. names: {our level: their name}, or"),
    ],
)  # fmt: skip
def test_a_reference_that_means_no_single_number_is_refused(changes: dict[str, Any], error: type[ConfigError], message: str) -> None:
    """Each says what is wrong, what was found and what to write."""
    rows = [{"backbone": net, "dataset": "c100", "arm": net, "regularizers": net} for net in ("r110", "resnet8")]
    spec = {"where": ISDA, "by": "backbone", "names": {"r110": "ResNet-110"}}
    with pytest.raises(error) as caught:
        match_column(spec | changes, rows, lambda path: f"<{'.'.join(map(str, path))}>")
    assert message in str(caught.value)


def test_a_column_without_any_number_is_refused_with_the_nearest_names() -> None:
    """The names that were published, nearest first, and how the level that is only spelled otherwise is written."""
    with pytest.raises(ConfigError) as caught:
        match_column({"where": ISDA, "by": "backbone"}, [{"backbone": net} for net in ("resnet110", "resnet8")])
    assert "Looked for backbone 'resnet110', 'resnet8'; " in str(caught.value)
    assert "method 'CE_baseline': backbone 'ResNet-110', 'SE-ResNet-110', " in str(caught.value)
    assert " and 1 more. Say under `names` what the source calls the levels, e.g. names: {resnet110: ResNet-110}, or" in str(caught.value)
    by_both = {"where": {"table": "ISDA_T2", "method": "ISDA"}, "by": ["dataset", "backbone"], "names": {"c10": "CIFAR-10"}}
    with pytest.raises(ConfigError) as caught:
        match_column(by_both, [{"dataset": "c10", "backbone": "ResNet-33"}])
    assert "Looked for dataset 'CIFAR-10' with backbone 'ResNet-33'; " in str(caught.value)
    assert "'CIFAR-100'; backbone 'ResNet-32', " in str(caught.value)
    assert " more. Did you mean 'ResNet-32'? Say under `names` what the source calls the levels, e.g. names: {our level: " in str(
        caught.value
    )


def test_columns_stand_under_the_metric_that_they_are_of() -> None:
    """Published accuracies are of the test split, so they never stand under a validation metric, and no metric fits top-5 accuracies."""
    reference = {"P": {"where": {"table": "weiaicunzai", "metric": "top5_err"}, "by": "backbone"}}
    rows = {"row": ["resnet18"]}
    metrics = ["metric_val_acc_top5_last", "metric_test_acc_top1_last", "metric_test_acc_top5_last"]
    (column,) = published_columns(reference, ["backbone"], rows, metrics)
    assert column.metric == "metric_test_acc_top5_last"
    assert column.entries["row"] == one(table="weiaicunzai", metric="top5_err", backbone="resnet18")
    for others, words in ((metrics[:1], "validation top-5 accuracy"), (metrics[:2], "validation top-5 accuracy, test accuracy")):
        with pytest.raises(ConfigError) as caught:
            published_columns(reference, ["backbone"], rows, others)
        assert str(caught.value).startswith(
            f"P.where: the published numbers are acc_top5 on the test split, the table shows {words}. Add `metric` to `where`"
        )


def test_digits_are_those_of_the_source() -> None:
    """In the unit in which the number is printed, for every number: value and spread read back give the text of the file."""
    for row, line in zip(load_published(), raw("published.csv"), strict=True):
        shown = Decimal(f"{100 * row.value if row.is_fraction else row.value:.{row.decimals}f}")
        turned = 100 - shown if row.metric.endswith("_err") else shown.scaleb(-2) if row.metric.endswith("_fraction") else shown
        assert turned.as_tuple() == Decimal(line["value"]).as_tuple()
        if line["std"]:
            assert row.spread is not None
            assert f"{100 * row.spread:.{row.decimals}f}" == line["std"]


def test_the_documentation_counts_right_and_its_example_works() -> None:
    """docs/published.md: the counts in its text and table, and the reference column that it shows."""
    text = " ".join((ROOT / "docs" / "published.md").read_text(encoding="utf-8").split())
    rows = load_published()
    protocols = Counter(row.protocol for row in rows)
    for protocol, count in protocols.items():
        assert re.search(rf"\| `{protocol}` \| [^|]+ \| {count} \|", text)
    known = sum(count for protocol, count in protocols.items() if protocol not in ("unknown", "median of 3 runs"))
    runs = sum(row.n is not None for row in rows)
    assert (
        f"Of the {len(rows):,} numbers the rule by which the epoch was chosen is known for {known}, the number of runs for {runs}." in text
    )
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "published.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (spec,) = yaml.safe_load(blocks[0])["reference"].values()
    found = match_column(spec, [{spec["by"]: level} for level in spec["names"]])
    assert [row and row.backbone for row in found] == list(spec["names"].values())
