"""Backbones by name. A new one is one new file in this folder that registers a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.models.backbone import Backbone
from pipeline.registry import Registry

registry: Registry[Callable[..., Backbone]] = Registry("backbone", __name__, reserved=("num_classes", "in_channels"))
register = registry.register


def create(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> Backbone:
    """Build a backbone with fresh weights from torch's global generator.

    Args:
        name: a registered name, see `names()`.
        num_classes: K.
        in_channels: 1 for grey images, 3 for RGB.
        options: options of this backbone.

    Raises:
        UnknownNameError: nobody registered the name.
        IncompatibleError: the network has layers after pooling, so that its class activation map is undefined.
    """
    return registry.get(name).factory(num_classes=num_classes, in_channels=in_channels, **options)


def names() -> list[str]:
    """All registered backbones."""
    return registry.names()
