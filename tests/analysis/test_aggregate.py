"""Summary metrics for DVC: what is in, what is left out, how trials are counted."""

from __future__ import annotations

import json

from pipeline.analysis.aggregate import summary_metrics
from pipeline.analysis.tables import build_table


def test_summary_holds_complete_cells_and_counts_trials(arms):
    """Complete cells appear rounded to 6 digits, incomplete ones do not, and every planned trial is counted by state."""
    summary = summary_metrics([build_table(*arms)])
    assert summary["trials"] == {"complete": 14, "failed": 1, "skipped": 3}
    assert summary["backbones"] == {
        "resnet8": {"ce": {"mean": 0.935667, "sd": 0.004509, "n": 3}, "cam": {"mean": 0.944533, "sd": 0.000839, "n": 3}},
        "wrn_10_1": {"ce": {"mean": 0.9214, "sd": 0.003617, "n": 3}},
        "vit_tiny": {"ce": {"mean": 0.805667, "sd": 0.005033, "n": 3}},
    }
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_trial_that_serves_two_tables_counts_once(arms):
    """Shared trials are not counted twice, and a table may even be called 'trials'."""
    spec, trials = arms
    summary = summary_metrics([build_table(spec, trials), build_table(spec | {"name": "trials"}, trials)])
    assert summary["trials"]["complete"] == 14
    assert summary["trials"]["failed"] == 1
    assert summary["trials (table)"] == summary["backbones"]


def test_one_seed_has_no_sd_in_the_summary(make_spec, make_trials):
    """A metric without a spread leaves the key out, as DVC cannot show null."""
    spec = make_spec(["a"], ["ce"], [0])
    assert summary_metrics([build_table(spec, make_trials(spec, {("a", "ce"): [0.5]}))])["backbones"] == {
        "a": {"ce": {"mean": 0.5, "n": 1}}
    }
