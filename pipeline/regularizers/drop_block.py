"""DropBlock (Ghiasi et al., NeurIPS 2018, arXiv 1810.12890). Letters: B batch, C channels, H W rows and columns of a map."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.regularizers import Regularizer, register
from pipeline.regularizers.stage_choice import check_stages, chosen_points


@register("drop_block", label="DropBlock")
class DropBlock(Regularizer):
    """Zero square blocks of the feature maps at the ends of some stages while training (`torchvision.ops.drop_block2d`).

    Blocks are drawn for each image and channel, lie inside the map, and the rest is scaled up by the share that is left. A block
    larger than the map is cut to the largest odd side that fits. What is dropped at the last stage is missing in the maps
    that CAM-loss compares, too. The paper drops after each convolution and raises p from 0 during training; here the ends of stages
    are dropped, with a constant p. The noise comes from torch's global generator.

    Args:
        p: share of the map that is dropped, before blocks overlap, in (0, 1).
        block_size: side of a block in cells of the map, odd; 1 is dropout of single cells.
        stages: counted from 0, or from the end with -1 the last.

    Raises:
        ValueError: an option is out of range.
    """

    # A dataclass would hide the default of a list, which the study file shows.
    def __init__(self, *, p: float = 0.1, block_size: int = 7, stages: list[int] = [-1, -2]) -> None:  # noqa: B006
        if not 0 < p < 1:
            raise ValueError(f"p must be in (0, 1), got {p}")
        if block_size < 1 or block_size % 2 == 0:
            raise ValueError(f"block_size must be an odd number >= 1, got {block_size}")
        self.p, self.block_size, self.stages = p, block_size, check_stages(stages)

    def on_model(self, model: nn.Module) -> None:
        """Drop at the end of each chosen stage.

        Raises:
            IncompatibleError: the backbone lacks one of the stages.
        """
        for point in chosen_points(model, self.stages):
            point.register_forward_hook(self._drop)

    def _drop(self, point: nn.Module, _given: object, map_BCHW: Tensor) -> Tensor:
        from torchvision.ops import drop_block2d

        side = min(self.block_size, *map_BCHW.shape[2:])
        return drop_block2d(map_BCHW, self.p, side - 1 + side % 2, training=point.training)
