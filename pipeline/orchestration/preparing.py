"""Prepare the datasets of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import data
from pipeline.data.image_data import ImageData
from pipeline.data.shown import shown_in_maps
from pipeline.errors import DataError
from pipeline.orchestration.plugin_data import drop_stale, note_code
from pipeline.study.config import StudyFile
from pipeline.study.design import expand_datasets
from pipeline.study.params import Params

MAX_SIDE = 112  # pixels of an image kept for pictures: ample for a tile of an inch
IMAGE_SCHEMA = pa.schema(
    [
        ("data_digest", pa.string()),
        ("dataset", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("classes", pa.list_(pa.string())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("pixels", pa.binary()),
        ("mask", pa.binary()),
    ]
)


def prepare_study(file: StudyFile, params: Params, log: Callable[[str], None] | None = None) -> dict[str, dict[str, Any]]:
    """Prepare every dataset of a study that is not there yet.

    Returns:
        Folder name -> name, digest, shape [H, W, C], number of classes, images a split and whether masks are known.

    Raises:
        ConfigError: the study file is wrong.
        DataError: a source is missing or damaged.
    """
    return prepare_components(expand_datasets(file, data.registry), params, log)


def write_images(file: StudyFile, params: Params, path: Path) -> None:
    """Write the test images that pictures of trials are made of, with their masks: a few a dataset of the study, which must be prepared.

    Columns: data_digest, dataset, index (in the test split), label, classes (all names), height, width, channels, pixels (uint8,
    height x width x channels), mask (uint8, height x width; null where none is known). An image with a side of more than 112 pixels is
    made smaller.

    Raises:
        ConfigError: the study file is wrong.
        DataError: a dataset is not prepared, or its prepared form is damaged.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for component in expand_datasets(file, data.registry):
        images = data.open_prepared(component, Path(params.data.prepared))
        if images is None:
            raise DataError(f"Dataset {component['name']!r} is not prepared in {params.data.prepared}. Run `ablate prepare`.")
        rows[images.digest] = _shown(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row for digest in sorted(rows) for row in rows[digest]], schema=IMAGE_SCHEMA), path)


def _shown(images: ImageData) -> list[dict[str, Any]]:
    test = images.split("test")
    rows = []
    for index in shown_in_maps(test.label_N).tolist():
        image = test.image_NHWC[index]
        pixels = _small(image[..., 0] if images.channels == 1 else image)
        rows.append(
            {
                "data_digest": images.digest,
                "dataset": images.name,
                "index": index,
                "label": int(test.label_N[index]),
                "classes": list(images.classes),
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "channels": images.channels,
                "pixels": pixels.tobytes(),
                "mask": None if test.mask_NHW is None else (_small(test.mask_NHW[index] * np.uint8(255)) > 127).astype(np.uint8).tobytes(),
            }
        )
    return rows


def _small(image: np.ndarray) -> np.ndarray:
    """HW or HWC as uint8 with no side over `MAX_SIDE`: each pixel the mean of those it stands for."""
    height, width = image.shape[:2]
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def prepare_components(
    components: Iterable[dict[str, Any]], params: Params, log: Callable[[str], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Prepare these resolved dataset components; see `prepare_study`."""
    root, raw = Path(params.data.prepared), Path(params.data.raw)
    summary = {}
    for component in components:
        drop_stale(component, root, log)
        images = data.prepare(component, root, raw_root=raw, log=log)
        note_code(component, root)
        summary[data.folder(component, root).name] = {
            "name": component["name"],
            "digest": images.digest,
            "shape": list(images.image_NHWC.shape[1:]),
            "classes": len(images.classes),
            "splits": {name: stop - start for name, (start, stop) in images.ranges.items()},
            "masks": images.mask_NHW is not None,
        }
    return summary
