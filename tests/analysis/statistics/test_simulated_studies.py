"""Whole studies made of noise: how often a table claims a difference that is not there, and how often an interval holds the truth.

Each study is a table of rows x arms against one shared baseline a row, paired by seed, corrected by Holm; the comparisons within a row
depend on each other through their baseline, as they do in a real table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.families import holm
from pipeline.analysis.statistics.intervals import summarize
from pipeline.analysis.statistics.paired import sign_flip_p

STUDIES = 10_000
ALPHA = 0.05
SHAPES = [(1, 1), (2, 3), (6, 2)]  # rows x arms beside the baseline
# Three standard errors of a share of 5 % among 10,000 studies: 0.0065.
CHANCE = 3 * math.sqrt(ALPHA * (1 - ALPHA) / STUDIES)

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    # Skewed runs; the difference of two such arms is symmetric, with heavy tails.
    "skewed": lambda rng, shape: rng.exponential(size=shape),
    # Accuracies on few test images: ties, and differences of exactly 0.
    "coarse": lambda rng, shape: np.round(rng.normal(size=shape) * 2) / 100,
}


def differences(noise: Noise, rows: int, arms: int, n: int, studies: int = STUDIES) -> np.ndarray:
    """arm - baseline, shape (studies, rows * arms, n)."""
    value = noise(np.random.default_rng((rows, arms, n)), (studies, rows, arms + 1, n))
    return (value[:, :, 1:] - value[:, :, :1]).reshape(studies, rows * arms, n)


def p_values(difference: np.ndarray, test: str) -> np.ndarray:
    """p values of shape (studies, comparisons); t by scipy, whose equality test_paired.py shows."""
    rows = difference.reshape(-1, difference.shape[-1])
    p = sign_flip_p(rows) if test == "sign_flip" else stats.ttest_1samp(rows, 0, axis=1).pvalue
    return p.reshape(difference.shape[:2])


def rejected(p: np.ndarray) -> np.ndarray:
    """Which comparisons are significant after Holm within their study."""
    return np.array([holm(study) for study in p.tolist()]) <= ALPHA


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("noise", NOISES)
def test_sign_flips_claim_a_difference_in_at_most_one_study_of_twenty(noise, shape, n):
    """No effect anywhere, any noise that is alike in both arms: at most 5 % of the studies have a dagger, up to the chance of 10,000."""
    false = rejected(p_values(differences(NOISES[noise], *shape, n), "sign_flip")).any(axis=1)
    assert false.mean() <= ALPHA + CHANCE
    # Below 2^(1-n) it claims nothing at all.
    assert false.any() == (2.0 ** (1 - n) <= ALPHA / math.prod(shape))


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_t_claims_a_difference_in_at_most_one_study_of_twenty(shape, n):
    """The same of the paired t test, for normal noise. With a single comparison its level is exact, so both sides are checked."""
    false = rejected(p_values(differences(NOISES["normal"], *shape, n), "t")).any(axis=1)
    assert false.mean() <= ALPHA + CHANCE
    if shape == (1, 1):
        assert false.mean() >= ALPHA - CHANCE


@pytest.mark.parametrize(("test", "n"), [("t", 5), ("sign_flip", 10)])
def test_effects_elsewhere_license_no_false_claim(test, n):
    """Half of a table has effects that are nearly always found; among the other half 5 % of the studies still claim one at most."""
    difference = differences(NOISES["normal"], 4, 2, n)
    difference[:, ::2] += 8.0
    claims = rejected(p_values(difference, test))
    assert claims[:, ::2].mean() > 0.9
    assert claims[:, 1::2].any(axis=1).mean() <= ALPHA + CHANCE


def test_without_the_correction_a_table_would_claim_too_much():
    """What Holm is for: 12 comparisons at 5 % each claim something in a quarter of all studies or more."""
    p = p_values(differences(NOISES["normal"], *SHAPES[-1], 5), "t")
    assert (p <= ALPHA).any(axis=1).mean() > 0.25


@pytest.mark.parametrize(("n", "cells"), [(3, 10_000), (5, 10_000), (10, 4_000)])
def test_the_t_interval_holds_the_mean_in_95_of_100_cells(n, cells):
    """Normal noise; +- 1 percentage point is three standard errors of the simulation or more."""
    sample = np.random.default_rng(n).normal(0.9, 0.02, (cells, n))
    inside = [each.ci[0] <= 0.9 <= each.ci[1] for each in summarize(sample.tolist()) if each.ci]
    assert len(inside) == cells
    assert float(np.mean(inside)) == pytest.approx(0.95, abs=0.01)
