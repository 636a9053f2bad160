"""The prepared form of a dataset: one Arrow file that all processes map into memory, and a manifest that describes it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import types
import typing
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.image_data import SPLITS, ImageData
from pipeline.data.raw import RawData
from pipeline.errors import ConfigError, DataError, did_you_mean

if typing.TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
_MANIFEST_KEYS = {
    "schema_version", "name", "component", "shape", "masks", "classes", "digest",
    "ranges", "class_counts", "source_index", "mean", "std", "bytes",
}  # fmt: skip
_STALE_S = 24 * 3600
_CHUNK_BYTES = 1 << 24
Log = Callable[[str], None]


def folder(component: dict[str, Any], root: Path) -> Path:
    """Where the prepared form of a dataset component lies: `root/<name>-<hash of the component>`."""
    canonical = json.dumps(component, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", str(component.get("name", "dataset")))
    return Path(root) / f"{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def read_manifest(component: dict[str, Any], root: Path) -> dict[str, Any] | None:
    """The manifest of a prepared dataset, None when it is not prepared.

    Raises:
        DataError: the manifest is missing from its folder, unreadable, or of another version.
    """
    path = folder(component, root) / "manifest.json"
    if not path.parent.is_dir():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _MANIFEST_KEYS:
        raise _damaged(path, "lacks fields of a manifest")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise _damaged(path, f"has schema_version {manifest['schema_version']!r}, this program reads {SCHEMA_VERSION}")
    return manifest


def open_prepared(component: dict[str, Any], root: Path, *, verify: bool = False) -> ImageData | None:
    """Map a prepared dataset into memory, None when it is not prepared. No pixel is copied and no array may be written to.

    Args:
        component: {"name": alias, "source": registered name, **options}, as given to `prepare`.
        root: folder of the prepared datasets.
        verify: also recompute the digest over all pixels; without it only the size and the layout are checked.

    Raises:
        DataError: the file is truncated or corrupt, or does not fit its manifest.
    """
    import pyarrow as pa

    manifest = read_manifest(component, root)
    if manifest is None:
        return None
    path = folder(component, root) / "data.arrow"
    size = path.stat().st_size if path.is_file() else None
    if size != manifest["bytes"]:
        have = "is missing" if size is None else f"has {size:,} bytes"
        raise _damaged(path, f"{have}, its manifest says {manifest['bytes']:,}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise _damaged(path, f"holds {reader.num_record_batches} record batches instead of 1")
        data = _view(reader.get_batch(0), manifest, str(component.get("name", "dataset")))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, f"is no prepared dataset: {error}") from error
    if verify and content_digest(data.image_NHWC, data.label_N, data.mask_NHW, data.classes, data.ranges) != manifest["digest"]:
        raise _damaged(path, "holds other content than its manifest says (the digest differs)")
    return data


def prepare(component: dict[str, Any], root: Path, *, raw_root: Path = Path("data/raw"), log: Log | None = None) -> ImageData:
    """Make the prepared form of a dataset unless it is there, and map it into memory.

    A damaged prepared form is made again. The folder appears as a whole or not at all, whenever the process dies;
    when two processes prepare the same dataset, the first one to finish wins.

    Args:
        component: {"name": alias shown to users, "source": registered name, **options}; `source` defaults to the name.
        root: folder of the prepared datasets.
        raw_root: where downloads lie.
        log: takes progress, a line a call.

    Raises:
        UnknownNameError: nobody registered the source.
        ConfigError: an option is unknown, missing, or out of range.
        DataError: the source cannot be read, or the prepared form cannot be written.
    """
    say = log or _silent
    target, name = folder(component, root), str(component.get("name", "dataset"))
    try:
        there = open_prepared(component, root)
    except DataError as error:
        say(f"{name}: making it again, because {error}")
        there = None
    if there is not None:
        return there
    raw = _load(component, raw_root)
    raw.check(f"dataset {name!r}")
    say(f"{name}: writing " + ", ".join(f"{len(raw.splits[split]):,} {split}" for split in SPLITS))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        scratch = Path(tempfile.mkdtemp(prefix=f".preparing-{target.name}-", dir=target.parent))
        try:
            scratch.chmod(0o755)
            _write(raw, component, name, scratch)
            _publish(scratch, target, component, root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(f"dataset {name!r} cannot be written to {target}: {error}. Free space there or choose another folder.") from error
    data = open_prepared(component, root)
    if data is None:
        raise DataError(f"dataset {name!r}: {target} vanished right after it was written. Is another program cleaning {target.parent}?")
    say(f"{name}: ready in {target}")
    return data


def content_digest(
    image_NHWC: np.ndarray, label_N: np.ndarray, mask_NHW: np.ndarray | None, classes: tuple[str, ...], ranges: dict[str, tuple[int, int]]
) -> str:
    """sha256 over images, labels, masks, class names and splits; blind to paths, names and where the images came from."""
    head = {"shape": image_NHWC.shape, "masks": mask_NHW is not None, "classes": classes, "ranges": ranges}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for chunk in _chunks(image_NHWC):
        digest.update(np.ascontiguousarray(chunk).data)
    digest.update(np.ascontiguousarray(label_N, dtype="<i8").data)
    if mask_NHW is not None:
        for chunk in _chunks(mask_NHW):
            digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _load(component: dict[str, Any], raw_root: Path) -> RawData:
    from pipeline.data import registry

    name = component.get("name")
    where = f"dataset {name!r}"
    source = component.get("source", name)
    entry = registry.get(source, where=where)  # type: ignore[arg-type]
    options = {key: value for key, value in component.items() if key not in ("name", "source")}
    for key, value in options.items():
        if key not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise ConfigError(f"{where}: {source} has no option {key!r}.{did_you_mean(key, entry.options)} Known: {known}.")
        annotation = entry.options[key][0]
        if not _fits(value, annotation):
            wanted = getattr(annotation, "__name__", None) if isinstance(annotation, type) else str(annotation)
            raise ConfigError(f"{where}: {key} must be {wanted}, got {value!r} ({type(value).__name__}).")
    missing = [key for key, (_, default) in entry.options.items() if default is Parameter.empty and key not in options]
    if missing:
        raise ConfigError(f"{where}: {source} needs a value for {', '.join(missing)}. Add it to the dataset in the study file.")
    if "raw_root" in signature(entry.factory).parameters:
        options["raw_root"] = Path(raw_root)
    try:
        return entry.factory(**options)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _fits(value: object, annotation: Any) -> bool:
    """Whether a value from a study file fits an annotation such as `int`, `float` or `str | None`."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(annotation))
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, annotation) if isinstance(annotation, type) else True


def _view(batch: pa.RecordBatch, manifest: dict[str, Any], name: str) -> ImageData:
    """The columns of the record batch as numpy views."""
    rows, (height, width, channels) = batch.num_rows, manifest["shape"]
    ranges = {split: (int(manifest["ranges"][split][0]), int(manifest["ranges"][split][1])) for split in SPLITS}
    if max(stop for _, stop in ranges.values()) != rows:
        raise ValueError(f"{rows} rows do not fit the splits {ranges}")

    def bytes_of(column: str) -> np.ndarray:
        flat: np.ndarray = batch.column(column).flatten().to_numpy(zero_copy_only=True)
        return flat

    return ImageData(
        name=name,
        image_NHWC=bytes_of("image").reshape(rows, height, width, channels),
        label_N=batch.column("label").to_numpy(zero_copy_only=True),
        mask_NHW=bytes_of("mask").reshape(rows, height, width) if manifest["masks"] else None,
        classes=tuple(manifest["classes"]),
        ranges=ranges,
        mean=tuple(manifest["mean"]),
        std=tuple(manifest["std"]),
        digest=manifest["digest"],
    )


def _write(raw: RawData, component: dict[str, Any], name: str, scratch: Path) -> None:
    """data.arrow and manifest.json in `scratch`, both on the disk when this returns."""
    import pyarrow as pa

    stops = np.cumsum([0, *(len(raw.splits[split]) for split in SPLITS)]).tolist()
    ranges = {split: (stops[i], stops[i + 1]) for i, split in enumerate(SPLITS)}
    shape = tuple(raw.splits["train"].image_NHWC.shape[1:])
    image_NHWC = _spool(raw, scratch / "images.raw", (stops[-1], *shape))
    label_N = np.concatenate([raw.splits[split].label_N for split in SPLITS]).astype(np.int64)
    source_N = np.concatenate([raw.splits[split].source_index_N for split in SPLITS]).astype(np.int64)
    parts = [mask for split in SPLITS if (mask := raw.splits[split].mask_NHW) is not None]
    mask_NHW = np.concatenate(parts).astype(np.uint8) if parts else None
    mean, std = _pixel_statistics(image_NHWC[slice(*ranges["train"])])

    columns = {"image": _fixed_size_list(image_NHWC)} | ({} if mask_NHW is None else {"mask": _fixed_size_list(mask_NHW)})
    columns |= {"label": pa.array(label_N), "source_index": pa.array(source_N)}
    schema = pa.schema([pa.field(key, column.type, nullable=False) for key, column in columns.items()])
    path = scratch / "data.arrow"
    wide = pa.ipc.IpcWriteOptions(allow_64bit=True)  # more than 2**31 pixels in one column
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=wide) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "component": component,
        "shape": list(shape),
        "masks": mask_NHW is not None,
        "classes": list(raw.classes),
        "digest": content_digest(image_NHWC, label_N, mask_NHW, raw.classes, ranges),
        "ranges": ranges,
        "class_counts": {split: np.bincount(label_N[slice(*ranges[split])], minlength=len(raw.classes)).tolist() for split in SPLITS},
        "mean": mean,
        "std": std,
        "bytes": path.stat().st_size,
        "source_index": {split: source_N[slice(*ranges[split])].tolist() for split in SPLITS},
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in manifest.items())
    (scratch / "manifest.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    del columns, image_NHWC
    (scratch / "images.raw").unlink()
    for file in (path, scratch / "manifest.json", scratch):
        _fsync(file)


def _spool(raw: RawData, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """All images, split after split, in a scratch file that is mapped read-only.

    Written with plain writes: a full disk is then an OSError; writing through a map would kill the process with SIGBUS.
    """
    with path.open("wb") as file:
        for split in SPLITS:
            rows = 0
            for block in raw.splits[split].blocks():
                if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                    raise DataError(f"images of {split} must be uint8 of shape (n, {shape[1:]}), got {block.dtype} {block.shape}.")
                file.write(np.ascontiguousarray(block).data)
                rows += len(block)
            if rows != len(raw.splits[split]):
                raise DataError(f"the source gave {rows} images for {len(raw.splits[split])} labels of {split}.")
    return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)


def _fixed_size_list(array: np.ndarray) -> pa.FixedSizeListArray:
    import pyarrow as pa

    flat = np.ascontiguousarray(array).reshape(-1)
    values = pa.Array.from_buffers(pa.uint8(), flat.size, [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(values, int(np.prod(array.shape[1:])))


def _pixel_statistics(image_NHWC: np.ndarray) -> tuple[list[float], list[float]]:
    """Channel means and population standard deviations of pixels scaled to [0, 1], from exact counts of the 256 values.

    A standard deviation is at least 1/255, so that normalising by it never divides by zero.
    """
    count_CV = np.zeros((image_NHWC.shape[3], 256), dtype=np.int64)
    for chunk in _chunks(image_NHWC):
        for channel, count_V in enumerate(count_CV):
            count_V += np.bincount(chunk[..., channel].reshape(-1), minlength=256)
    mean, std = [], []
    for count_V in count_CV:  # in Python's whole numbers: the same on every machine, whatever the order of its sums
        pixels = int(count_V.sum())
        first, second = (int((count_V * np.arange(256) ** power).sum()) for power in (1, 2))
        mean.append(first / (255 * pixels))
        std.append(max(math.sqrt((pixels * second - first * first) / (255 * pixels) ** 2), 1 / 255))
    return mean, std


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _CHUNK_BYTES // max(1, int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _publish(scratch: Path, target: Path, component: dict[str, Any], root: Path) -> None:
    """Rename the finished folder into place. A damaged folder is moved out of the way first; a sound one wins over ours."""
    try:
        scratch.replace(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            if open_prepared(component, root) is not None:
                return
        except DataError:
            with tempfile.TemporaryDirectory(prefix=f".preparing-{target.name}-", dir=target.parent) as away:
                target.replace(Path(away) / "damaged")
        scratch.replace(target)
    _fsync(target.parent)


def _sweep(target: Path) -> None:
    """Remove what processes that were killed a day ago or earlier left behind."""
    for left in target.parent.glob(f".preparing-{target.name}-*"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}. Prepare the dataset again (`dvc repro prepare`): a damaged folder is replaced.")


def _silent(line: str) -> None:
    """The log of a call that was given none."""
