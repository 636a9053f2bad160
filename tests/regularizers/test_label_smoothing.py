"""Label smoothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline import regularizers
from pipeline.batch import Batch


def test_only_the_smoothing_changes(make_batch: Callable[..., Batch]) -> None:
    """Images and hard labels are the same objects, so the CAM target is untouched; nothing is drawn."""
    batch, rng = make_batch(), torch.Generator().manual_seed(0)
    state = rng.get_state()
    after = regularizers.create("label_smoothing", epsilon=0.2).on_batch(batch, rng)
    assert after.target.smoothing == 0.2
    assert after.image_BCHW is batch.image_BCHW
    assert after.target.cam_label is batch.target.label_B
    assert batch.target.smoothing == 0.0
    assert torch.equal(rng.get_state(), state)


@pytest.mark.parametrize("first", ["label_smoothing", "mixup"])
def test_smoothing_and_mixing_meet_in_either_order(make_batch: Callable[..., Batch], first: str) -> None:
    """Neither drops what the other has done to the target."""
    batch = make_batch()
    for name in (first, "mixup" if first == "label_smoothing" else "label_smoothing"):
        batch = regularizers.create(name).on_batch(batch, torch.Generator().manual_seed(0))
    assert batch.target.smoothing == 0.1
    assert batch.target.other_B is not None


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.5])
def test_epsilon_is_a_share(epsilon: float) -> None:
    """No smoothing and nothing but smoothing are refused."""
    with pytest.raises(ValueError, match=rf"epsilon must be in \(0, 1\), got {epsilon}"):
        regularizers.create("label_smoothing", epsilon=epsilon)
