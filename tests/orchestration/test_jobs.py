"""Trials waiting for a worker: order, shares, and what happens after a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.orchestration.jobs import CONTEXT_BYTES, FREE_LOSSES, HEADROOM, Job, Waiting, guard_fraction, share_for
from pipeline.orchestration.planning import PlannedTrial
from pipeline.study.spec import TrialSpec

GIB = 2**30


def job(name: str = "a", seconds: float = 1.0, share: float = 0.0, **more: bool) -> Job:
    return Job(PlannedTrial(TrialSpec(name, "cell", {}, 0, "digest", "code"), name, ("t",), None, {}), seconds, share, **more)


def test_the_longest_trial_starts_first_and_equal_ones_in_the_order_of_the_plan() -> None:
    """A long trial started last would leave all other workers idle at the end."""
    waiting = Waiting([job("short", 1), job("long", 9), job("short too", 1)])
    assert [waiting.take(0.0).trial_id for _ in range(3)] == ["long", "short", "short too"]
    assert waiting.take(0.0) is None


def test_a_worker_is_given_only_trials_of_its_share() -> None:
    """Shares of a GPU are kept apart, the share of the longest trial first."""
    waiting = Waiting([job("small", 1, 0.25), job("big", 5, 1.0)])
    assert waiting.shares() == [1.0, 0.25]
    assert waiting.take(0.5) is None
    assert waiting.take(0.25).trial_id == "small"
    assert (waiting.count(0.25), waiting.count(1.0), len(waiting)) == (0, 1, 1)


def test_a_trial_that_must_be_alone_waits_for_all_others() -> None:
    """It is neither given out nor counted while another trial waits."""
    waiting = Waiting([job("alone", 9, alone=True), job("other", 1)])
    assert waiting.take_alone(0.0) is None
    assert waiting.count(0.0) == 1
    assert waiting.take(0.0).trial_id == "other"
    assert (waiting.shares(), waiting.count(0.0)) == ([0.0], 1)
    assert waiting.take_alone(0.0).trial_id == "alone"
    assert len(waiting) == 0


def test_a_lost_worker_counts_and_a_lost_node_does_not() -> None:
    """Three starts when workers die; nodes may die ten times before the trial is suspected."""
    flapping = job()
    assert [flapping.after_loss(False, 3) for _ in range(3)] == [True, True, False]
    unlucky = job()
    assert all(unlucky.after_loss(True, 3) for _ in range(FREE_LOSSES + 2))
    assert not unlucky.after_loss(True, 3)


def test_out_of_memory_asks_for_more_and_never_for_a_smaller_batch() -> None:
    """A quarter of a GPU becomes a half, then all of it, then the machine for itself."""
    small = job(share=0.25)
    steps = []
    while small.after_out_of_memory(max_attempts=10):
        steps.append((small.share, small.alone))
    assert steps == [(0.5, False), (1.0, False), (1.0, True)]
    assert small.trial.spec == job().trial.spec
    on_cpu = job()
    assert on_cpu.after_out_of_memory(3)
    assert on_cpu.alone
    assert not on_cpu.after_out_of_memory(3)


@given(peak=st.integers(1, 200 * GIB), gpu=st.integers(8 * GIB, 200 * GIB))
def test_trials_that_fill_a_gpu_by_their_shares_fit_into_its_memory(peak: int, gpu: int) -> None:
    """k trials with share 1/k, each with its headroom and context, take no more than the GPU has, unless one alone is too big."""
    share = share_for(peak, gpu)
    k = round(1 / share)
    assert share == pytest.approx(1 / k)
    assert k == 1 or k * (HEADROOM * peak + CONTEXT_BYTES) <= gpu * (1 + 1e-9)
    assert k == 16 or (k + 1) * (HEADROOM * peak + CONTEXT_BYTES) > gpu * (1 - 1e-9)
    assert k == 1 or guard_fraction(share, gpu) * gpu >= HEADROOM * peak * (1 - 1e-9)


def test_a_whole_gpu_is_not_guarded() -> None:
    """With a share of 1, and on the CPU, nothing is held back."""
    assert guard_fraction(1.0, 80 * GIB) == 1.0
    assert guard_fraction(0.0, None) == 1.0
