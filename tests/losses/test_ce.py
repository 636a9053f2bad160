"""Cross-entropy with hard, mixed and smoothed labels. Letters: B batch, K classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import losses
from pipeline.batch import LossInputs, Target
from pipeline.errors import UnknownNameError
from pipeline.losses.ce import cross_entropy

B, K = 5, 4
LAM_B = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])


def example() -> tuple[Tensor, Tensor, Tensor]:
    """logits_BK, label_B and other_B, some of them equal."""
    rng = torch.Generator().manual_seed(0)
    return 3 * torch.randn(B, K, generator=rng), torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 1, 0, 2, 3])


def test_hard_labels_are_the_negative_log_likelihood() -> None:
    """Without mixing and smoothing the loss is the mean of -log softmax at the label, in numpy's float64."""
    logits_BK, label_B, _ = example()
    logits = logits_BK.numpy().astype(np.float64)
    expected = np.mean([np.log(np.exp(row).sum()) - row[k] for row, k in zip(logits, label_B.numpy(), strict=True)])
    assert cross_entropy(logits_BK, Target(label_B)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("lam", [None, 0.3, LAM_B], ids=["hard", "float", "lam_B"])
def test_equals_torch_with_soft_targets(lam: Tensor | float | None, smoothing: float) -> None:
    """Mixed and smoothed labels give torch's cross-entropy, value and gradient, with the equivalent soft labels."""
    logits_BK, label_B, other_B = example()
    share_B1 = torch.as_tensor(1.0 if lam is None else lam).expand(B)[:, None]
    soft_BK = share_B1 * F.one_hot(label_B, K) + (1 - share_B1) * F.one_hot(other_B, K)
    soft_BK = (1 - smoothing) * soft_BK + smoothing / K
    target = Target(label_B, smoothing=smoothing) if lam is None else Target(label_B, other_B, lam, smoothing)
    values, gradients = [], []
    for loss in (lambda x: cross_entropy(x, target), lambda x: F.cross_entropy(x, soft_BK)):
        leaf_BK = logits_BK.clone().requires_grad_()
        value = loss(leaf_BK)
        value.backward()
        values.append(value)
        gradients.append(leaf_BK.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_smoothing_is_torchs() -> None:
    """Label smoothing alone is torch's own `label_smoothing`."""
    logits_BK, label_B, _ = example()
    torch.testing.assert_close(
        cross_entropy(logits_BK, Target(label_B, smoothing=0.2)), F.cross_entropy(logits_BK, label_B, label_smoothing=0.2)
    )


def test_bfloat16_logits_are_computed_in_float32() -> None:
    """Logits in bfloat16 give a float32 loss, that of the rounded logits."""
    logits_BK, label_B, _ = example()
    value = cross_entropy(logits_BK.bfloat16(), Target(label_B))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, F.cross_entropy(logits_BK.bfloat16().float(), label_B))


def test_the_registered_term_reads_the_target() -> None:
    """The term called 'ce' is the function on the logits and the target of the batch, and looks at nothing else."""
    logits_BK, label_B, other_B = example()
    target = Target(label_B, other_B, LAM_B, 0.1)
    nothing = torch.full((), float("nan"))
    assert losses.create("ce")(LossInputs(nothing, logits_BK, nothing, target, nothing)) == cross_entropy(logits_BK, target)


def test_an_unknown_loss_is_named() -> None:
    """A loss that nobody registered is an error with the nearest name and where to add one."""
    with pytest.raises(UnknownNameError, match=r"Unknown loss 'cma'\. Did you mean 'cam'\? Known: .*cam.*pipeline/losses/"):
        losses.create("cma")
