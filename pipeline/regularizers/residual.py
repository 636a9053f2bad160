"""Find the residual blocks of any network and put a module on their branches. Registers no name: methods of this folder share it.

A block adds a shortcut (its input, or a projection of it) to a branch of convolutions. It is found by following the additions in
the network's own `forward` with torch.fx, so neither the names of the layers nor the library they come from matter.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import fx, nn

from pipeline.errors import IncompatibleError

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_FUNCTIONS = {nn.functional.conv2d, nn.functional.linear}
_OWN_NOISE = {"StochasticDepth", "DropPath"}  # torchvision's and timm's, at the end of a branch
_PREFIX = "branch_"


class _Site(NamedTuple):
    """One addition of a shortcut and a branch.

    Attributes:
        owner: dotted name, inside the body, of the module whose `forward` adds; '' for the body itself.
        graph: what that module does.
        add: the addition.
        branch: the operand that is the branch.
    """

    owner: str
    graph: fx.Graph
    add: fx.Node
    branch: fx.Node


class _Tracer(fx.Tracer):
    """Sees a module's own `forward`; all its submodules stay opaque."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` stays opaque."""
        return True


def put_on_branches(model: nn.Module, name: str, make: Callable[[float], nn.Module]) -> int:
    """Put a new module at the end of each residual branch, just before the addition; returns the number of blocks L.

    Blocks without an addition (a MobileNetV2's first of a stage, say) are left alone and not counted, and so are those that get their
    shortcut handed in from outside (DLA). Parameters and buffers stay the same objects under the same names. Where a branch ends in
    the network's own stochastic depth (EfficientNet), that gives place to the new module, so that only the new one acts; what
    another regularizer has put there stays.

    Args:
        model: a backbone; its `body` is changed in place, or replaced by a module with the same parameters.
        name: the regularizer, for names of modules and messages.
        make: builds the module of the l-th of L blocks, in forward order, from l / L.

    Raises:
        IncompatibleError: there are no residual blocks, or a module with convolutions cannot be traced.
    """
    sites = list(_sites(model.body, ""))
    if not sites:
        raise IncompatibleError(f"this network has no residual blocks for {name} to act on")
    owners: dict[str, nn.Module] = {site.owner: model.body.get_submodule(site.owner) for site in sites}
    for index, site in enumerate(sites, 1):
        owner, module = owners[site.owner], make(index / len(sites))
        module.train(owner.training)
        if _is_own_noise(site, owner):
            owner.set_submodule(str(site.branch.target), module)
            continue
        child = next(label for label in _labels(name) if not hasattr(owner, label))
        owner.add_module(child, module)
        with site.graph.inserting_before(site.add):
            node = site.graph.call_module(child, (site.branch,))
        site.add.replace_input_with(site.branch, node)
    for path, graph in {site.owner: site.graph for site in sites}.items():
        edited = _with_graph(owners[path], graph)
        if path:
            model.body.set_submodule(path, edited)
        else:
            model.body = edited
    return len(sites)


def _with_graph(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    graph.lint()
    if isinstance(module, fx.GraphModule):
        module.recompile()
        return module
    edited = fx.GraphModule(module, graph, class_name=type(module).__name__)
    if edited.state_dict().keys() - {*module.state_dict()} or module.state_dict().keys() - {*edited.state_dict()}:
        raise IncompatibleError(f"this network has layers that it does not run (in {type(module).__name__}), so nothing can be put into it")
    return edited


def _labels(name: str) -> Iterator[str]:
    yield _PREFIX + name
    yield from (f"{_PREFIX}{name}_{number}" for number in range(2, 1000))


def _is_own_noise(site: _Site, owner: nn.Module) -> bool:
    if site.branch.op != "call_module" or str(site.branch.target).startswith(_PREFIX):
        return False
    return type(owner.get_submodule(str(site.branch.target))).__name__ in _OWN_NOISE


def _sites(module: nn.Module, path: str) -> Iterator[_Site]:
    """The residual additions of a module and of what it calls, in forward order."""
    single = isinstance(module, (nn.Conv2d, nn.Linear)) or _layers(module) == 0
    if single or (type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)):
        return
    graph = _graph(module)
    found: dict[fx.Node, tuple[fx.Node, set[fx.Node]]] = {}
    for node in graph.nodes:
        if (block := _residual(node, module)) is not None:
            found[node] = block
    if found and not isinstance(module, fx.GraphModule) and str(_graph(module, not module.training)) != str(graph):
        raise IncompatibleError(
            f"this network runs different code in training and in evaluation (in {type(module).__name__}), so nothing can be put into it"
        )
    inside = set().union(*(region for _, region in found.values()))
    seen: set[str] = set()
    for node in graph.nodes:
        if node in found:
            yield _Site(path, graph, node, found[node][0])
        elif node.op == "call_module" and node not in inside and node.target not in seen:
            seen.add(str(node.target))
            child = module.get_submodule(str(node.target))
            yield from _sites(child, f"{path}.{node.target}" if path else str(node.target))


def _graph(module: nn.Module, training: bool | None = None) -> fx.Graph:
    """What a module does in training or in evaluation; by default in the mode it is in."""
    if isinstance(module, fx.GraphModule):
        return module.graph
    before = module.training
    module.training = before if training is None else training  # its own flag only: submodules are not looked into
    try:
        return _Tracer().trace(module)
    except Exception as error:
        where = type(module).__name__
        raise IncompatibleError(f"this network cannot be searched for residual blocks: its code cannot be followed (in {where})") from error
    finally:
        module.training = before


def _residual(add: fx.Node, module: nn.Module) -> tuple[fx.Node, set[fx.Node]] | None:
    """(branch, all nodes of branch and shortcut) if `add` closes a residual block.

    Both operands come from one node, nothing between that node and the addition is used elsewhere, the shortcut has at
    most one layer with weights, and the branch has more.
    """
    if add.op not in ("call_function", "call_method") or add.target not in _ADDITIONS or len(add.args) != 2:
        return None
    left, right = add.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return None
    above_left, above_right = _above(left), _above(right)
    common = above_left & above_right
    if not common:
        return None
    start = max(common)  # fx nodes compare by their place in the graph
    region = (above_left | above_right) - _above(start)
    if any(user not in region and user is not add and not _unused(user) for node in (start, *region) for user in node.users):
        return None
    weighted = [sum(_weighted(node, module) for node in _above(operand) & region) for operand in (left, right)]
    shortcut, branch = min(weighted), max(weighted)
    if shortcut > 1 or branch <= shortcut:
        return None
    return (left if weighted[0] == branch else right), region


def _unused(node: fx.Node) -> bool:
    return node.target is operator.getitem and not node.users


def _above(node: fx.Node) -> set[fx.Node]:
    """The node and all that it depends on."""
    seen, ahead = {node}, [node]
    while ahead:
        for source in ahead.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                ahead.append(source)
    return seen


def _weighted(node: fx.Node, module: nn.Module) -> int:
    """Number of convolutions and linear layers in a node."""
    if node.op == "call_module":
        return _layers(module.get_submodule(str(node.target)))
    return int(node.op == "call_function" and node.target in _FUNCTIONS)


def _layers(module: nn.Module) -> int:
    return sum(isinstance(inner, (nn.Conv2d, nn.Linear)) for inner in module.modules())
