"""Datasets by name: source -> prepared Arrow file. A new one is one new file in this folder that registers a name.

source factory -> RawData (arrays or blocks, a split each) -> prepare -> data.arrow + manifest.json -> ImageData (memory-mapped views)
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.data.image_data import ImageData, Split
from pipeline.data.prepared import folder, open_prepared, prepare, read_manifest
from pipeline.data.raw import Blocks, RawData, RawSplit
from pipeline.registry import Registry

registry: Registry[Callable[..., RawData]] = Registry("dataset", __name__, reserved=("raw_root",))
register = registry.register

__all__ = [
    "Blocks",
    "ImageData",
    "RawData",
    "RawSplit",
    "Split",
    "folder",
    "names",
    "open_prepared",
    "prepare",
    "read_manifest",
    "register",
    "registry",
]


def names() -> list[str]:
    """All registered dataset sources."""
    return registry.names()
