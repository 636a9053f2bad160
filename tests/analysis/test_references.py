"""What a flat map and the centre get stands in the caption, from the trials of the table itself."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest

from pipeline.analysis.render_json import render_json
from pipeline.analysis.tables import Reference, build_table
from pipeline.analysis.wording import caption

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
    assert result.references == (Reference(ENERGY, "flat map", 0.13, 0.13), Reference(ENERGY, "centre", 0.41, 0.41))
    assert " For comparison: flat map 13.00 %, centre 41.00 %. Mean" in caption(result)
    assert json.loads(render_json(result))["caption"] == caption(result)


def test_columns_that_are_metrics_name_their_own_baselines(make_spec, make_trials):
    """Each metric with a baseline is named by its column; one without is left out."""
    spec = make_spec(
        ["a"], ["acc", "energy", "points"], [0], metrics={"acc": "metric_test_acc_top1_last", "energy": ENERGY, "points": POINTING}
    )
    trials = make_trials(spec, {("a", "acc"): [0.9], ("a", "energy"): [0.3], ("a", "points"): [0.7]})
    trials = with_column(with_column(trials, "flat_energy", [0.13]), "centre_pointing", [0.5])
    assert " For comparison, energy: flat map 13.00 %; points: centre 50.00 %. " in caption(build_table(spec, trials))


def test_tables_over_datasets_give_the_range(make_spec, make_trials):
    """Another dataset has other baselines: smallest and largest are given, never their average."""
    spec = make_spec(["digits", "birds"], ["m"], [0], metrics={"m": ENERGY})
    for cell in spec["cells"]:
        cell["row_levels"] = {"dataset": cell["row"]}
    trials = make_trials(spec, {("digits", "m"): [0.3], ("birds", "m"): [0.5]})
    assert "For comparison: flat map 13.00 to 40.00 %. " in caption(build_table(spec, with_column(trials, "flat_energy", [0.13, 0.4])))


@pytest.mark.parametrize("value", [None, math.nan])
def test_without_a_value_nothing_is_said(make_spec, make_trials, value):
    """Records without baselines, of older code or without masks, leave the caption as it was."""
    spec = make_spec(["a"], ["m"], [0], metrics={"m": ENERGY})
    trials = make_trials(spec, {("a", "m"): [0.3]})
    for each in (trials, with_column(trials, "flat_energy", [value])):
        result = build_table(spec, each)
        assert result.references == ()
        assert "For comparison" not in caption(result)
