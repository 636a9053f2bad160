"""mixup: the mixture, its share, and the distribution of the share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import v2

from pipeline import regularizers
from pipeline.batch import Batch

MakeBatch = Callable[..., Batch]


def test_images_and_labels_are_mixed_as_by_torchvision(make_batch: MakeBatch) -> None:
    """Each image and its soft label equal torchvision's MixUp of the same pair at the same lam."""
    before = make_batch()
    after = regularizers.create("mixup").on_batch(before, torch.Generator().manual_seed(3))
    assert after.target.other_B is not None
    lam_B = torch.as_tensor(after.target.lam)
    assert lam_B.shape == (6,)
    assert len(lam_B.unique()) == 1
    theirs = v2.MixUp(num_classes=6)
    for i, j in enumerate(after.target.other_B.tolist()):
        lam = float(lam_B[i])
        labels = torch.tensor([i, j])
        parameters = {"lam": lam, "batch_size": 2, "labels": labels}
        torch.testing.assert_close(after.image_BCHW[i], theirs.transform(before.image_BCHW[[i, j]], parameters)[0])
        ours_K = lam * F.one_hot(after.target.label_B[i], 6) + (1 - lam) * F.one_hot(after.target.other_B[i], 6)
        torch.testing.assert_close(ours_K, theirs.transform(labels, parameters)[0])


def test_partners_are_a_permutation_and_labels_stay(make_batch: MakeBatch) -> None:
    """Every image is mixed in exactly once, the first labels stay in place, and the given batch is not written to."""
    before = make_batch()
    copy_BCHW = before.image_BCHW.clone()
    after = regularizers.create("mixup").on_batch(before, torch.Generator().manual_seed(0))
    assert after.target.other_B is not None
    assert sorted(after.target.other_B.tolist()) == list(range(6))
    assert torch.equal(after.target.label_B, before.target.label_B)
    assert torch.equal(before.image_BCHW, copy_BCHW)
    assert before.target.other_B is None


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_is_beta(make_batch: MakeBatch, alpha: float) -> None:
    """lam follows Beta(alpha, alpha): a Kolmogorov-Smirnov test over 2,000 batches does not reject it."""
    mixup, batch, rng = regularizers.create("mixup", alpha=alpha), make_batch(2, 1, 1, 1), torch.Generator().manual_seed(0)
    shares = [float(mixup.on_batch(batch, rng).target.lam[0]) for _ in range(2000)]
    assert all(0 <= lam <= 1 for lam in shares)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_a_share_for_each_image(make_batch: MakeBatch) -> None:
    """With `per_image` every image has its own lam ~ Beta(alpha, alpha), and is mixed by it."""
    before = make_batch(500)
    after = regularizers.create("mixup", alpha=0.4, per_image=True).on_batch(before, torch.Generator().manual_seed(0))
    lam_B, other_B = torch.as_tensor(after.target.lam), after.target.other_B
    assert other_B is not None
    assert stats.kstest(lam_B.tolist(), stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    value_B = lam_B * (before.target.label_B + 1) + (1 - lam_B) * (other_B + 1)
    torch.testing.assert_close(after.image_BCHW, value_B[:, None, None, None].expand_as(after.image_BCHW))


def test_the_generator_decides(make_batch: MakeBatch) -> None:
    """The same generator state gives equal bytes, another seed other bytes, and torch's global generator is left alone."""
    mixup, batch, state = regularizers.create("mixup"), make_batch(), torch.get_rng_state()
    first, again, other = (mixup.on_batch(batch, torch.Generator().manual_seed(seed)).image_BCHW for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_must_be_positive(alpha: float) -> None:
    """Beta(alpha, alpha) needs alpha > 0."""
    with pytest.raises(ValueError, match=f"alpha must be > 0, got {alpha}"):
        regularizers.create("mixup", alpha=alpha)
