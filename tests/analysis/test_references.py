"""What a flat map and the centre get stands in the caption, from the trials of the table itself."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest

from pipeline.analysis.render.json_table import render_json
from pipeline.analysis.tables import Reference, build_table
from pipeline.analysis.wording import caption, cell_notes

ENERGY, POINTING = "metric_test_caam_energy_last", "metric_test_cam_pointing_last"


def with_column(trials: pa.Table, name: str, values: list[float | None]) -> pa.Table:
    """`trials` with one more column."""
    return trials.append_column(f"metric_test_{name}_last", pa.array(values, pa.float64()))


def test_a_table_of_one_metric_names_its_baselines(make_spec, make_trials):
    """Flat map and centre are means over the table's trials, in the unit of the metric; JSON carries the same caption."""
    spec = make_spec(["a", "b"], ["m"], [0, 1], metrics={"m": ENERGY})
    trials = make_trials(spec, {("a", "m"): [0.3, 0.4], ("b", "m"): [0.5, 0.6]})
    trials = with_column(trials, "flat_energy", [0.12, 0.14, 0.12, 0.14])
    trials = with_column(trials, "centre_energy", [0.41] * 4)
    result = build_table(spec, trials)
    flat, centre = (f"metric_test_{name}_energy_last" for name in ("flat", "centre"))
    assert result.references == (Reference(flat, "flat map", 0.13, 0.13), Reference(centre, "centre", 0.41, 0.41))
    assert " For comparison: flat map 13.00 %, centre 41.00 %. Mean" in caption(result)
    assert json.loads(render_json(result))["caption"] == caption(result)


def test_columns_that_are_metrics_name_their_own_baselines(make_spec, make_trials):
    """Each baseline is led by what it measures; a metric without one is left out."""
    spec = make_spec(
        ["a"], ["acc", "energy", "points"], [0], metrics={"acc": "metric_test_acc_top1_last", "energy": ENERGY, "points": POINTING}
    )
    trials = make_trials(spec, {("a", "acc"): [0.9], ("a", "energy"): [0.3], ("a", "points"): [0.7]})
    trials = with_column(with_column(trials, "flat_energy", [0.13]), "centre_pointing", [0.5])
    assert " For comparison, energy: flat map 13.00 %; pointing: centre 50.00 %. " in caption(build_table(spec, trials))


def test_tables_over_datasets_give_the_range(make_spec, make_trials):
    """Another dataset has other baselines: smallest and largest are given, never their average."""
    spec = make_spec(["digits", "birds"], ["m"], [0], metrics={"m": ENERGY})
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": cell["row"]}
    trials = make_trials(spec, {("digits", "m"): [0.3], ("birds", "m"): [0.5]})
    assert "For comparison on digits and birds: flat map 13.00 to 40.00 %. " in caption(
        build_table(spec, with_column(trials, "flat_energy", [0.13, 0.4]))
    )


def test_a_dataset_without_masks_is_not_among_those_named(make_spec, make_trials):
    """Of several datasets those are named whose baselines are given, and the cells of the other say that it has no masks."""
    spec = make_spec(["digits", "cifar"], ["m"], [0], metrics={"m": ENERGY})
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": {"name": cell["row"]}, "dataset.size": 32}
    trials = with_column(make_trials(spec, {("digits", "m"): [0.3], ("cifar", "m"): [None]}), "flat_energy", [0.13, None])
    result = build_table(spec, trials)
    assert "For comparison on digits, size = 32: flat map 13.00 %. " in caption(result)
    assert cell_notes(result, result.cell("cifar", "m")) == ["seed 0: the dataset has no object masks"]


def test_caam_and_cam_share_their_baselines(make_spec, make_trials):
    """Each baseline is said once, however many columns it belongs to, and unnamed where all columns share it."""
    metrics = {name: f"metric_test_{name}_last" for name in ("caam_energy", "cam_energy", "caam_pointing", "cam_pointing")}
    for names, expected in (
        (list(metrics), "For comparison, energy: flat map 13.00 %, centre 24.00 %; pointing: flat map 12.00 %. "),
        (["caam_energy", "cam_energy"], "For comparison: flat map 13.00 %, centre 24.00 %. "),
    ):
        spec = make_spec(["a"], names, [0], metrics={name: metrics[name] for name in names})
        trials = make_trials(spec, {("a", name): [0.5] for name in names})
        for name, value in (("flat_energy", 0.13), ("centre_energy", 0.24), ("flat_pointing", 0.12)):
            trials = with_column(trials, name, [value])
        assert expected in caption(build_table(spec, trials))


def test_two_selection_rules_have_baselines_of_their_own(make_spec, make_trials):
    """One metric at two epochs: the words say which baseline belongs to which."""
    spec = make_spec(["a"], ["last", "best"], [0], metrics={"last": ENERGY, "best": ENERGY.replace("_last", "_best_val")})
    trials = with_column(make_trials(spec, {("a", "last"): [0.5], ("a", "best"): [0.6]}), "flat_energy", [0.13])
    trials = trials.append_column("metric_test_flat_energy_best_val", pa.array([0.14]))
    text = caption(build_table(spec, trials))
    assert "(%) at the last epoch: flat map 13.00 %; share" in text
    assert "best validation accuracy: flat map 14.00 %." in text


@pytest.mark.parametrize(
    ("metric", "flat", "reason"),
    [
        (ENERGY, None, "the dataset has no object masks"),
        ("metric_test_centre_pxap_last", None, "the dataset has no object masks"),
        (POINTING, 0.13, "the trial was stored before this metric was measured"),
        ("metric_test_ece_last", None, "the trial was stored before this metric was measured"),
        ("metric_test_acc_top1_last", 0.13, "its record holds no metric_test_acc_top1_last"),
    ],
)
def test_a_missing_metric_has_its_reason(make_spec, make_trials, metric, flat, reason):
    """No masks, a record of older code, or neither: told by what else the record holds."""
    spec = make_spec(["a"], ["m"], [0], metrics={"m": metric})
    trials = with_column(make_trials(spec, {("a", "m"): [None]}), "flat_energy", [flat])
    (cell,) = build_table(spec, trials).cells
    assert [missing.reason for missing in cell.missing] == [reason]


def test_one_order_of_fixed_settings(make_spec, make_trials):
    """The order of keys in the plan, which is lost where it is written to a file, shows nowhere."""
    fixed = {"epochs": 8, "dataset": {"name": "digits", "size": 32, "clutter": [{"b": 1, "a": 2}]}}
    written = json.loads(json.dumps(fixed, sort_keys=True))
    pages = []
    for each in (fixed, written):
        spec = make_spec(["a"], ["m"], [0], metrics={"m": ENERGY}, fixed=each)
        pages.append(render_json(build_table(spec, make_trials(spec, {("a", "m"): [0.3]}))))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("value", [None, math.nan])
def test_without_a_value_nothing_is_said(make_spec, make_trials, value):
    """Records without baselines, of older code or without masks, leave the caption as it was."""
    spec = make_spec(["a"], ["m"], [0], metrics={"m": ENERGY})
    trials = make_trials(spec, {("a", "m"): [0.3]})
    for each in (trials, with_column(trials, "flat_energy", [value])):
        result = build_table(spec, each)
        assert result.references == ()
        assert "For comparison" not in caption(result)
