"""The table of metrics is consistent with itself; that it agrees with what is measured, tests/training/test_final.py checks."""

from __future__ import annotations

import re

import pytest

from pipeline.metric_names import METRICS


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_described_whole(name: str) -> None:
    """Its words hold the split once and nothing else to fill in, it prints in a sensible unit, and its name makes a column."""
    metric = METRICS[name]
    assert metric.name == name
    assert re.findall(r"\{.*?\}", metric.words) == ["{split}"]
    assert (metric.unit, metric.scale) in {("%", 100.0), ("", 1.0), ("nats", 1.0)}
    assert re.fullmatch(r"[a-z]\w+", name)
    assert not name.endswith(("_last", "_best_val", "_best_test")), "the selection rule could not be told from the name"


@pytest.mark.parametrize("name", METRICS)
def test_baselines_are_metrics_of_the_same_kind(name: str) -> None:
    """A baseline is a metric of the table, without baselines of its own, in the same unit and direction."""
    metric = METRICS[name]
    for prefix, baseline in (("flat_", metric.flat), ("centre_", metric.centre)):
        if baseline is None:
            continue
        other = METRICS[baseline]
        assert baseline == prefix + name.split("_", 1)[1]
        assert (other.flat, other.centre) == (None, None)
        assert (other.unit, other.scale, other.higher_is_better) == (metric.unit, metric.scale, metric.higher_is_better)


def test_every_metric_of_a_map_has_a_baseline() -> None:
    """No number of a map is shown without what the centre gets."""
    maps = [name for name in METRICS if name.startswith(("caam_", "cam_")) and name != "caam_cam_distance"]
    assert len(maps) == 10
    assert all(METRICS[name].centre for name in maps)
