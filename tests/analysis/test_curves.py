"""The numbers of curves, to the last bit, and whatever order the rows of a history are in."""

from __future__ import annotations

import statistics

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.analysis import curves
from pipeline.analysis.curves import accuracy_curves, sample_sd

SHARES = st.floats(0, 1) | st.integers(0, 1000).map(lambda hits: hits / 1000)


@settings(deadline=None)
@given(st.tuples(st.integers(2, 12), st.integers(1, 20)).flatmap(lambda shape: arrays(np.float64, shape, elements=SHARES)))
def test_the_sd_is_exact(values_ST):
    """Equal to the exact result of the standard library to the last bit, also of values that are equal or nearly so, or of any size."""
    assert sample_sd(values_ST).tolist() == [statistics.stdev(column) for column in values_ST.T.tolist()]


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_the_sd_is_exact_and_seldom_left_to_the_standard_library(seeds, monkeypatch):
    """Of accuracies about 0.9, as the seeds of a cell give; with short long doubles all are left to it, and right."""
    values_ST = np.random.default_rng(seeds).normal(0.9, 0.01, (seeds, 4000))
    values_ST[0, ::2] = 0.1  # a seed that failed to train: the others differ little from each other and much from it
    exact, asked = [statistics.stdev(column) for column in values_ST.T.tolist()], []
    monkeypatch.setattr(statistics, "stdev", lambda values, stdev=statistics.stdev: asked.append(1) or stdev(values))
    assert sample_sd(values_ST).tolist() == exact
    if np.finfo(np.longdouble).eps < 1e-18:
        assert 0 < len(asked) < 0.7 * 4000
    monkeypatch.setattr(curves.np, "longdouble", np.float64)
    asked.clear()
    assert sample_sd(values_ST).tolist() == exact
    assert len(asked) > 0.9 * 4000


def test_curves_do_not_depend_on_the_order_of_rows(arms, make_history):
    """Rows of several trials in any order, in several chunks, with nulls and epochs that are there twice, give the same curves."""
    spec, trials = arms
    history = make_history(trials)
    expected = accuracy_curves(spec, history, trials)
    name = "metric_val_acc_top1"
    again = history.slice(0, 3)
    replaced = again.set_column(again.column_names.index(name), name, pa.nulls(3, pa.float64()))
    shuffled = history.take(np.random.default_rng(0).permutation(len(history)))
    assert accuracy_curves(spec, pa.concat_tables([shuffled, replaced]), trials) == expected
    changed = again.set_column(again.column_names.index(name), name, pa.array([0.25] * 3))
    once = pc.if_else(pc.less(np.arange(len(history)), 3), 0.25, history[name])
    expected = accuracy_curves(spec, history.set_column(history.column_names.index(name), name, once), trials)
    assert accuracy_curves(spec, pa.concat_tables([shuffled, changed]), trials) == expected  # the later row counts


def test_means_are_exact(arms, make_history):
    """The mean of each epoch is that of the standard library, to the last bit."""
    spec, trials = arms
    history = make_history(trials)
    by_trial = {
        trial: dict(zip(own["epoch"].to_pylist(), own["metric_val_acc_top1"].to_pylist(), strict=True))
        for trial in ("t000", "t001", "t002")
        for own in [history.filter(pc.equal(history["trial_id"], trial))]
    }
    curve = accuracy_curves(spec, history, trials)[0][0]
    assert curve.mean == tuple(statistics.fmean(values[epoch] for values in by_trial.values()) for epoch in curve.epochs)
    assert curve.sd == tuple(statistics.stdev(values[epoch] for values in by_trial.values()) for epoch in curve.epochs)
