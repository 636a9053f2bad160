"""Summary metrics for DVC: what is in, what is left out, how trials are counted."""

from __future__ import annotations

import json

import pytest

from pipeline.analysis.aggregate import summary_metrics
from pipeline.analysis.tables import build_table


def test_summary_holds_complete_cells_and_counts_trials(arms):
    """Complete cells appear as the tables print them, incomplete ones do not, and every planned trial is counted by state."""
    summary = summary_metrics([build_table(*arms)])
    assert summary["trials"] == {"complete": 14, "failed": 1, "skipped": 3}
    assert summary["backbones"] == {"resnet8": {"ce": 93.57, "cam": 94.45}, "wrn_10_1": {"ce": 92.14}, "vit_tiny": {"ce": 80.57}}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_trial_that_serves_two_tables_counts_once(arms):
    """Shared trials are not counted twice, and a table may even be called 'trials'."""
    spec, trials = arms
    summary = summary_metrics([build_table(spec, trials), build_table(spec | {"name": "trials"}, trials)])
    assert summary["trials"]["complete"] == 14
    assert summary["trials"]["failed"] == 1
    assert summary["trials (table)"] == summary["backbones"]


@pytest.mark.parametrize(
    ("metric", "stored", "shown"),
    [
        ("metric_test_acc_top1_last", 0.4999, 49.99),
        ("metric_test_nll_last", 0.31416, 0.3142),
        ("time_step_s", 0.0123456, 12.35),
        ("mem_peak_bytes", 3.25 * 2**20, 3.2),  # to the even digit, as Python prints it
        ("metric_gap", -1e-9, 0.0),
    ],
)
def test_units_and_digits_are_those_of_the_tables(make_spec, make_trials, metric, stored, shown):
    """Fractions become percentages, seconds milliseconds, bytes MiB; what prints as zero is a plain zero; one seed suffices."""
    spec = make_spec(["a"], ["m"], [0], metrics={"m": metric})
    values = summary_metrics([build_table(spec, make_trials(spec, {("a", "m"): [stored]}))])["backbones"]["a"]
    assert values == {"m": shown}
    assert not str(values["m"]).startswith("-")


def test_several_metrics_a_cell_are_all_there(make_spec, make_trials):
    """No metric of a cell hides another one."""
    spec = make_spec(["a"], ["ce"], [0])
    spec["cells"] = [cell | {"metric": metric} for cell in spec["cells"] for metric in (cell["metric"], "metric_test_nll_last")]
    result = build_table(spec, make_trials(spec, {("a", "ce"): [0.5]}))
    assert summary_metrics([result])["backbones"] == {"a": {"ce, acc_top1": 50.0, "ce, nll": 0.5}}
