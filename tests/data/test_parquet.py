"""Parquet tables in the layout of the Hugging Face hub."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import data
from pipeline.errors import ConfigError, DataError

REAL = Path(os.environ.get("ABLATE_TEST_CIFAR10", Path(__file__).parents[2].parent / "shared" / "data" / "cifar10"))


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def _images(rows: int, *, grey: bool = False, start: int = 0) -> list[bytes]:
    """4x5 images whose first pixel holds the row."""
    return [_png(np.full((4, 5) if grey else (4, 5, 3), start + row, np.uint8)) for row in range(rows)]


def _write(path: Path, images: list[bytes | None], labels: Any, *, names: list[str] | None = None, row_group: int = 7, **more: Any) -> str:
    """A table with the columns img and label, and others in `more`; the path as text."""
    columns: dict[str, Any] = {
        "img": pa.array([{"bytes": image, "path": None} for image in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    }
    columns["label"] = pa.array(labels, pa.int64())
    table = pa.table(columns | more)
    if names is not None:
        info = {"info": {"features": {"img": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=row_group)
    return str(path)


def _component(**options: Any) -> dict[str, Any]:
    return {"name": "table", "source": "parquet", **options}


def _labels(rows: int, classes: int = 2) -> list[int]:
    return [row % classes for row in range(rows)]


def test_rows_labels_and_names(tmp_path: Path) -> None:
    """Images, labels and source rows stay together over several files and row groups; names come from the hub's metadata."""
    for part in range(2):
        _write(tmp_path / f"train-{part}.parquet", _images(20, start=20 * part), _labels(20), names=["cat", "dog"])
    test = _write(tmp_path / "test.parquet", _images(10), _labels(10), names=["cat", "dog"])
    component = _component(train=str(tmp_path / "train-*.parquet"), test=test, val_fraction=0.25)
    prepared = data.prepare(component, tmp_path / "prepared")
    manifest = data.read_manifest(component, tmp_path / "prepared")
    assert manifest is not None
    assert prepared.classes == ("cat", "dog")
    assert prepared.image_NHWC.shape == (50, 4, 5, 3)
    assert prepared.mask_NHW is None
    for split in ("train", "val", "test"):
        rows = manifest["source_index"][split]
        assert prepared.split(split).image_NHWC[:, 0, 0, 0].tolist() == rows
        assert prepared.split(split).label_N.tolist() == [row % 2 for row in rows]
    assert sorted(manifest["source_index"]["train"] + manifest["source_index"]["val"]) == list(range(40))


def test_test_split_from_the_training_table(tmp_path: Path) -> None:
    """Without a test table, test_fraction of the rows become test, and no row is used twice."""
    train = _write(tmp_path / "all.parquet", _images(40), _labels(40))
    prepared = data.prepare(_component(train=train, test_fraction=0.25), tmp_path / "prepared")
    assert prepared.ranges == {"train": (0, 27), "val": (27, 30), "test": (30, 40)}
    assert sorted(prepared.image_NHWC[:, 0, 0, 0].tolist()) == list(range(40))
    assert prepared.classes == ("0", "1")


def test_only_kept_rows_are_decoded(tmp_path: Path) -> None:
    """An image that does not decode is no obstacle when its row is not kept."""
    images = _images(100)
    train = _write(tmp_path / "train.parquet", images, _labels(100))
    component = _component(train=train, test=train, max_train=10, max_test=4)
    data.prepare(component, tmp_path / "first")
    manifest = data.read_manifest(component, tmp_path / "first")
    assert manifest is not None
    kept = {row for rows in manifest["source_index"].values() for row in rows}
    assert len(kept) <= 14
    _write(tmp_path / "train.parquet", [image if row in kept else b"broken" for row, image in enumerate(images)], _labels(100))
    data.prepare(component, tmp_path / "second")
    assert data.read_manifest(component, tmp_path / "second") == manifest


def test_plain_binary_column_and_folder(tmp_path: Path) -> None:
    """A binary column holds images too, and a folder means its *.parquet files."""
    (tmp_path / "train").mkdir()
    pq.write_table(
        pa.table({"picture": _images(20), "fine_label": _labels(20), "coarse_label": [0] * 20}), tmp_path / "train" / "0.parquet"
    )
    prepared = data.prepare(_component(train=str(tmp_path / "train")), tmp_path / "prepared")
    assert prepared.num_classes == 2


@pytest.mark.parametrize(("grey", "colour_images", "channels"), [(None, 0, 1), (None, 1, 3), (True, 5, 1), (False, 0, 3)])
def test_grey_and_colour(tmp_path: Path, grey: bool | None, colour_images: int, channels: int) -> None:
    """One channel when all images are grey, three as soon as one is not, and as asked for when asked."""
    images = _images(20 - colour_images, grey=True) + _images(colour_images)
    train = _write(tmp_path / "train.parquet", images, _labels(20))
    options = {} if grey is None else {"grey": grey}
    assert data.prepare(_component(train=train, **options), tmp_path / "prepared").channels == channels


def test_size_scales_and_crops(tmp_path: Path) -> None:
    """With `size` the shorter side is scaled and the centre kept: of a 4x12 image with white sides only the black centre."""
    wide = np.full((4, 12, 3), 255, np.uint8)
    wide[:, 4:8] = 0
    images = [_png(wide), *_images(19)]
    train = _write(tmp_path / "train.parquet", images, _labels(20))
    component = _component(train=train, size=4)
    prepared = data.prepare(component, tmp_path / "prepared")
    manifest = data.read_manifest(component, tmp_path / "prepared")
    assert manifest is not None
    order = [row for split in ("train", "val", "test") for row in manifest["source_index"][split]]
    assert prepared.image_NHWC.shape == (20, 4, 4, 3)
    assert (prepared.image_NHWC[order.index(0)] == 0).all()


def _broken(rows: int, at: int, value: Any) -> list[Any]:
    images: list[Any] = _images(rows)
    images[at] = value
    return images


def test_broken_image_is_named(tmp_path: Path) -> None:
    """An image that does not decode is named by file and row in the file, also in a second file."""
    _write(tmp_path / "a.parquet", _images(20), _labels(20))
    _write(tmp_path / "b.parquet", _broken(20, 13, b"no image"), _labels(20))
    with pytest.raises(DataError, match=r"b\.parquet, row 13: the image does not decode \(unknown image format\)"):
        data.prepare(_component(train=str(tmp_path / "*.parquet")), tmp_path / "prepared")


def test_truncated_image_is_named(tmp_path: Path) -> None:
    """An image whose header reads but whose pixels do not is named too, and nothing half is left."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    train = _write(tmp_path / "a.parquet", _broken(20, 3, _png(noise)[:-40]), _labels(20))
    with pytest.raises(DataError, match=r"a\.parquet, row 3: the image does not decode"):
        data.prepare(_component(train=train), tmp_path / "prepared")
    assert list((tmp_path / "prepared").iterdir()) == []


def test_missing_bytes_are_named(tmp_path: Path) -> None:
    """A row that only names an image file is refused with what to do."""
    train = _write(tmp_path / "a.parquet", _broken(20, 5, None), _labels(20))
    with pytest.raises(DataError, match=r"a\.parquet, row 5: img has no bytes.*embed"):
        data.prepare(_component(train=train), tmp_path / "prepared")


def test_sizes_differ(tmp_path: Path) -> None:
    """Images of different sizes need the option size, and the message says so."""
    train = _write(tmp_path / "a.parquet", _broken(20, 9, _png(np.zeros((6, 5, 3), np.uint8))), _labels(20))
    with pytest.raises(DataError, match=r"row 9: the image has 6x5 pixels, the first one 4x5.*Set the option size"):
        data.prepare(_component(train=train), tmp_path / "prepared")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, None, 0], None, r"row 2: label is null"),
        ([0, 1, 0, -1], None, r"row 3: label is -1, allowed is 0 or above"),
        ([0, 1, 2, 0], ["a", "b"], r"row 2: label is 2, allowed is 0\.\.1"),
        ([1, 2, 1, 2], None, r"2 from 1 to 2, and 0 is missing"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: list[int | None], names: list[str] | None, message: str) -> None:
    """A label that is null, negative, or names no class is refused by file and row."""
    train = _write(tmp_path / "a.parquet", _images(20), labels * 5, names=names)
    with pytest.raises(DataError, match=rf"a\.parquet.*{message}"):
        data.prepare(_component(train=train), tmp_path / "prepared")


def test_missing_files(tmp_path: Path) -> None:
    """A missing file and a pattern without matches name what lies nearby."""
    _write(tmp_path / "train.parquet", _images(4), _labels(4))
    with pytest.raises(
        DataError, match=r"train '.*trian\.parquet' does not exist\. Did you mean 'train\.parquet'\?.*holds: train\.parquet"
    ):
        data.prepare(_component(train=str(tmp_path / "trian.parquet")), tmp_path / "prepared")
    with pytest.raises(DataError, match=r"matches no file.*holds: train\.parquet"):
        data.prepare(_component(train=str(tmp_path / "part-*.parquet")), tmp_path / "prepared")
    with pytest.raises(DataError, match=r"test .* does not exist"):
        data.prepare(_component(train=str(tmp_path / "train.parquet"), test=str(tmp_path / "no" / "t.parquet")), tmp_path / "prepared")
    with pytest.raises(DataError, match="cannot be opened"):
        data.prepare(_component(train="nosuchprotocol://x/train.parquet"), tmp_path / "prepared")


@pytest.mark.parametrize("content", [b"", b"PAR1 this is no table PAR1"])
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    """An empty file or one that is no Parquet is a DataError with its name."""
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        data.prepare(_component(train=str(path)), tmp_path / "prepared")


def test_truncated_file(tmp_path: Path) -> None:
    """A file cut short, as by an interrupted download, is a DataError with its name."""
    path = Path(_write(tmp_path / "a.parquet", _images(20), _labels(20)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet; it may be truncated"):
        data.prepare(_component(train=str(path)), tmp_path / "prepared")


def test_damaged_page(tmp_path: Path) -> None:
    """Damage inside the data, with a sound footer, is a DataError with the file too."""
    path = Path(_write(tmp_path / "a.parquet", _images(20), _labels(20), row_group=100))
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read; it may be damaged"):
        data.prepare(_component(train=str(path)), tmp_path / "prepared")


def test_no_rows(tmp_path: Path) -> None:
    """A table without rows is refused."""
    train = _write(tmp_path / "a.parquet", [], [])
    with pytest.raises(DataError, match="has no rows"):
        data.prepare(_component(train=train), tmp_path / "prepared")


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"label_column": "lable"}, {}, "no column 'lable'. Did you mean 'label'"),
        ({"image_column": "label"}, {}, "image_column 'label' of .* is int64; it must be struct<bytes, path> or binary. Candidates: img"),
        ({"label_column": "img"}, {}, "label_column 'img' of .* must hold whole numbers. Candidates: label"),
        ({}, {"thumb": [b"x"] * 4}, r"2 columns that may hold images \(img, thumb\); set image_column"),
        ({"size": 0}, {}, "size must be at least 1"),
        ({"test_fraction": 1.0}, {}, "test_fraction must be in"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], more: dict[str, Any], message: str) -> None:
    """A wrong or ambiguous column and an option out of range name the candidates."""
    train = _write(tmp_path / "a.parquet", _images(4), _labels(4), **more)
    with pytest.raises(ConfigError, match=message):
        data.prepare(_component(train=train, **options), tmp_path / "prepared")


def test_ambiguous_labels(tmp_path: Path) -> None:
    """Two columns of whole numbers, neither with a usual name, are not guessed between."""
    pq.write_table(pa.table({"img": _images(4), "size": [1, 2, 3, 4], "kind": _labels(4)}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"2 columns that may hold labels \(size, kind\).*set label_column"):
        data.prepare(_component(train=str(tmp_path / "a.parquet")), tmp_path / "prepared")


@pytest.mark.skipif(not (REAL / "train.parquet").is_file(), reason=f"no CIFAR-10 tables in {REAL} (set ABLATE_TEST_CIFAR10)")
def test_real_cifar10(tmp_path: Path) -> None:
    """A subset of real CIFAR-10 is balanced, has its class names and plausible pixel statistics."""
    component = _component(train=str(REAL / "train.parquet"), test=str(REAL / "test.parquet"), max_train=1000, max_test=200)
    prepared = data.prepare(component, tmp_path)
    assert prepared.image_NHWC.shape == (1200, 32, 32, 3)
    assert prepared.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(prepared.split("train").label_N).tolist() == [90] * 10
    assert prepared.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.02)
    assert prepared.std == pytest.approx((0.247, 0.243, 0.262), abs=0.02)
