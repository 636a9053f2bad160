"""Small parts that several losses share. Letters: B batch, N vectors, C channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.batch import Target


def mean_over_labels(target: Target, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """`mean over B of lam * L(a) + (1 - lam) * L(b)` for mixed labels, of `L(y)` for hard ones.

    Args:
        loss_of: takes label_B, gives loss_B.
    """
    loss_B = loss_of(target.label_B)
    if target.other_B is not None:
        loss_B = target.lam * loss_B + (1 - target.lam) * loss_of(target.other_B)
    return loss_B.mean()


def unit_length(vector_NC: Tensor) -> Tensor:
    """Each row divided by its Euclidean length.

    A row of zeros has no direction: it stays zero, and its gradient is of the size of what comes in. `F.normalize` divides there by
    its tiny eps, so that one image whose features are all dead would blow up the whole step.
    """
    length_N1 = torch.linalg.vector_norm(vector_NC, dim=1, keepdim=True)
    return vector_NC / length_N1.masked_fill(length_N1 == 0, 1.0)
