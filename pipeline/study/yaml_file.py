"""Reading YAML so that every later error can name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError, did_you_mean
from pipeline.study.place import Path_, dotted


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-4 as a number: YAML 1.1 wants a dot there and would give a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path, what: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    """The mapping in a YAML file, and the line (from 1) of each key path.

    Raises:
        ConfigError: the file is missing, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = did_you_mean(str(path), near)
        raise ConfigError(f"No {what} at {path}.{hint} There is: {', '.join(near) or 'nothing in that folder'}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error}.") from error
    lines: dict[Path_, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _mark(node, (), lines, path)
            value = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise ConfigError(f"{path}: not valid YAML: {error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply, or an alias (*name) stands inside what it names. Write that part out.") from error
    if not isinstance(value, dict):
        given = "nothing" if value is None else type(value).__name__
        raise ConfigError(f"{path}: a {what} must be a mapping of keys to values, got {given}.")
    return value, lines


def locate(file: Path, lines: dict[Path_, int], path: Path_) -> str:
    """'studies/quick.yaml:17: tables.backbones.rows' for a path of keys, with the line of its nearest known parent."""
    known = tuple(path)
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known else ""
    return f"{file}{line}: {dotted(path)}" if path else str(file)


def _mark(node: yaml.Node, path: Path_, lines: dict[Path_, int], file: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{file}:{line}: a key must be a word or a number, not a {key_node.id}. Are there quotes missing?")
            if key_node.tag != "tag:yaml.org,2002:merge":
                key_node.tag = "tag:yaml.org,2002:str"  # a key is what is written: `no`, `1` and `2024-01-01` are names
            key = (*path, key_node.value)
            if key in lines and key_node.value != "<<":
                raise ConfigError(f"{file}:{line}: the key {key_node.value!r} stands twice, first in line {lines[key]}. Keep one.")
            lines[key] = line
            _mark(value_node, key, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _mark(item, (*path, index), lines, file)
