"""Prepare the datasets of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.study.config import StudyFile
from pipeline.study.design import expand_datasets
from pipeline.study.params import Params


def prepare_study(file: StudyFile, params: Params, log: Callable[[str], None] | None = None) -> dict[str, dict[str, Any]]:
    """Prepare every dataset of a study that is not there yet.

    Returns:
        Folder name -> name, digest, shape [H, W, C], number of classes, images a split and whether masks are known.

    Raises:
        ConfigError: the study file is wrong.
        DataError: a source is missing or damaged.
    """
    return prepare_components(expand_datasets(file, data.registry), params, log)


def prepare_components(
    components: Iterable[dict[str, Any]], params: Params, log: Callable[[str], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Prepare these resolved dataset components; see `prepare_study`."""
    root, raw = Path(params.data.prepared), Path(params.data.raw)
    summary = {}
    for component in components:
        images = data.prepare(component, root, raw_root=raw, log=log)
        summary[data.folder(component, root).name] = {
            "name": component["name"],
            "digest": images.digest,
            "shape": list(images.image_NHWC.shape[1:]),
            "classes": len(images.classes),
            "splits": {name: stop - start for name, (start, stop) in images.ranges.items()},
            "masks": images.mask_NHW is not None,
        }
    return summary
