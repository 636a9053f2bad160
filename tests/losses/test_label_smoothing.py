"""Label smoothing as a loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline import losses
from pipeline.batch import Target
from tests.losses.feature_batch import LABEL_B, B, K, descent, features, inputs, mixed_is_the_mixture


def test_is_torchs_label_smoothing() -> None:
    """With hard labels the loss is torch's smoothed cross-entropy, in float32."""
    given = inputs(*features(), LABEL_B)
    expected = F.cross_entropy(given.logits_BK.float(), LABEL_B, label_smoothing=0.1)
    torch.testing.assert_close(losses.create("label_smoothing")(given), expected)


def test_mixed_labels() -> None:
    """Mixed labels give the mixture of the two smoothed losses."""
    loss = losses.create("label_smoothing", epsilon=0.3)
    mixed_is_the_mixture(lambda given: loss(given).double())


def test_a_smoothed_target_is_smoothed_again() -> None:
    """Target and loss smooth in turn: the soft label is that of smoothing twice, by hand."""
    given = inputs(*features(), Target(LABEL_B, smoothing=0.2))
    soft_BK = 0.8 * F.one_hot(LABEL_B, K) + 0.2 / K
    soft_BK = 0.7 * soft_BK + 0.3 / K
    assert soft_BK.shape == (B, K)
    torch.testing.assert_close(
        losses.create("label_smoothing", epsilon=0.3)(given), F.cross_entropy(given.logits_BK.float(), soft_BK.float())
    )


def test_descends() -> None:
    """A few steps lower the loss."""
    first, last = descent(losses.create("label_smoothing"))
    assert last < 0.95 * first


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1])
def test_bad_options(epsilon: float) -> None:
    """The mass must lie strictly between 0 and 1; the message names what was given."""
    with pytest.raises(ValueError, match=rf"epsilon must be in \(0, 1\), got {epsilon}"):
        losses.create("label_smoothing", epsilon=epsilon)
