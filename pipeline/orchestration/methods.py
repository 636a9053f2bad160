"""What a study may name: every registered loss, regularizer, backbone and dataset with its options."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

from pipeline import data, losses, models, regularizers
from pipeline.errors import UnknownNameError
from pipeline.registry import Entry, Registry
from pipeline.study.plugins import methods_of

KINDS: dict[str, tuple[Registry[Any], Any]] = {
    "losses": (losses.registry, losses.names),
    "regularizers": (regularizers.registry, regularizers.names),
    "backbones": (models.registry, models.names),
    "datasets": (data.registry, data.names),
}


def list_methods(kind: str | None = None, plugins: Iterable[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Kind -> a dictionary a method: name, label, purpose, options (name -> type, default, required), module, plugin.

    Without a kind, backbones of `pipeline` have only name and plugin: there are hundreds.

    Args:
        kind: 'losses', 'regularizers', 'backbones' or 'datasets'; None: all.
        plugins: imported plugins of the study; `plugin` names the one that a method comes from, else it is None.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind of method", kind, KINDS)
    origin = {(what, entry.name): plugin for plugin in plugins for what, entry in methods_of(plugin)}
    listing: dict[str, list[dict[str, Any]]] = {}
    for word in KINDS if kind is None else [kind]:
        registry, names = KINDS[word]
        listing[word] = []
        for name in names():
            plugin = origin.get((registry.kind, name))
            short = word == "backbones" and kind is None and plugin is None
            listing[word].append({"name": name, "plugin": plugin} if short else _describe(registry.get(name), plugin))
    return listing


def options_text(options: dict[str, dict[str, Any]]) -> str:
    """'distance: l1 | l2 = l1, power: float' on one line."""
    return ", ".join(f"{key}: {o['type']}" + ("" if o["required"] else f" = {_plain(o['default'])}") for key, o in options.items())


def _describe(entry: Entry[Any], plugin: str | None) -> dict[str, Any]:
    options = {}
    for key, (annotation, default) in entry.options.items():
        required = default is inspect.Parameter.empty
        options[key] = {"type": _type_text(annotation), "default": None if required else default, "required": required}
    return {
        "name": entry.name,
        "label": entry.label,
        "purpose": _purpose(entry),
        "options": options,
        "module": entry.module,
        "plugin": plugin,
    }


def _purpose(entry: Entry[Any]) -> str:
    """First line of the factory's docstring, else of its module's."""
    own = entry.factory.__dict__.get("__doc__") if inspect.isclass(entry.factory) else inspect.getdoc(entry.factory)
    if inspect.isclass(entry.factory) and own and own.startswith(f"{entry.factory.__name__}("):
        own = None  # dataclasses write their signature where there is no docstring
    text = own or getattr(sys.modules.get(entry.module), "__doc__", None) or ""
    return inspect.cleandoc(text).partition("\n")[0]


def _type_text(annotation: Any) -> str:
    """'float', 'l1 | l2', 'list[int]', 'str | None'."""
    if annotation in (inspect.Parameter.empty, Any):
        return "any"
    if annotation is type(None):
        return "null"
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type_text(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return " | ".join(_plain(value) for value in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " | ".join(map(_type_text, typing.get_args(annotation)))
    return annotation.__name__ if isinstance(annotation, type) and origin is None else str(annotation)


def _plain(value: Any) -> str:
    """As a study file writes it."""
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
