"""Cut a library CNN just before its global average pooling, without editing or copying the library.

The network's own `forward` is traced with torch.fx. Only that method and the helpers it calls are looked into: every submodule
except a plain `nn.Sequential` stays one opaque node, so residual blocks and the like run exactly as their authors wrote them.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx, nn

from pipeline.errors import IncompatibleError
from pipeline.models.stages import BlockTracer

_FLATTEN = {torch.flatten, torch.squeeze, torch.reshape, "flatten", "view", "reshape", "squeeze"}
_DROPOUT = {nn.functional.dropout, nn.functional.dropout2d}
_LONGEST_END = 8  # nodes named in a message


class Parts(NamedTuple):
    """A network in two pieces.

    Attributes:
        body: maps image_BCHW to feature_map_BCHW, the input of the global average pooling.
        classifier: the last linear layer, the same object as in the network.
        dropout: probability with which the network drops pooled features while training.
    """

    body: fx.GraphModule
    classifier: nn.Linear
    dropout: float


def cut(network: nn.Module, name: str) -> Parts:
    """Split a network that ends in global average pooling and one linear layer.

    Between pooling and linear layer only flattening, dropout and identities may lie; nothing may follow the linear layer. An
    average pooling with a fixed kernel (as CIFAR networks have, made for one input size) counts as global: what is
    returned has no pooling, so the cut network takes other sizes too. The pieces share the network's parameters, so use the
    network itself no more. A pooling with a fixed kernel that was not global shows as a shape error in the first forward.

    Args:
        network: the library's module; left in the mode (training or evaluation) it came in.
        name: the name of the network in messages.

    Raises:
        IncompatibleError: the network does not end so; the message says what lies there.
        torch.fx.proxy.TraceError: the network's own `forward` branches on the values of tensors.
    """
    training = network.training
    try:
        (graph, pool, linear, dropout), (eval_graph, eval_pool, _, _) = (_locate(network.train(mode), name) for mode in (True, False))
    finally:
        network.train(training)
    if _code_before(graph, pool) != _code_before(eval_graph, eval_pool):
        raise IncompatibleError(f"{name} runs different code in training and in evaluation, so it cannot be cut before its pooling")
    classifier = network.get_submodule(str(linear.target))
    assert isinstance(classifier, nn.Linear)
    feature_map = pool.args[0] if pool.args else pool.kwargs["input"]
    for node in reversed(list(graph.nodes)):
        graph.erase_node(node)
        if node is pool:
            break
    graph.output(feature_map)
    graph.lint()
    body = fx.GraphModule(network, graph, class_name=type(network).__name__)
    body.train(training)
    return Parts(body, classifier, dropout)


def _locate(network: nn.Module, name: str) -> tuple[fx.Graph, fx.Node, fx.Node, float]:
    """Graph, pooling node, linear node and the probability with which a pooled feature is dropped."""
    graph = BlockTracer().trace(network)
    nodes = list(graph.nodes)
    modules = dict(network.named_modules())
    linears = [node for node in nodes if node.op == "call_module" and isinstance(modules[node.target], nn.Linear)]
    if not linears:
        raise IncompatibleError(f"{name} has no linear classifier after its pooling, so its class activation map is undefined")
    linear, output = linears[-1], nodes[-1]
    if output.args[0] is not linear:
        found = _describe(output.args[0], modules) if isinstance(output.args[0], fx.Node) else "something else"
        raise IncompatibleError(f"{name} has {found} after its linear classifier, so its logits are no class activation map's mean")
    dropout, between, pooled = 0.0, [], False
    node = linear.args[0] if linear.args else linear.kwargs["input"]
    while isinstance(node, fx.Node) and node.op in ("call_module", "call_function", "call_method"):
        if _is_global_pool(node, modules):
            pooled = True
            break
        if _is_pool(node, modules):
            between.append(f"{_describe(node, modules)} (no average over all positions)")
            break
        if _is_convolution(node, modules) or len(between) == _LONGEST_END:
            break
        probability = _dropout(node, modules)
        if probability is not None:
            dropout += probability - dropout * probability  # exact for a single one
        elif not _is_flatten(node, modules):
            between.append(_describe(node, modules))
        previous = node.args[0] if node.args else node.kwargs.get("input")
        node = previous if isinstance(previous, fx.Node) else None
    if between or not pooled or not isinstance(node, fx.Node):
        found = ", ".join(reversed(between)) or "no pooling"
        raise IncompatibleError(
            f"{name} has {found} between its last feature map and its linear classifier, where only global average pooling may be, "
            "so its class activation map is undefined"
        )
    return graph, node, linear, dropout


def _code_before(graph: fx.Graph, stop: fx.Node) -> list[str]:
    nodes = list(graph.nodes)
    return [node.format_node() or "" for node in nodes[: nodes.index(stop)]]


def _is_convolution(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d)


def _describe(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(getattr(node.target, "__name__", node.target))


def _is_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return "Pool" in type(modules[str(node.target)]).__name__
    return "pool" in _describe(node, modules)


def _is_global_pool(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return _is_one(module.output_size)
        return isinstance(module, nn.AvgPool2d)
    if node.target is nn.functional.adaptive_avg_pool2d:
        return _is_one(node.args[1] if len(node.args) > 1 else node.kwargs["output_size"])
    if node.target is nn.functional.avg_pool2d:
        return True
    if node.target in (torch.mean, "mean"):
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dim, (list, tuple)) and all(isinstance(d, int) for d in dim) and {int(d) % 4 for d in dim} == {2, 3}
    return False


def _is_one(size: object) -> bool:
    return size in (1, (1, 1), [1, 1])


def _dropout(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    """Probability of a dropout node; None for any other node."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return module.p if isinstance(module, (nn.Dropout, nn.Dropout2d)) else None
    if node.target in _DROPOUT:
        return float(node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5))  # type: ignore[arg-type]
    return None


def _is_flatten(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (nn.Flatten, nn.Identity))
    return node.target in _FLATTEN
