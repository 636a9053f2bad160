"""The contract that every backbone keeps: a feature map, global average pooling, one linear classifier.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.stages import with_stage_points


class Backbone(nn.Module):
    """A CNN that ends in global average pooling and one linear layer, cut just before the pooling.

    For such a network the class activation map is exact (Zhou et al., CVPR 2016): with feature map f and classifier weight W,
    bias b, `logits_k = mean over H, W of sum_c W_kc f_c(h, w) + b_k`.

    Args:
        body: maps image_BCHW to feature_map_BCHW.
        classifier: the linear layer after the pooling.
        dropout: probability with which pooled features are dropped while training.

    Raises:
        ConfigError: the dropout is no probability below 1.
    """

    def __init__(self, body: nn.Module, classifier: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(check_dropout(dropout))
        self.classifier = classifier
        self._has_bias = classifier.bias is not None
        self._stage_points: list[str] | None = None

    def stage_points(self) -> list[nn.Identity]:
        """One `nn.Identity` at the end of each stage, in forward order; the last one stands where the feature map leaves the body.

        A stage is a run of layers with maps of one resolution. The points are put into the body at the first call; a hook on one of
        them sees, and may change, what passes.

        Raises:
            IncompatibleError: the body cannot be traced.
        """
        if self._stage_points is None:
            self.body, names = with_stage_points(self.body)
            self._stage_points = names
        return [self.body.get_submodule(name) for name in self._stage_points]  # type: ignore[misc]

    def forward_stages(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Feature map at the end of each stage, in forward order; the last one is feature_map_BCHW."""
        maps: list[Tensor] = []
        hooks = [point.register_forward_hook(lambda _module, _given, out: maps.append(out)) for point in self.stage_points()]
        try:
            self.body(image_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(maps)

    @property
    def classifier_weight_KC(self) -> Tensor:
        """Weight of the classifier, the live parameter."""
        return self.classifier.weight

    def forward_features(self, image_BCHW: Tensor) -> Tensor:
        """feature_map_BCHW, before pooling."""
        return self.body(image_BCHW)

    def plain_state_dict(self) -> dict[str, Tensor]:
        """Weights on the CPU that a fresh backbone of the same name and options loads, whatever a loss has made of the classifier."""
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("classifier.")}
        weight_KC, bias_K = self.classifier.weight, self.classifier.bias
        state["classifier.weight"] = weight_KC
        if self._has_bias:
            state["classifier.bias"] = weight_KC.new_zeros(len(weight_KC)) if bias_K is None else bias_K
        # Weights lie channels-last while training; files take plain layout only.
        return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}

    def pool(self, feature_map_BCHW: Tensor) -> Tensor:
        """feature_BC: global average pooling, then dropout; what the classifier sees."""
        return self.dropout(feature_map_BCHW.mean(dim=(2, 3)))

    def forward_head(self, feature_map_BCHW: Tensor) -> Tensor:
        """logits_BK from a feature map."""
        return self.classifier(self.pool(feature_map_BCHW))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """logits_BK from images."""
        return self.forward_head(self.forward_features(image_BCHW))


@torch.no_grad()
def num_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def check_dropout(dropout: float) -> float:
    """The probability itself.

    Raises:
        ConfigError: it is not in [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"backbone.dropout is a probability in [0, 1), got {dropout}; 0 switches it off")
    return dropout
