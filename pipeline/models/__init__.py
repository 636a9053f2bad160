"""Backbones by name. A new one is one new file in this folder that registers a name.

A registered factory takes `num_classes`, `in_channels` and its options as keyword parameters and returns a `Backbone`. The option
`dropout`, where nothing else is said of it, is the probability with which pooled features are dropped while training.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from pipeline.errors import ConfigError, IncompatibleError, did_you_mean
from pipeline.models.backbone import Backbone
from pipeline.models.weightless import Weightless
from pipeline.registry import Registry

registry: Registry[Callable[..., Backbone]] = Registry("backbone", __name__, reserved=("num_classes", "in_channels"))
register = registry.register
_unsupported: dict[str, str] = {}


def register_unsupported(name: str, reason: str) -> None:
    """Make `name` known as a network for which class activation maps are undefined.

    A study that asks for it gets skipped cells with the reason as a footnote instead of an unknown name.

    Args:
        name: the library's name of the network.
        reason: a sentence about this network, without a full stop.
    """

    def factory(*, num_classes: int, in_channels: int, dropout: float | None = None) -> Backbone:
        raise IncompatibleError(reason)

    register(name)(factory)
    _unsupported[name] = reason


def create(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> Backbone:
    """Build a backbone with fresh weights from torch's global generator.

    Args:
        name: a registered name, see `names()`.
        num_classes: K.
        in_channels: 1 for grey images, 3 for RGB.
        options: options of this backbone.

    Raises:
        UnknownNameError: nobody registered the name.
        ConfigError: an option that this backbone does not have, or a value that it does not allow.
        IncompatibleError: the network has layers after pooling, so that its class activation map is undefined.
    """
    entry = registry.get(name)
    for option in options:
        if option not in entry.options:
            allowed = ", ".join(entry.options) or "none"
            raise ConfigError(
                f"Unknown option {option!r} of backbone {name!r}.{did_you_mean(option, entry.options)} Options: {allowed}. "
                f"An option is a keyword parameter of the factory in {entry.module}."
            )
    for what, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count < 1:
            raise ConfigError(f"{what} of backbone {name!r} must be >= 1, got {count}")
    return entry.factory(num_classes=num_classes, in_channels=in_channels, **options)


def names() -> list[str]:
    """All registered backbones that can be created, sorted."""
    return [name for name in registry.names() if name not in _unsupported]


def unsupported() -> dict[str, str]:
    """Known networks for which class activation maps are undefined: name -> reason, sorted by name."""
    registry.names()  # imports the files that know them
    return dict(sorted(_unsupported.items()))


def supports(name: str, **options: Any) -> tuple[bool, str]:
    """(True, "") or (False, the reason why this network has no class activation map).

    Builds a network with other than default options without weights (milliseconds, no random numbers drawn), once for each.

    Raises:
        UnknownNameError: nobody registered the name.
        ConfigError: an option that this backbone does not have, or a value that it does not allow.
    """
    defaults = {option: default for option, (_, default) in registry.get(name).options.items()}
    if name not in _unsupported and options.items() <= defaults.items():
        return True, ""  # what `names()` promises, and without the seconds that importing the library takes
    return _supports(name, json.dumps(options, sort_keys=True))


@functools.cache
def _supports(name: str, options: str) -> tuple[bool, str]:
    try:
        with Weightless():
            create(name, num_classes=2, **json.loads(options))
    except IncompatibleError as error:
        return False, str(error)
    return True, ""
