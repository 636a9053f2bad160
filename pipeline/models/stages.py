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

    Modules, parameters and buffers are shared with `body`, in the same order and under the same names; each keeps its mode
    (training or evaluation).

    Raises:
        IncompatibleError: `body` cannot be traced, cannot be run on a square of `PROBE` pixels, or does not end in a feature map.
    """
    if not isinstance(body, fx.GraphModule):
        body = _traced(body)
    sizes = _sizes(body)
    (feature_map,) = (node.args[0] for node in body.graph.nodes if node.op == "output")
    if not isinstance(feature_map, fx.Node) or feature_map not in sizes:
        raise IncompatibleError("its body cannot be cut into stages: it does not end in one feature map of rows and columns")
    last_of = {size: node for node, size in sizes.items()}
    last_of[sizes[feature_map]] = feature_map
    names = []
    ends = sorted(last_of.values(), key=list(body.graph.nodes).index)
    for index, node in enumerate(ends):
        name = f"stage_end_{index}"
        body.add_module(name, nn.Identity().train(body.training))
        with body.graph.inserting_after(node):
            point = body.graph.call_module(name, (node,))
        node.replace_all_uses_with(point, delete_user_cb=lambda user, point=point: user is not point)
        names.append(name)
    body.graph.lint()
    body.recompile()
    return body, names


def _traced(body: nn.Module) -> fx.GraphModule:
    modes = {module: module.training for module in body.modules()}
    try:
        train, evaluate = (BlockTracer().trace(body.train(mode)) for mode in (True, False))
    except Exception as error:
        raise IncompatibleError(f"its body cannot be cut into stages: {_first_line(error)}") from error
    finally:
        _restore(modes)
    if [node.format_node() for node in train.nodes] != [node.format_node() for node in evaluate.nodes]:
        raise IncompatibleError("its body cannot be cut into stages: it runs different code in training and in evaluation")
    traced = fx.GraphModule(body, train, class_name=type(body).__name__)
    for name, module in traced.named_modules():
        module.training = body.get_submodule(name).training  # containers are made anew, in training mode
    # Averaged copies of the weights are paired with the weights by position.
    if list(traced.state_dict()) != list(body.state_dict()):
        raise IncompatibleError(
            "its body cannot be cut into stages: it has layers that it does not run, or runs them in another order than it defines them"
        )
    return traced


def _sizes(body: fx.GraphModule) -> dict[fx.Node, tuple[int, int]]:
    """Rows and columns of every map when an image of `PROBE` pixels a side is sent through."""
    conv = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None:
        raise IncompatibleError("its body cannot be cut into stages: it has no convolution")
    modes = {module: module.training for module in body.modules()}
    image_BCHW = torch.zeros(1, conv.in_channels, PROBE, PROBE, device=conv.weight.device, dtype=conv.weight.dtype)
    shapes = _Shapes(body)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            body.eval()  # batch statistics must not see the probe
            shapes.run(image_BCHW)
    except torch.OutOfMemoryError:  # may pass
        raise
    except Exception as error:
        reason = f"it cannot run on {PROBE}x{PROBE} pixels: {_first_line(error)}"
        raise IncompatibleError(f"its body cannot be cut into stages: {reason}") from error
    finally:
        _restore(modes)
    return shapes.sizes


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
