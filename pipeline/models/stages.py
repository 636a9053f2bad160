"""Where one stage of a network ends and the next begins, found by looking at the resolution of what flows.

Letters: B batch, C channels, H W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from pipeline.errors import IncompatibleError

PROBE = 128  # pixels a side: large enough for every body to halve its resolution as often as it can


class BlockTracer(fx.Tracer):
    """Sees the layers of a network's own `forward`; every submodule except a plain `nn.Sequential` stays one opaque node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` stays opaque."""
        return type(m) is not nn.Sequential


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the rows and columns of every map."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: dict[fx.Node, tuple[int, int]] = {}

    def run_node(self, n: fx.Node) -> object:
        out = super().run_node(n)
        if isinstance(out, Tensor) and out.dim() == 4 and n.op not in ("placeholder", "output", "get_attr"):
            self.sizes[n] = (out.shape[2], out.shape[3])
        return out


def with_stage_points(body: nn.Module) -> tuple[fx.GraphModule, list[str]]:
    """A body with an `nn.Identity` after the last map of each resolution, and the names of these, in forward order.

    Parameters and buffers are shared with `body` and keep their names.

    Raises:
        IncompatibleError: `body` cannot be traced.
    """
    if not isinstance(body, fx.GraphModule):
        try:
            traced = BlockTracer().trace(body)
        except Exception as error:
            raise IncompatibleError(f"its body cannot be cut into stages: {error}") from error
        training = body.training
        body = fx.GraphModule(body, traced).train(training)
    in_channels = next(m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d))
    device = next(body.parameters()).device
    shapes = _Shapes(body)
    training = body.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            body.eval()
            shapes.run(torch.zeros(1, in_channels, PROBE, PROBE, device=device))
    finally:
        body.train(training)
    last_of = {size: node for node, size in shapes.sizes.items()}
    (feature_map,) = (node.args[0] for node in body.graph.nodes if node.op == "output")
    last_of[shapes.sizes[feature_map]] = feature_map
    names = []
    ends = sorted(last_of.values(), key=list(body.graph.nodes).index)
    for index, node in enumerate(ends):
        name = f"stage_end_{index}"
        body.add_module(name, nn.Identity())
        with body.graph.inserting_after(node):
            point = body.graph.call_module(name, (node,))
        node.replace_all_uses_with(point, delete_user_cb=lambda user, point=point: user is not point)
        names.append(name)
    body.graph.lint()
    body.recompile()
    return body, names
