"""What training did to features and confidences. Letters: N images, C channels, K classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15


def expected_calibration_error(confidence_N: Tensor, correct_N: Tensor) -> float:
    """`sum over bins of n_b / N |accuracy_b - confidence_b|` (Guo et al., ICML 2017, arXiv 1706.04599), 15 equal-width bins (low, high].

    Args:
        confidence_N: largest softmax probability.
        correct_N: whether the class that has it is the label.
    """
    if not confidence_N.isfinite().all():
        return float("nan")
    confidence_N = confidence_N.double()
    bin_N = (confidence_N * ECE_BINS).ceil().long().sub(1).clamp(0, ECE_BINS - 1)
    gap_B = torch.zeros(ECE_BINS, dtype=torch.float64).index_add(0, bin_N, correct_N.double() - confidence_N)
    return float(gap_B.abs().sum()) / len(confidence_N)


def class_distances(feature_NC: Tensor, label_N: Tensor) -> dict[str, float]:
    """Compactness and separation of classes in the feature space; features are scaled to unit Euclidean norm first.

    Returns:
        intra_class_distance: mean over images of the Euclidean distance to the mean of the image's class; in [0, 2].
        inter_class_distance: mean over pairs of classes of the Euclidean distance between their means; in [0, 2].
        intra_inter_ratio: the first over the second.
        Only the first with fewer than two classes; no ratio where all means coincide.
    """
    feature_NC = F.normalize(feature_NC.double(), dim=1)
    classes_K, index_N, count_K = label_N.unique(return_inverse=True, return_counts=True)
    mean_KC = torch.zeros(len(classes_K), feature_NC.shape[1], dtype=torch.float64).index_add(0, index_N, feature_NC) / count_K[:, None]
    intra = float((feature_NC - mean_KC[index_N]).norm(dim=1).mean())
    if len(classes_K) < 2:
        return {"intra_class_distance": intra}
    inter = float(F.pdist(mean_KC).mean())
    ratio = {} if inter == 0 else {"intra_inter_ratio": intra / inter}
    return {"intra_class_distance": intra, "inter_class_distance": inter} | ratio
