"""OLE, orthogonal low-rank embedding (Lezama et al., CVPR 2018, arXiv 1712.01727). Letters: B batch, C channels, N images of a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.batch import LossInputs
from pipeline.losses import Loss, register
from pipeline.maps import at_least_float32

SMALL = 1e-6  # singular values below this share of the largest one count as 0


def nuclear_norm(matrix_NC: Tensor) -> Tensor:
    """Sum of the singular values of one matrix, or of each in a stack.

    The gradient is `U V^T` over those singular values that are not 0: of all subgradients the shortest one. Left to itself, autograd
    would add arbitrary directions of full length for those that are 0.
    """
    value_N = torch.linalg.svdvals(matrix_NC)
    return (value_N * (value_N > SMALL * value_N.amax(-1, keepdim=True))).sum(-1)


def ole(feature_BC: Tensor, label_B: Tensor, delta: float) -> Tensor:
    """`(sum over classes of max(delta, ||X_c||_*) - ||X||_*) / B`, with X the features of the batch and X_c those of class c.

    Without delta it is at least 0, and 0 only where the classes lie in orthogonal subspaces.

    Finding the classes of the batch waits for the device once; the singular values wait there anyway.
    """
    order_B = label_B.argsort(stable=True)
    _, count = label_B[order_B].unique_consecutive(return_counts=True)
    # Rows of zeros fill up the smaller classes: they change no singular value.
    classes = torch.nn.utils.rnn.pad_sequence(feature_BC[order_B].split(count.tolist()), batch_first=True)
    return (nuclear_norm(classes).clamp_min(delta).sum() - nuclear_norm(feature_BC)) / len(feature_BC)


@register("ole", label="OLE")
@dataclass(frozen=True, kw_only=True)
class Ole(Loss):
    """Makes the features of each class low-rank and those of different classes orthogonal; see `ole`.

    It acts on the pooled features as the classifier sees them, after dropout; the authors' lambda is the weight of the term (0.25 in
    their code). Their code takes the gradient by hand: `U V^T` without singular values below 1e-6, absolute. Here it is autograd's,
    with the threshold relative to the largest singular value, so that it means the same at every scale.

    Args:
        delta: nuclear norm below which a class is left in peace, so that features do not collapse to zero; 1 is the authors'.
    """

    delta: float = 1.0
    trains_classifier = False
    takes_mixed_labels = False

    def __post_init__(self) -> None:
        if self.delta < 0:
            raise ValueError(f"delta must be >= 0, got {self.delta}")

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch, in units of a feature, computed in float32 at least."""
        assert inputs.target.other_B is None, "no class for a mixed label"
        with torch.autocast(inputs.feature_BC.device.type, enabled=False):
            return ole(at_least_float32(inputs.feature_BC), inputs.target.label_B, self.delta)
