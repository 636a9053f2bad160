"""The numbers of curves, and whatever order the rows of a history are in."""

from __future__ import annotations

import statistics

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.analysis.curves import accuracy_curves, sample_sd

SHARES = st.floats(0, 1) | st.integers(0, 1000).map(lambda hits: hits / 1000)


@settings(deadline=None)
@given(st.tuples(st.integers(2, 12), st.integers(1, 20)).flatmap(lambda shape: arrays(np.float64, shape, elements=SHARES)))
def test_the_sd_is_that_of_the_standard_library(values_ST):
    """Which is exact; also of values that are nearly equal. Of equal ones it is 0, not a rounding error."""
    expected = [statistics.stdev(column) for column in values_ST.T.tolist()]
    assert sample_sd(values_ST).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert (sample_sd(np.tile(values_ST[:1], (3, 1))) == 0).all()


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
    assert curve.sd == pytest.approx([statistics.stdev(values[epoch] for values in by_trial.values()) for epoch in curve.epochs])
