"""Calibration and class distances by hand and by loops. Letters: N images, C channels, K classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.diagnostics import class_distances, expected_calibration_error


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.95 and 0.96 with one right of two, 0.5 right: (|1 - 1.91| + |1 - 0.5|) / 3."""
    confidence_N, correct_N = torch.tensor([0.95, 0.96, 0.5]), torch.tensor([True, False, True])
    assert expected_calibration_error(confidence_N, correct_N) == pytest.approx((0.91 + 0.5) / 3, rel=1e-6)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(pairs=st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_equals_a_loop_over_bins(pairs: list[tuple[float, bool]]) -> None:
    """The error is that of 15 bins, each closed above, summed one after the other."""
    confidence, correct = (np.array(each) for each in zip(*pairs, strict=True))
    error = 0.0
    for b in range(15):
        inside = [(b < c * 15 <= b + 1) or (b == 0 and c == 0) for c in confidence]
        if any(inside):
            error += np.mean(inside) * abs(correct[inside].mean() - confidence[inside].mean())
    measured = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert measured == pytest.approx(error, abs=1e-12)


def test_calibration_extremes() -> None:
    """Always sure and right: 0; always sure and wrong: 1; a confidence that is not a number gives none."""
    sure = torch.ones(4)
    assert expected_calibration_error(sure, torch.ones(4, dtype=torch.bool)) == 0
    assert expected_calibration_error(sure, torch.zeros(4, dtype=torch.bool)) == 1
    assert math.isnan(expected_calibration_error(torch.tensor([0.5, math.nan]), torch.tensor([True, False])))


def test_distances_equal_loops() -> None:
    """Distances of unit features to their class mean and between class means are those of plain loops; scale does not matter."""
    rng = np.random.default_rng(0)
    feature, label = rng.normal(size=(30, 5)), rng.permutation(np.arange(30) % 4) * 3  # labels with gaps
    unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    mean = {k: unit[label == k].mean(0) for k in np.unique(label)}
    intra = np.mean([np.linalg.norm(f - mean[k]) for f, k in zip(unit, label, strict=True)])
    inter = np.mean([np.linalg.norm(mean[a] - mean[b]) for a, b in itertools.combinations(mean, 2)])
    expected = {"intra_class_distance": intra, "inter_class_distance": inter, "intra_inter_ratio": intra / inter}
    for scale in (1.0, 1e3):
        assert class_distances(torch.from_numpy(scale * feature), torch.from_numpy(label)) == pytest.approx(expected, rel=1e-12)


def test_distances_by_hand() -> None:
    """Two classes at right angles without spread: 0 within, sqrt(2) between."""
    feature_NC = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    metrics = class_distances(feature_NC, torch.tensor([0, 0, 1]))
    assert metrics == pytest.approx({"intra_class_distance": 0, "inter_class_distance": math.sqrt(2), "intra_inter_ratio": 0})


def test_no_distance_between_fewer_than_two_classes() -> None:
    """One class has a spread and nothing to compare it with."""
    assert set(class_distances(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))) == {"intra_class_distance"}


def test_dead_features_have_distance_zero_and_no_ratio() -> None:
    """Features that are all zero stay zero: no NaN, and no division by the distance between equal means."""
    metrics = class_distances(torch.zeros(4, 3), torch.arange(4) % 2)
    assert metrics == {"intra_class_distance": 0.0, "inter_class_distance": 0.0}
