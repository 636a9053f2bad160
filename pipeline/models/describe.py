"""What a backbone is like: size, cost, feature map, stages, the library it comes from. No weights are made, so it takes milliseconds.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from pipeline import models
from pipeline.errors import IncompatibleError, UnknownNameError
from pipeline.models.backbone import num_parameters
from pipeline.models.weightless import Weightless

MOST = 40  # backbones described by one command
LIBRARIES = ("timm", "torchdistill", "torchvision")  # the first one that a backbone's file imports is named


@dataclass(frozen=True)
class Description:
    """A backbone at one image size.

    Attributes:
        name: the word in a study file.
        label: the words in a table.
        family: the file under pipeline/models that registers it, without '.py'; for timm's networks timm's own file as well.
        library: where the network comes from; 'pipeline' for our own.
        options: option name -> value.
        reason: why class activation maps are undefined for it; '' where they are exact. What follows is None then, what precedes empty.
        parameters: trainable scalars, classifier included.
        multiply_adds: of convolutions, linear layers and matrix products in one forward pass of one image; half of what
            torch's `FlopCounterMode` calls FLOPs. Norms, activations and poolings are not counted.
        feature_map: (C, H, W).
        stages: runs of layers with maps of one resolution; None where the body cannot be traced.
        problem: why `feature_map` and `multiply_adds` are None: the image is too small, for example.
    """

    name: str
    label: str
    family: str
    library: str
    options: dict[str, Any]
    reason: str = ""
    parameters: int | None = None
    multiply_adds: int | None = None
    feature_map: tuple[int, int, int] | None = None
    stages: int | None = None
    problem: str = ""


def describe(name: str, *, size: int = 32, in_channels: int = 3, num_classes: int = 10, **options: Any) -> Description:
    """Look at one backbone.

    Args:
        name: a registered name.
        size: rows and columns of the image.
        in_channels: channels of the image.
        num_classes: K.
        **options: of this backbone.

    Raises:
        UnknownNameError: nobody registered the name.
        ConfigError: an option or number that it does not allow, or its library is not installed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which planning can do without

    entry = models.registry.get(name)
    reason = models.unsupported().get(name, "")
    if reason:
        return Description(name, entry.label, family="", library="", options={}, reason=reason)
    known: dict[str, Any] = {
        "name": name,
        "label": entry.label,
        "family": family(name),
        "library": library(entry.module),
        "options": {option: default for option, (_, default) in entry.options.items()} | options,
    }
    try:
        with Weightless():
            net = models.create(name, num_classes=num_classes, in_channels=in_channels, **options)
    except IncompatibleError as error:
        return Description(**known | {"options": {}}, reason=str(error))
    net = net.to("meta").eval()
    parameters, multiply_adds, shape, problem = num_parameters(net), None, None, ""
    image_BCHW = torch.empty(1, in_channels, size, size, device="meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _, *shape = net.forward_features(image_BCHW).shape
            net.classifier(torch.empty(1, shape[0], device="meta"))
    except Exception as error:  # noqa: BLE001  a library's network may fail in any way on an image that does not suit it
        problem = f"no {size}x{size} images: {str(error).partition(chr(10))[0]}"
    else:
        multiply_adds = counter.get_total_flops() // 2
        if 0 in shape:
            multiply_adds, shape, problem = None, None, f"no {size}x{size} images: the feature map is empty"
    try:
        stages = len(net.stage_points())
    except IncompatibleError:
        stages = None
    return Description(
        **known,
        parameters=parameters,
        multiply_adds=multiply_adds,
        feature_map=None if shape is None else (shape[0], shape[1], shape[2]),
        stages=stages,
        problem=problem,
    )


def families() -> dict[str, list[str]]:
    """Family -> names of the backbones that can be created; builds nothing and imports no library."""
    found: dict[str, list[str]] = {}
    for name in models.names():
        found.setdefault(family(name), []).append(name)
    return dict(sorted(found.items()))


def family(name: str) -> str:
    """The file under pipeline/models that registers a name, without '.py'; 'timm_cnn: resnet' for a network in timm's file resnet.py."""
    file = models.registry.get(name).module.rpartition(".")[2]
    return f"{file}: {_timm_files()[name]}" if file == "timm_cnn" else file


@functools.cache
def _timm_files() -> dict[str, str]:
    from pipeline.models.timm_cnn import PREFIX, SUPPORTED

    return {f"{PREFIX}{name}": file for file, names in SUPPORTED.items() for name in names}


@functools.cache
def library(module: str) -> str:
    """The library whose networks a file under pipeline/models registers, read off its import statements."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    tops = {name.partition(".")[0] for name in found}
    return next((known for known in LIBRARIES if known in tops), "pipeline")


def match(pattern: str) -> list[str]:
    """Backbones that a pattern means: with `*`, `?` or `[`, those of this shape; else the one of this name, or those that contain it.

    Upper and lower case are the same. A network without exact class activation maps is meant by its full name only.

    Raises:
        UnknownNameError: none.
    """
    full = [name for name in models.registry.names() if name.lower() == pattern.lower()]
    if full:
        return full
    return _match(pattern, models.names())


def reasons(pattern: str | None = None) -> dict[str, str]:
    """Networks without exact class activation maps that a pattern means: name -> reason.

    Raises:
        UnknownNameError: none.
    """
    known = models.unsupported()
    return known if pattern is None else {name: known[name] for name in _match(pattern, list(known))}


def _match(pattern: str, among: list[str]) -> list[str]:
    wanted = pattern.lower()
    if any(letter in wanted for letter in "*?["):
        found = [name for name in among if fnmatchcase(name.lower(), wanted)]
    else:
        found = [name for name in among if wanted in name.lower()]
    if not found:
        raise UnknownNameError("backbone", pattern, among, next_step="A pattern is part of a name, or a shape such as 'resnet*_cifar'.")
    return found
