"""Factorial expansion: how many cells, in which order, under which labels, showing which metric."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.study.config import level_label
from pipeline.study.design import expand_datasets, loss_label, regularizers_label
from pipeline.study.resolve import Vocabulary

if TYPE_CHECKING:
    from .conftest import Declare, Expand

FACTORS: dict[str, list[Any]] = {
    "backbone": ["resnet8", "resnet20", "vgg"],
    "regularizers": ["none", "cutout", ["cutout", "mixup"], {"mixup": {"alpha": 0.2}}],
    "arm": ["ce", "cam"],
    "loss.cam.weight": [0, 0.3, 1, 3],
    "epochs": [3, 8],
    "optimizer.lr": [0.01, 0.1],
}


@st.composite
def _factors(draw: st.DrawFn) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Disjoint rows and columns, each with at least one factor at one level or more."""
    names = draw(st.permutations(sorted(FACTORS)))
    count = draw(st.integers(2, 4))
    split = draw(st.integers(1, count - 1))
    chosen = {name: draw(st.lists(st.sampled_from(FACTORS[name]), min_size=1, unique_by=level_label)) for name in names[:count]}
    return {name: chosen[name] for name in names[:split]}, {name: chosen[name] for name in names[split:count]}


@given(factors=_factors())
def test_cells_are_the_product_of_the_levels(
    factors: tuple[dict[str, list[Any]], dict[str, list[Any]]], declare: Declare, expand_file: Expand
) -> None:
    """A table has one cell for each combination of levels, row by row in the order declared, and no two share a place."""
    rows, columns = factors
    defaults = {"dataset": "digits", "backbone": "vgg", "epochs": 8}
    (table,) = expand_file(declare(defaults=defaults, rows=rows, columns=columns))
    assert len(table.cells) == math.prod(len(levels) for levels in (rows | columns).values())
    expected = [
        (" · ".join(map(level_label, row)), " · ".join(map(level_label, column)))
        for row in itertools.product(*rows.values())
        for column in itertools.product(*columns.values())
    ]
    assert [(cell.row, cell.column) for cell in table.cells] == expected
    assert len(set(expected)) == len(expected)
    assert (table.rows, table.columns) == (list(dict.fromkeys(row for row, _ in expected)), list(dict.fromkeys(c for _, c in expected)))
    for cell in table.cells:
        assert set(cell.row_levels) == set(rows)
        assert cell.arm == (cell.row_levels | cell.column_levels).get("arm")
        if "optimizer.lr" in rows | columns:
            assert cell.config["optimizer"]["lr"] == (cell.row_levels | cell.column_levels)["optimizer.lr"]


@pytest.mark.parametrize(
    ("level", "label"),
    [
        ("resnet8", "resnet8"),
        (None, "none"),
        ([], "none"),
        (0.3, "0.3"),
        (True, "true"),
        (["cutmix", "label_smoothing"], "cutmix + label_smoothing"),
        ({"cutout": {"size": 8}}, "cutout(size=8)"),
        ({"name": "resnet8", "dropout": 0.1}, "resnet8(dropout=0.1)"),
        ({"name": "resnet8"}, "resnet8"),
        ([{"cutout": {"size": 8}}, "mixup"], "cutout(size=8) + mixup"),
        ({"cutout": None}, "cutout=none"),
    ],
)
def test_level_labels(level: Any, label: str) -> None:
    """How a level reads in a table."""
    assert level_label(level) == label


def test_own_labels(declare: Declare, expand_file: Expand) -> None:
    """A mapping of label to level gives the levels' labels."""
    rows = {"regularizers": {"nothing": "none", "both": ["cutout", "mixup"]}}
    (table,) = expand_file(declare(rows=rows, set={"backbone": "vgg"}))
    assert table.rows == ["nothing", "both"]
    assert table.cells[1].row_levels == {"regularizers": ["cutout", "mixup"]}
    assert regularizers_label(table.cells[1].config) == "cutout + mixup"


@pytest.mark.parametrize(
    ("declared", "selection", "column"),
    [
        ("acc_top1", "last", "metric_test_acc_top1_last"),
        ("test/acc_top1", "best_val", "metric_test_acc_top1_best_val"),
        ("val/loss", "best_test", "metric_val_loss_best_test"),
        ("caam_energy", "last", "metric_test_caam_energy_last"),
        ("caam_max_box_acc_v2", "best_val", "metric_test_caam_max_box_acc_v2_best_val"),
        ("time_step_s", "best_val", "time_step_s"),
        ("mem_peak_bytes", "last", "mem_peak_bytes"),
    ],
)
def test_metric_columns(declare: Declare, expand_file: Expand, declared: str, selection: str, column: str) -> None:
    """A metric becomes a column of the results, by split and selection; times and memory stay as they are."""
    study_wide = declare(protocol={"selection": selection, "metric": declared})
    of_table = declare(selection=selection, metric=declared)
    as_columns = declare(selection=selection, columns={"metric": [declared]})
    for file in (study_wide, of_table, as_columns):
        (table,) = expand_file(file)
        assert [cell.metrics for cell in table.cells] == [(column,)]
        assert table.selection == selection


def test_metric_columns_share_their_trials(declare: Declare, expand_file: Expand) -> None:
    """Columns of metrics show the same configuration under different metrics."""
    (table,) = expand_file(declare(columns={"metric": {"accuracy": "acc_top1", "on the digit": "caam_energy"}}))
    assert table.column_kind == "metric"
    assert table.columns == ["accuracy", "on the digit"]
    assert table.cells[0].config == table.cells[1].config
    assert [cell.metrics for cell in table.cells] == [("metric_test_acc_top1_last",), ("metric_test_caam_energy_last",)]


def test_several_metrics_share_a_cell(declare: Declare, expand_file: Expand) -> None:
    """A list of metrics is shown side by side for one and the same configuration, from the table or from the protocol."""
    columns = ("metric_test_acc_top1_last", "metric_val_loss_last")
    for file in (declare(metric=["acc_top1", "val/loss"]), declare(protocol={"metric": ["acc_top1", "val/loss"]})):
        (table,) = expand_file(file)
        assert [cell.metrics for cell in table.cells] == [columns] * len(table.cells)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["acc_top1", "acc_top1"]}, r":\d+: tables\.t\.metric: 'acc_top1' stands twice in \[acc_top1, acc_top1\]"),
        ({"metric": []}, r"tables\.t\.metric: metric is the name of a metric, or a list of names, got \[\]"),
        ({"style": {"spread": "std"}}, r"tables\.t\.style\.spread: got 'std'\. Did you mean 'sd'\?"),
        ({"statistics": {"alpha": 0.0}}, r"statistics\.alpha: .*0"),
        ({"reference": {"P": {"where": {}, "by": []}}}, r"reference\.P\.by: by is a field of the rows, e\.g\. backbone, .*, got \[\]"),
        ({"reference": {"P": {"where": {}, "by": 3}}}, r"reference\.P\.by: by is a field of the rows, .*, got 3\.$"),
        ({"reference": {"P": {"where": {}, "by": ["a", "a"]}}}, r"reference\.P\.by: 'a' stands twice in \[a, a\]\. Keep one"),
    ],
)
def test_a_slip_in_how_a_table_is_shown_is_refused(declare: Declare, changes: dict[str, Any], message: str) -> None:
    """Each problem is named with its place before anything is expanded."""
    with pytest.raises(ConfigError, match=message):
        declare(**changes)


def test_style_of_a_table_is_what_it_says_over_what_the_study_says(declare: Declare, expand_file: Expand) -> None:
    """Keys that the table leaves out come from the study, and those of neither from the defaults."""
    (table,) = expand_file(declare(study_style={"spread": "se", "decimals": 1}, style={"decimals": 3}))
    assert (table.style["spread"], table.style["decimals"], table.style["bold"]) == ("se", 3, "group")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["acc_top1", "acc_top"]}, r"Unknown metric 'acc_top' in .*tables\.t\.metric\[1\]"),
        ({"metric": "nll", "columns": {"metric": ["loss"]}}, r"tables\.t\.metric: the columns are metrics already"),
        ({"reference": {"ISDA": {"where": {}, "by": "arm"}}}, r"Unknown row field 'arm' in .*reference\.ISDA\.by"),
        ({"reference": {"ce": {"where": {}, "by": "backbone"}}}, r"reference\.ce: the table has a column 'ce' already"),
        (
            {"columns": {"arm": ["cma"]}},
            r"Unknown arm 'cma' in .*tables\.t\.columns\.arm\[0\]\. Did you mean 'cam'\? Known: cam, ce\. Declare it under",
        ),
        ({"columns": {"arm": [{"a": 1}]}}, r"Unknown arm"),
        ({"baseline": "cam"}, r"Unknown baseline 'cam' in .*tables\.t\.baseline\..*Known: ce\. A baseline is one of the table's own arms"),
        ({"baseline": "ce", "columns": {"metric": ["loss"]}}, r"Unknown baseline 'ce'.*Known: none"),
        ({"metric": "acc_top"}, r"Unknown metric 'acc_top' in .*tables\.t\.metric\. Did you mean 'acc_top[15]'\?"),
        ({"protocol": {"metric": "train/loss"}}, r"Unknown metric 'train/loss' in .*protocol\.metric"),
        (
            {"selection": "best_test", "columns": {"metric": ["acc_top1", "caam_pointing"]}},
            r"tables\.t\.columns\.metric\[1\]: caam_pointing is measured once, at the end, so there is none under best_test",
        ),
        ({"selection": "best_test", "metric": "ece"}, r"tables\.t\.metric: ece is measured once.*Set selection: last or best_val"),
        ({"metric": "val/cam_pxap"}, r"tables\.t\.metric: cam_pxap is measured on the test split only; write cam_pxap"),
        ({"columns": {"metric": ["acc"]}}, r"Unknown metric 'acc' in .*tables\.t\.columns\.metric\[0\]"),
        ({"columns": {"metric": ["loss"], "arm": ["ce"]}}, r"`metric` columns cannot be crossed"),
        ({"rows": {"metric": ["loss"]}}, r"rows\.metric: `metric` belongs under columns"),
        ({"columns": {"backbone": ["vgg"]}}, r"tables\.t\.columns: 'backbone' is in the rows already"),
        ({"rows": {"seed": [0, 1]}}, r"rows\.seed\[0\]: seeds are repetitions, not a factor; set `seeds:`"),
        ({"rows": {"seeds": [0, 1]}}, r"rows\.seeds\[0\]: seeds are repetitions"),
        (
            {"rows": {"regularizers": ["none"]}, "set": {"backbone": "vgg", "regularizers.cutout.size": 3}},
            r"set\.regularizers\.cutout\.size: each level",
        ),
        (
            {"selection": "best_test", "set": {"evaluate_test": "selected"}},
            r"tables\.t\.selection: best_test needs the test metric of every epoch",
        ),
        ({"arms": {"ce": {}, "unused": {"epochs": 0}}}, r"arms\.unused\.epochs: epochs must be >= 1, got 0"),
        ({"datasets": {"unused": {"source": "digits", "canvas": "x"}}}, r"datasets\.unused\.canvas: .*valid integer, got 'x'"),
        ({"arms": {"ce": {}, "unused": {"epoch": 3}}}, r"arms\.unused\.epoch: unknown key 'epoch'\. Did you mean 'epochs'\?"),
    ],
)
def test_refused(declare: Declare, expand_file: Expand, changes: dict[str, Any], message: str) -> None:
    """A table that cannot mean anything is refused, with its place; so are slips in arms and datasets that no table uses."""
    file = declare(**changes)
    with pytest.raises(ConfigError, match=message):
        expand_file(file)


def test_unknown_names_carry_their_kind(declare: Declare, expand_file: Expand) -> None:
    """Programs may ask an UnknownNameError for the kind and the known names."""
    with pytest.raises(UnknownNameError) as caught:
        expand_file(declare(columns={"arm": ["x"]}))
    assert (caught.value.kind, caught.value.name, caught.value.known) == ("arm", "x", ["cam", "ce"])


def test_an_arm_that_fits_only_its_table(declare: Declare, expand_file: Expand) -> None:
    """Arms are checked where they are used: one that starts at epoch 2 is sound although the defaults have one epoch."""
    (table,) = expand_file(declare(defaults={"dataset": "digits", "epochs": 1}, set={"epochs": 8}, columns={"arm": ["ce", "cam"]}))
    assert [cell.config["epochs"] for cell in table.cells] == [8, 8]


def test_tables_may_name_backbone_and_dataset_themselves(declare: Declare, expand_file: Expand) -> None:
    """Nothing but the tables needs to say which backbone and dataset they use."""
    (table,) = expand_file(declare(defaults={}, set={"backbone": "vgg", "dataset": "digits", "epochs": 8}, rows={"batch_size": [8]}))
    assert table.cells[0].config["backbone"]["name"] == "vgg"


def test_what_is_the_same_in_all_cells_goes_into_the_caption(declare: Declare, expand_file: Expand) -> None:
    """`fixed` names the common facts of a table and leaves out what varies."""
    (table,) = expand_file(declare(columns={"arm": ["ce", "cam"]}))
    assert table.fixed["epochs"] == 8
    assert table.fixed["optimizer"] == "sgd, lr 0.1, weight decay 0.0005"
    assert "backbone" not in table.fixed
    assert "loss" not in table.fixed


@pytest.mark.parametrize(
    ("terms", "label"),
    [
        ({"cam": 1.0, "ce": 1.0}, "ce + cam"),
        ({"ce": 1.0}, "ce"),
        ({"cam": 0.3, "ce": 1.0}, "ce + 0.3 cam"),
        ({"b": 2.0, "a": 1.0}, "a + 2 b"),
    ],
)
def test_loss_label(terms: dict[str, float], label: str) -> None:
    """Cross-entropy first, weights other than 1 in front."""
    assert loss_label({"loss": {name: {"weight": weight} for name, weight in terms.items()}}) == label


def test_datasets_of_a_study(declare: Declare, vocabulary: Vocabulary) -> None:
    """Each resolved dataset is listed once, in order, whatever the other factors, without a look at their names."""
    file = declare(
        rows={"dataset": ["digits", {"name": "digits", "canvas": 32}], "backbone": ["not", "looked", "at"]},
        arms={"ce": {}, "noisy": {"dataset": {"noise": 1}}},
        columns={"arm": ["ce", "noisy"]},
    )
    components = expand_datasets(file, vocabulary.datasets)
    assert [(c["canvas"], c["noise"]) for c in components] == [(24, 0.5), (24, 1.0), (32, 0.5), (32, 1.0)]


def test_datasets_are_those_of_the_cells(declare: Declare, vocabulary: Vocabulary, expand_file: Expand) -> None:
    """`expand_datasets` and `expand` agree on every dataset of a study."""
    file = declare(
        datasets={"small": {"source": "digits", "canvas": 16}},
        rows={"dataset": ["small", "digits"], "dataset.noise": [0, 1]},
        set={"dataset.canvas": 20, "backbone": "vgg"},
    )
    of_cells = [cell.config["dataset"] for table in expand_file(file) for cell in table.cells]
    assert expand_datasets(file, vocabulary.datasets) == of_cells
    assert len(of_cells) == 4
    assert {component["canvas"] for component in of_cells} == {20}
