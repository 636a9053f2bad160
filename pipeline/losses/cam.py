"""CAM-loss: pull the class-agnostic activation map towards the class activation map of the label.

Wang et al., "CAM-loss: Towards Learning Spatially Discriminative Feature Representations", ICCV 2021, arXiv 2109.01359.
Letters: B batch, C channels, H W rows and columns of the feature map, K classes.

Known of the paper: CAM and CAAM are taken just before global average pooling, an l1 distance compares them, and the classifier
weight is updated by cross-entropy only. Not known: the normalisation of the maps, the reduction of the distance, whether both
maps move, and what becomes of mixed labels. Those are options here, with defaults that a study can ablate. Other targets, other
class-agnostic maps and inner stages are this project's own variants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import maps
from pipeline.batch import LossInputs
from pipeline.errors import ConfigError, IncompatibleError, UnknownNameError
from pipeline.losses import Loss, register
from pipeline.losses.class_shares import WHOLE, Label, Mixed, class_shares, comparisons, present_classes, target_weights
from pipeline.maps import Agnostic, at_least_float32, caam, cam, grad_cam_weights, min_max, weighted_map

__all__ = ["CamLoss", "caam", "cam", "cam_loss", "distance_B", "min_max", "normalize"]

Distance = Literal["l1", "l2", "smooth_l1", "kl", "cosine"]
Normalization = Literal["min_max", "l2", "softmax", "standardize", "none"]
Reduction = Literal["mean", "sum"]
WhichTarget = Literal["label", "predicted", "top_k", "multi_label"]
Smoothing = Literal["hard", "shares"]
InnerTarget = Literal["own", "last"]


def normalize(map_BHW: Tensor, how: Normalization) -> Tensor:
    """Make maps of different scale comparable, each image by itself.

    `min_max`: to [0, 1]; `l2`: unit Euclidean norm; `softmax`: sums to one; `standardize`: zero mean, unit variance; `none`: as is.
    A constant map becomes zeros under `min_max` and `standardize`, a zero map stays zero under `l2`.
    """
    if how == "min_max":
        return min_max(map_BHW)
    if how == "none":
        return map_BHW
    flat_BP = map_BHW.flatten(1)
    if how == "l2":
        flat_BP = F.normalize(flat_BP, dim=1)
    elif how == "softmax":
        flat_BP = flat_BP.softmax(dim=1)
    elif how == "standardize":
        flat_BP = F.layer_norm(flat_BP, flat_BP.shape[1:])
    else:
        raise UnknownNameError("normalization", how, get_args(Normalization))
    return flat_BP.view_as(map_BHW)


def distance_B(a_BHW: Tensor, b_BHW: Tensor, kind: Distance, reduction: Reduction) -> Tensor:
    """Distance between two maps, one number an image.

    `l1`, `l2` (squared) and `smooth_l1` are taken a pixel and reduced over H W by `reduction`. `kl` is KL(softmax(b) || softmax(a))
    and `cosine` is 1 - cos(a, b): both are one number for a whole map, so `reduction` does not touch them.
    """
    if reduction not in ("mean", "sum"):
        raise UnknownNameError("reduction", reduction, get_args(Reduction))
    a_BP, b_BP = a_BHW.flatten(1), b_BHW.flatten(1)
    if kind == "kl":
        return F.kl_div(a_BP.log_softmax(1), b_BP.log_softmax(1), reduction="none", log_target=True).sum(1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(a_BP, b_BP, dim=1)
    if kind == "l1":
        pixel_BP = (a_BP - b_BP).abs()
    elif kind == "l2":
        pixel_BP = (a_BP - b_BP).square()
    elif kind == "smooth_l1":
        pixel_BP = F.smooth_l1_loss(a_BP, b_BP, reduction="none")
    else:
        raise UnknownNameError("distance", kind, get_args(Distance))
    return pixel_BP.mean(1) if reduction == "mean" else pixel_BP.sum(1)


def map_loss(
    feature_map_BCHW: Tensor,
    target_BHW: Tensor,
    share_B: Tensor | float,
    *,
    distance: Distance,
    normalization: Normalization,
    reduction: Reduction,
    target_grad: bool,
    caam: Agnostic,
) -> Tensor:
    """`mean over B of share_b d(norm(CAAM), norm(target))`; the options are those of `cam_loss`."""
    source_BHW = normalize(maps.caam(feature_map_BCHW, caam), normalization)
    target_BHW = normalize(target_BHW if target_grad else target_BHW.detach(), normalization)
    each_B = distance_B(source_BHW, target_BHW, distance, reduction)
    return (each_B if isinstance(share_B, float) and share_B == WHOLE else share_B * each_B).mean()


def cam_loss(
    feature_map_BCHW: Tensor,
    classifier_weight_KC: Tensor,
    label_B: Label,
    *,
    distance: Distance = "l1",
    normalization: Normalization = "min_max",
    reduction: Reduction = "mean",
    classifier_grad: bool = False,
    target_grad: bool = True,
    caam: Agnostic = "sum",
    mixed: Mixed = "maps",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`mean over B of d(norm(CAAM), norm(CAM_y))`, the L_cam of the module docstring.

    Args:
        label_B: labels; or (label_a_B, label_b_B, lam) when labels are mixed, see `mixed`; or share_BK, a matrix of real numbers:
            the target is `sum_k share_k CAM_k`, so a row of several ones asks for the sum of their maps.
        distance: see `distance_B`.
        normalization: applied to both maps, see `normalize`.
        reduction: over the pixels of a map; the batch is always averaged.
        classifier_grad: let the gradient reach the classifier weight. Off by default: the weight is detached.
        target_grad: let the gradient flow through the CAM into the feature map too; False detaches the CAM.
        caam: which class-agnostic map, see `pipeline.maps.caam`.
        mixed: `maps`: the target is `lam CAM_a + (1 - lam) CAM_b`, mixed before normalisation; the others: see `comparisons`.
        label_smoothing: s in `(1 - s) q + s / K`, the class shares of which the target is made.

    Returns:
        Scalar >= 0, computed in float32 at least.

    Raises:
        UnknownNameError: unknown distance, normalization, reduction, caam or mixed.
    """
    feature_map_BCHW = at_least_float32(feature_map_BCHW)
    weight_KC = classifier_weight_KC if classifier_grad else classifier_weight_KC.detach()
    how = {"distance": distance, "normalization": normalization, "reduction": reduction, "target_grad": target_grad, "caam": caam}
    # Autocast would send the sum over channels back to bfloat16.
    with torch.autocast(feature_map_BCHW.device.type, enabled=False):
        first, *others = [
            map_loss(feature_map_BCHW, weighted_map(feature_map_BCHW, target_weights(weight_KC, label, label_smoothing)), share_B, **how)
            for share_B, label in comparisons(label_B, mixed)
        ]
    return sum(others, first)


@register("cam", label="CAM-loss")
@dataclass(frozen=True, kw_only=True)
class CamLoss(Loss):
    """CAM-loss term. Options that `cam_loss` has too are explained there.

    Attributes:
        target: the class of the target CAM. `label`; `predicted`: highest logit; `top_k`: the `top_k` highest logits with equal
            shares; `multi_label`: every class in the image with equal shares, whatever lam is. The choice has no gradient.
        mixed: only for the target `label`.
        smoothing: `hard`: label smoothing does not touch the target CAM; `shares`: the target is made of the smoothed label.
        stages: where the maps are compared, counted from the end, -1 the last feature map; several: the mean of their terms. No
            classifier fits the channels of an inner stage, so `own` takes Grad-CAM there, without its ReLU: at the last stage that is
            the CAM up to scale. Its channel weights are detached, as the classifier is, so `classifier_grad` does nothing there.
        inner_target: what an inner stage is compared with. `own`: its own class map; `last`: the last stage's CAM, resized
            bilinearly (deep supervision).
    """

    distance: Distance = "l1"
    normalization: Normalization = "min_max"
    reduction: Reduction = "mean"
    classifier_grad: bool = False
    target_grad: bool = True
    caam: Agnostic = "sum"
    target: WhichTarget = "label"
    top_k: int = 3
    mixed: Mixed = "maps"
    smoothing: Smoothing = "hard"
    stages: list[int] = field(default_factory=lambda: [-1])
    inner_target: InnerTarget = "own"
    trains_classifier = False

    def __post_init__(self) -> None:
        words = {"distance": Distance, "normalization": Normalization, "reduction": Reduction, "caam": Agnostic, "target": WhichTarget}
        words |= {"mixed": Mixed, "smoothing": Smoothing, "inner_target": InnerTarget}
        for option, known in words.items():
            if getattr(self, option) not in get_args(known):
                raise UnknownNameError(option, getattr(self, option), get_args(known), where="loss 'cam'")
        if self.top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {self.top_k}")
        if not self.stages or max(self.stages) > -1 or len(set(self.stages)) < len(self.stages):
            raise ValueError(f"stages must be different whole numbers <= -1 (-1 is the last), at least one, got {self.stages}")
        if self.mixed != "maps" and self.target != "label":
            raise ValueError(f"mixed must be 'maps' unless target is 'label', got {self.mixed!r} with target {self.target!r}")
        if self.smoothing == "shares" and self.target in ("predicted", "top_k"):
            raise ValueError(f"smoothing 'shares' is about labels, so it has no meaning with target {self.target!r}")

    @property
    def fewest_stages(self) -> int:  # type: ignore[override]
        """The deepest stage that is compared, counted from the end."""
        return -min(self.stages)

    @property
    def compares_positions(self) -> bool:  # type: ignore[override]
        """Whether the last map is compared, or compared with; the min-max of one pixel is 0, so nothing would be learnt."""
        return -1 in self.stages or self.inner_target == "last"

    def attach(self, classifier: nn.Linear) -> None:
        """Only look.

        Raises:
            IncompatibleError: there are fewer classes than `top_k`.
        """
        if self.target == "top_k" and self.top_k > classifier.out_features:
            raise IncompatibleError(_too_few_classes(self.top_k, classifier.out_features))

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Scalar L_cam of the batch, unweighted.

        Raises:
            IncompatibleError: the network has fewer stages than `stages` asks for.
            ConfigError: there are fewer classes than `top_k`.
        """
        label, label_smoothing = self._label(inputs), inputs.target.smoothing if self.smoothing == "shares" else 0.0
        how = {name: getattr(self, name) for name in ("distance", "normalization", "reduction", "target_grad", "caam")}
        last = {"classifier_grad": self.classifier_grad, "mixed": self.mixed, "label_smoothing": label_smoothing, **how}
        terms = [cam_loss(inputs.feature_map_BCHW, inputs.classifier_weight_KC, label, **last)] if -1 in self.stages else []
        if self.fewest_stages > 1:
            inner = self._inner_maps(inputs)
            with torch.autocast(inputs.feature_map_BCHW.device.type, enabled=False):
                terms += [
                    map_loss(at_least_float32(map_BCHW), target_BHW, share_B, **how)
                    for share_B, part in comparisons(label, self.mixed)
                    for map_BCHW, target_BHW in zip(inner, self._inner_targets(inputs, inner, part, label_smoothing), strict=True)
                ]
        first, *others = terms
        total = sum(others, first)
        return total if len(self.stages) == 1 else total / len(self.stages)

    def _label(self, inputs: LossInputs) -> Label:
        label, (batch_size, num_classes) = inputs.target.cam_label, inputs.logits_BK.shape
        if self.target == "label":
            return label
        if self.target == "multi_label":
            return present_classes(label)
        if self.target == "predicted":
            return inputs.logits_BK.argmax(dim=1)
        if self.top_k > num_classes:
            raise ConfigError(_too_few_classes(self.top_k, num_classes))
        highest_BT = inputs.logits_BK.detach().topk(self.top_k, dim=1).indices
        share_BK = torch.zeros(batch_size, num_classes, device=highest_BT.device)
        return share_BK.scatter(1, highest_BT, 1 / self.top_k)

    def _inner_maps(self, inputs: LossInputs) -> list[Tensor]:
        count = len(inputs.stage_maps)
        if -min(self.stages) > count:
            raise IncompatibleError(f"loss.cam.stages asks for stage {min(self.stages)}, but this network has {count}: -1 to -{count}")
        return [inputs.stage_maps[stage] for stage in self.stages if stage != -1]

    def _inner_targets(self, inputs: LossInputs, inner: list[Tensor], label: Label, label_smoothing: float) -> list[Tensor]:
        """The target map at each inner stage."""
        weight_KC = inputs.classifier_weight_KC if self.classifier_grad else inputs.classifier_weight_KC.detach()
        if self.inner_target == "own":
            share_BK = class_shares(label, len(weight_KC), label_smoothing, weight_KC.dtype)
            weights = grad_cam_weights(inputs.logits_BK, inner, share_BK)
            return [weighted_map(at_least_float32(map_BCHW), weight_BC) for map_BCHW, weight_BC in zip(inner, weights, strict=True)]
        last_BHW = weighted_map(at_least_float32(inputs.feature_map_BCHW), target_weights(weight_KC, label, label_smoothing))
        sizes = [map_BCHW.shape[2:] for map_BCHW in inner]
        return [F.interpolate(last_BHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] for size in sizes]


def _too_few_classes(top_k: int, num_classes: int) -> str:
    return f"loss.cam.top_k is {top_k}, but there are only {num_classes} classes"
