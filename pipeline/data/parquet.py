"""Image classification tables in Parquet, in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data import register
from pipeline.data.decode import decoded
from pipeline.data.raw import RawData, RawSplit
from pipeline.data.splits import assign
from pipeline.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_LABEL_NAMES = ("label", "fine_label", "labels")
_READ_ROWS = 512


@register("parquet", label="Parquet")
def parquet(
    train: str,
    test: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    size: int | None = None,
    grey: bool | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed_split: int = 0,
    max_train: int | None = None,
    max_test: int | None = None,
) -> RawData:
    """Tables with a column of encoded images and a column of whole-number labels.

    Only the images that are kept are decoded. `source_index` counts rows over all files of `train` (or of `test`), in the order of
    their names. Class names come from the schema metadata of the hub, else they are "0", "1", ...

    Args:
        train: a file, a folder, a pattern such as `data/train-*.parquet`, or a URL of any of them that fsspec understands.
        test: likewise; without it `test_fraction` of the training rows are taken.
        image_column: column of type struct<bytes, path> or binary; found from the schema when there is only one.
        label_column: column of whole numbers; found from the schema: `label`, `fine_label` or `labels`, else the only one.
        size: scale the shorter side to `size` pixels and cut out the centre square; needed when images differ in size.
        grey: one channel, or three; null: one when all images are grey.
        val_fraction: share of the training rows held out as val, the same of every class; 0 leaves val empty.
        test_fraction: share held out as test when `test` is not given.
        seed_split: seed of the subsets and splits.
        max_train: keep this many training rows, val among them, every class in proportion; null keeps all.
        max_test: likewise for test rows.

    Raises:
        ConfigError: an option is out of range, or the columns cannot be found.
        DataError: a file is missing, empty or damaged, a label names no class, or an image does not decode.
    """
    train_table = _Table.open("train", train)
    test_table = _Table.open("test", test) if test is not None else train_table
    label = label_column or _find_label(train_table)
    image = image_column or _find_image(train_table)
    for table in (train_table, test_table):
        table.check_columns(image, label)
    names = _class_names(train_table.schema, label)
    train_N = train_table.labels(label, names)
    test_N = test_table.labels(label, names) if test is not None else None
    rows = assign(
        train_N, test_N, val_fraction=val_fraction, test_fraction=test_fraction,
        seed_split=seed_split, max_train=max_train, max_test=max_test,
    )  # fmt: skip
    label_of = {"train": train_N, "val": train_N, "test": train_N if test_N is None else test_N}
    table_of = {"train": train_table, "val": train_table, "test": test_table}
    encoded = {split: (partial(table_of[split].images, image), rows[split]) for split in rows}
    blocks = decoded(encoded, size=size, grey=grey)
    splits = {split: RawSplit(blocks[split], label_of[split][rows[split]], rows[split]) for split in rows}
    return RawData(splits, names or _numbered_classes(train_table, label, train_N, test_N))


@dataclass(frozen=True)
class _Table:
    """Parquet files of one schema, read as one table."""

    files: tuple[tuple[str, pq.ParquetFile], ...]

    @property
    def schema(self) -> pa.Schema:
        return self.files[0][1].schema_arrow

    @classmethod
    def open(cls, option: str, pattern: str) -> _Table:
        import fsspec
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            filesystem, path = fsspec.core.url_to_fs(pattern)
            files = []
            for name in _expand(option, filesystem, path, pattern):
                try:
                    files.append((name, pq.ParquetFile(filesystem.open(name, "rb"))))
                except (pa.ArrowException, OSError) as error:
                    raise DataError(f"{name} cannot be read as Parquet; it may be truncated ({_first_line(error)}).") from error
        except (OSError, ValueError, ImportError) as error:
            raise DataError(f"{option} {pattern!r} cannot be opened: {_first_line(error)}. Check the path or the URL.") from error
        if sum(file.metadata.num_rows for _, file in files) == 0:
            raise DataError(f"{option} {pattern!r}: the table has no rows.")
        return cls(tuple(files))

    def check_columns(self, image: str, label: str) -> None:
        import pyarrow as pa

        for name, file in self.files:
            schema = file.schema_arrow
            for column in (image, label):
                if column not in schema.names:
                    near = did_you_mean(column, schema.names)
                    raise ConfigError(f"{name} has no column {column!r}.{near} Columns: {', '.join(schema.names)}.")
            if not _holds_images(schema.field(image).type):
                raise ConfigError(
                    f"image_column {image!r} of {name} is {schema.field(image).type}; "
                    f"it must be struct<bytes, path> or binary. Candidates: {_candidates(schema, _holds_images)}."
                )
            if not pa.types.is_integer(schema.field(label).type):
                raise ConfigError(
                    f"label_column {label!r} of {name} is {schema.field(label).type}; "
                    f"it must hold whole numbers. Candidates: {_candidates(schema, pa.types.is_integer)}."
                )

    def labels(self, column: str, names: tuple[str, ...] | None) -> np.ndarray:
        """label_N of all files, checked."""
        import pyarrow as pa

        parts = []
        for name, file in self.files:
            try:
                values = file.read(columns=[column]).column(column)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(name, error) from error
            if values.null_count:
                row = np.flatnonzero(values.is_null().to_numpy())[0]
                raise DataError(f"{name}, row {row}: {column} is null. Give the row a label or remove it.")
            part = values.to_numpy().astype(np.int64)
            wrong = np.flatnonzero((part < 0) | (part >= (len(names) if names else np.iinfo(np.int64).max)))
            if len(wrong):
                allowed = f"0..{len(names) - 1}, the classes that the file names" if names else "0 or above"
                raise DataError(f"{name}, row {wrong[0]}: {column} is {part[wrong[0]]}, allowed is {allowed}.")
            parts.append(part)
        return np.concatenate(parts)

    def images(self, column: str, rows: np.ndarray) -> Iterator[tuple[str, bytes]]:
        """(file and row, encoded bytes) of the rows, which rise; row groups without a wanted row are not read."""
        import pyarrow as pa

        start = 0
        for name, file in self.files:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
                if len(wanted):
                    before = sum(file.metadata.row_group(earlier).num_rows for earlier in range(group))
                    try:
                        yield from _group_images(name, file, group, column, wanted, before)
                    except (pa.ArrowException, OSError) as error:
                        raise _unreadable(name, error) from error
                start = stop


def _group_images(name: str, file: pq.ParquetFile, group: int, column: str, wanted: np.ndarray, before: int) -> Iterator[tuple[str, bytes]]:
    """Images of one row group; `wanted` counts from its first row, `before` rows of the file lie ahead of it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    start = 0
    for batch in file.iter_batches(batch_size=_READ_ROWS, row_groups=[group], columns=[column]):
        here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + batch.num_rows)] - start
        values = batch.column(column)
        if pa.types.is_struct(values.type):
            values = pc.struct_field(values, "bytes")
        for row in here.tolist():
            data, where = values[row].as_py(), f"{name}, row {before + start + row}"
            if data is None:
                raise DataError(f"{where}: {column} has no bytes. Tables that only name image files are not supported; embed the images.")
            yield where, data
        start += batch.num_rows


def _expand(option: str, filesystem: Any, path: str, pattern: str) -> list[str]:
    """Names of the files that a path, a folder or a pattern means, sorted."""
    if any(mark in path for mark in "*?[") and not filesystem.exists(path):  # a query in a URL has a question mark too
        names = sorted(filesystem.glob(path))
        if not names:
            raise DataError(f"{option} {pattern!r} matches no file.{_neighbours(filesystem, path)}")
        return names
    if filesystem.isdir(path):
        names = sorted(filesystem.glob(f"{path.rstrip('/')}/*.parquet"))
        if not names:
            raise DataError(f"{option} {pattern!r} is a folder without *.parquet files.")
        return names
    if not filesystem.exists(path):
        raise DataError(f"{option} {pattern!r} does not exist.{_neighbours(filesystem, path)}")
    return [path]


def _neighbours(filesystem: Any, path: str) -> str:
    """What lies in the nearest folder above, to find a slip in a path."""
    parent = PurePosixPath(path).parent
    while not filesystem.isdir(str(parent)):
        if parent == parent.parent:
            return ""
        parent = parent.parent
    names = sorted(PurePosixPath(entry).name for entry in filesystem.ls(str(parent), detail=False))
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{did_you_mean(PurePosixPath(path).name, names)} {parent} holds: {listed or 'nothing'}."


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return "bytes" in [kind.field(i).name for i in range(kind.num_fields)] and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _candidates(schema: pa.Schema, suits: Any) -> str:
    return ", ".join(field.name for field in schema if suits(field.type)) or "none"


def _find_image(table: _Table) -> str:
    found: list[str] = [field.name for field in table.schema if _holds_images(field.type)]
    if len(found) != 1:
        raise ConfigError(
            f"{table.files[0][0]} has {len(found)} columns that may hold images ({', '.join(found) or 'none'}); "
            f"set image_column. Columns: {', '.join(table.schema.names)}."
        )
    return found[0]


def _find_label(table: _Table) -> str:
    import pyarrow as pa

    found: list[str] = [field.name for field in table.schema if pa.types.is_integer(field.type)]
    usual = [name for name in _LABEL_NAMES if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    raise ConfigError(
        f"{table.files[0][0]} has {len(found)} columns that may hold labels ({', '.join(found) or 'none'}) and none is called "
        f"{', '.join(_LABEL_NAMES)}; set label_column. Columns: {', '.join(table.schema.names)}."
    )


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Names from the hub's metadata: features.<label>.names of type ClassLabel."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature = json.loads(text)["info"]["features"][label]
        return tuple(map(str, feature["names"])) if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError):  # other programs write this key too; without names, labels are numbers
        return None


def _numbered_classes(table: _Table, label: str, train_N: np.ndarray, test_N: np.ndarray | None) -> tuple[str, ...]:
    found = np.unique(train_N if test_N is None else np.concatenate([train_N, test_N]))
    if found[-1] != len(found) - 1:
        gap = int(np.flatnonzero(found != np.arange(len(found)))[0])
        raise DataError(
            f"{table.files[0][0]}: labels in {label} must be 0..K-1 without gaps when the file names no classes; "
            f"there are {len(found)} from {found[0]} to {found[-1]}, and {gap} is missing. Is {label} the right label_column?"
        )
    return tuple(str(index) for index in found)


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"{name} cannot be read; it may be damaged ({_first_line(error)}). Get it again.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
