"""From dictionaries to typed objects, with errors that name the place, the value, what is allowed and the nearest known key."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError, create_model

from pipeline.errors import ConfigError, did_you_mean
from pipeline.registry import Registry
from pipeline.study.place import dotted

T = TypeVar("T")
Locate = Callable[[tuple[str | int, ...]], str]
_YAML_WORDS = {  # pydantic speaks of objects and arrays, as JSON does
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), "expected a mapping of keys to values"),
    "list_type": "expected a list",
}


def validate(kind: type[T], value: Any, locate: Locate = dotted) -> T:
    """`value` as a `kind` (a pydantic model or a dataclass).

    Args:
        locate: turns the path of an error inside `value` into words for the user.

    Raises:
        ConfigError: one line for each thing wrong.
    """
    try:
        # As JSON, since strict mode refuses a dictionary for a dataclass only in Python mode; YAML dates become the text they were.
        return _adapter(kind).validate_json(json.dumps(value, default=str))  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        raise ConfigError("\n".join(_line(problem, kind, locate) for problem in error.errors())) from error


def fill_options(registry: Registry[Any], name: str, options: dict[str, Any], locate: Locate) -> dict[str, Any]:
    """The options of a registered method with defaults filled in and types checked.

    Args:
        locate: turns a path of keys inside the options into words for the user.

    Raises:
        UnknownNameError: nobody registered the name.
        ConfigError: unknown option, wrong type, or a required option is missing.
    """
    entry = registry.get(name, where=locate(()))
    model = _options_model(registry, name)
    for key in options:
        if key not in entry.options:
            taken = "; it is filled in by the pipeline" if key in registry.reserved else ""
            raise ConfigError(
                f"{locate((key,))}: {registry.kind} {name!r} has no option {key!r}{taken}.{did_you_mean(key, entry.options)} "
                f"Known: {', '.join(sorted(entry.options)) or 'none'}."
            )
    return validate(model, options, locate).model_dump()


def check_ranges(registry: Registry[Any], name: str, options: dict[str, Any], locate: Locate) -> None:
    """Build the method once, so that its own checks speak now and not after hours of training.

    Raises:
        ConfigError: what the method itself says of its options.
    """
    try:
        registry.get(name).factory(**options)
    except ValueError as error:
        raise ConfigError(f"{locate(())}: {registry.kind} {name!r}: {error}.") from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@functools.cache
def _options_model(registry: Registry[Any], name: str) -> type[BaseModel]:
    fields: dict[str, Any] = {
        key: (Any if annotation is inspect.Parameter.empty else annotation, ... if default is inspect.Parameter.empty else default)
        for key, (annotation, default) in registry.get(name).options.items()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    try:
        return create_model(f"{registry.kind} {name}", __config__=config, **fields)
    except PydanticSchemaGenerationError as error:
        raise ConfigError(
            f"{registry.kind} {name!r} in {registry.get(name).place} has an option of a type that no study file can hold: "
            f"{str(error).splitlines()[0].rstrip('.')}. "
            "Annotate options with float, int, bool, str, Literal[...], lists of these, or `| None`."
        ) from error


def options_schema(registry: Registry[Any], name: str) -> dict[str, Any]:
    """JSON Schema of the options of a registered method."""
    return _options_model(registry, name).model_json_schema()


def _line(problem: Any, kind: Any, locate: Locate) -> str:
    loc: tuple[str | int, ...] = problem["loc"]
    code, given = problem["type"], problem["input"]
    if code in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(kind, loc[:-1])
        return f"{locate(loc)}: unknown key {loc[-1]!r}.{did_you_mean(loc[-1], known)} Known: {', '.join(known)}."
    if code in ("missing", "missing_argument"):
        return f"{locate(loc)}: {loc[-1]!r} is missing; it has no default."
    if code == "value_error":
        message = str(problem["ctx"]["error"]).rstrip(".")
        field = _field_in(message, kind, loc)
        return f"{locate((*loc, *field))}: {message}."
    if code == "literal_error":
        allowed = problem["ctx"]["expected"]
        names = [word.strip("'") for word in allowed.replace(" or ", ", ").split(", ")]
        return f"{locate(loc)}: got {given!r}.{did_you_mean(given, names)} Allowed: {allowed}."
    message = _YAML_WORDS.get(code) or _lower(problem["msg"])
    return f"{locate(loc)}: {message}, got {given!r}."


def _field_in(message: str, kind: Any, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The field that a typed class's own check speaks of: its messages begin with the name, e.g. 'lr must be > 0'."""
    parts = tuple(message.split(" ", 1)[0].split("."))
    return parts if all(part in _known_keys(kind, (*path, *parts[:i])) for i, part in enumerate(parts)) else ()


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _known_keys(kind: Any, path: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the (nested) type at `path`, from its JSON Schema."""
    schema = _adapter(kind).json_schema()
    definitions, node = schema.get("$defs", {}), schema

    def follow(node: dict[str, Any]) -> dict[str, Any]:
        while True:
            if "$ref" in node:
                node = definitions[node["$ref"].rsplit("/", 1)[-1]]
            elif "anyOf" in node:
                node = next((n for n in node["anyOf"] if n.get("type") != "null"), {})
            elif len(node.get("allOf", [])) == 1:
                node = node["allOf"][0]
            else:
                return node

    for part in path:
        node = follow(node)
        if isinstance(part, int):
            node = node.get("items", {})
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            extra = node.get("additionalProperties")
            node = extra if isinstance(extra, dict) else {}
    return sorted(follow(node).get("properties", {}))


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON Schema of a typed class."""
    return _adapter(kind).json_schema()
