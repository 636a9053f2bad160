"""Prepared datasets: whole or absent, mapped and not copied, identified by content."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import data
from pipeline.data import prepared
from pipeline.data.cluttered_digits import cluttered_digits
from pipeline.data.raw import Blocks, RawData, RawSplit
from pipeline.errors import ConfigError, DataError, UnknownNameError

COMPONENT: dict[str, Any] = {"name": "digits", "source": "cluttered_digits", "num_train": 60, "num_val": 20, "num_test": 40}


def test_round_trip(tmp_path: Path) -> None:
    """What is mapped equals what the source gave, split by split."""
    prepared_data = data.prepare(COMPONENT, tmp_path)
    raw = cluttered_digits(num_train=60, num_val=20, num_test=40)
    assert (prepared_data.name, prepared_data.num_classes, prepared_data.channels) == ("digits", 10, 1)
    assert list(prepared_data.ranges.items()) == [("train", (0, 60)), ("val", (60, 80)), ("test", (80, 120))]
    for name, part in raw.splits.items():
        split = prepared_data.split(name)
        assert np.array_equal(split.image_NHWC, part.image_NHWC)  # type: ignore[arg-type]
        assert np.array_equal(split.label_N, part.label_N)
        assert np.array_equal(split.mask_NHW, part.mask_NHW)  # type: ignore[arg-type]


def test_layout_of_the_folder(tmp_path: Path) -> None:
    """One Arrow file with one record batch, one manifest, nothing else, in a folder named after the component."""
    data.prepare(COMPONENT, tmp_path)
    where = data.folder(COMPONENT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [where.name]
    assert sorted(path.name for path in where.iterdir()) == ["data.arrow", "manifest.json"]
    with pa.memory_map(str(where / "data.arrow")) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1
        assert reader.schema.names == ["image", "mask", "label", "source_index"]
    canonical = json.dumps(COMPONENT, sort_keys=True, separators=(",", ":"))
    assert where.name == f"digits-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    """The arrays lie in mapped memory, cannot be written to, and the split is a view."""
    prepared_data = data.prepare(COMPONENT, tmp_path)
    assert not prepared_data.image_NHWC.flags.writeable
    assert not prepared_data.image_NHWC.flags.owndata
    assert np.shares_memory(prepared_data.image_NHWC, prepared_data.split("test").image_NHWC)
    address = prepared_data.image_NHWC.__array_interface__["data"][0]
    if sys.platform == "linux":
        mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("data.arrow")]
        bounds = [[int(edge, 16) for edge in fields[0].split("-")] for fields in mapped]
        assert any(start <= address < stop for start, stop in bounds)


def test_manifest(tmp_path: Path) -> None:
    """The manifest states shape, splits, counts, origin, pixel statistics and size, as they are."""
    prepared_data = data.prepare(COMPONENT, tmp_path)
    manifest = data.read_manifest(COMPONENT, tmp_path)
    assert manifest is not None
    assert manifest["component"] == COMPONENT
    assert manifest["shape"] == [24, 24, 1]
    assert manifest["masks"] is True
    assert manifest["ranges"]["val"] == [60, 80]
    assert manifest["class_counts"]["test"] == [4] * 10
    assert [len(manifest["source_index"][split]) for split in ("train", "val", "test")] == [60, 20, 40]
    assert manifest["bytes"] == (data.folder(COMPONENT, tmp_path) / "data.arrow").stat().st_size
    pixels = prepared_data.split("train").image_NHWC / 255
    assert prepared_data.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)).tolist(), rel=1e-12)
    assert prepared_data.std == pytest.approx(pixels.std(axis=(0, 1, 2)).tolist(), rel=1e-12)


def test_prepare_is_idempotent_and_deterministic(tmp_path: Path) -> None:
    """A second call leaves the files alone, and another folder gets equal bytes."""
    first = data.prepare(COMPONENT, tmp_path / "a")
    path = data.folder(COMPONENT, tmp_path / "a") / "data.arrow"
    inode = path.stat().st_ino
    assert data.prepare(COMPONENT, tmp_path / "a").digest == first.digest
    assert path.stat().st_ino == inode
    data.prepare(COMPONENT, tmp_path / "b")
    for name in ("data.arrow", "manifest.json"):
        left, right = (data.folder(COMPONENT, tmp_path / side) / name for side in "ab")
        assert left.read_bytes() == right.read_bytes()


def test_digest_is_content_only(tmp_path: Path) -> None:
    """Alias and spelled-out defaults leave the digest alone; another seed does not."""
    digest = data.prepare(COMPONENT, tmp_path).digest
    assert data.prepare(COMPONENT | {"name": "other"}, tmp_path).digest == digest
    assert data.prepare(COMPONENT | {"clutter": 4}, tmp_path).digest == digest
    assert data.prepare(COMPONENT | {"seed_split": 1}, tmp_path).digest != digest


@pytest.mark.parametrize("change", ["image", "label", "mask", "classes", "ranges"])
def test_digest_sees_every_part(change: str) -> None:
    """A change of any part of the content changes the digest."""
    parts: dict[str, Any] = {
        "image_NHWC": np.zeros((4, 3, 2, 1), np.uint8), "label_N": np.array([0, 1, 0, 1]), "mask_NHW": np.zeros((4, 3, 2), np.uint8),
        "classes": ("a", "b"), "ranges": {"train": (0, 2), "val": (2, 3), "test": (3, 4)},
    }  # fmt: skip
    changed = dict(parts)
    match change:
        case "classes":
            changed["classes"] = ("a", "c")
        case "ranges":
            changed["ranges"] = {"train": (0, 1), "val": (1, 3), "test": (3, 4)}
        case _:
            key = next(name for name in parts if name.startswith(change))
            changed[key] = parts[key].copy()
            changed[key].flat[-1] += 1
    assert prepared.content_digest(**changed) != prepared.content_digest(**parts)


def test_not_prepared_is_none(tmp_path: Path) -> None:
    """An absent dataset is None, not an error."""
    assert data.open_prepared(COMPONENT, tmp_path) is None
    assert data.read_manifest(COMPONENT, tmp_path) is None


def _truncate(where: Path) -> None:
    path = where / "data.arrow"
    path.write_bytes(path.read_bytes()[:-100])


def _remove(where: Path) -> None:
    (where / "data.arrow").unlink()


def _break_footer(where: Path) -> None:
    path = where / "data.arrow"
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))


def _break_manifest(where: Path) -> None:
    (where / "manifest.json").write_text("{", encoding="utf-8")


def _empty_manifest(where: Path) -> None:
    (where / "manifest.json").write_text("{}", encoding="utf-8")


def _no_manifest(where: Path) -> None:
    (where / "manifest.json").unlink()


def _newer_manifest(where: Path) -> None:
    path = where / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")


@pytest.mark.parametrize("damage", [_truncate, _remove, _break_footer, _break_manifest, _empty_manifest, _no_manifest, _newer_manifest])
def test_damage_is_named_and_repaired(tmp_path: Path, damage: Any) -> None:
    """A damaged folder is a DataError with the file and the next step, and preparing again replaces it."""
    digest = data.prepare(COMPONENT, tmp_path).digest
    damage(data.folder(COMPONENT, tmp_path))
    with pytest.raises(DataError, match=r"(data\.arrow|manifest\.json) .*Prepare the dataset again"):
        data.open_prepared(COMPONENT, tmp_path)
    lines: list[str] = []
    assert data.prepare(COMPONENT, tmp_path, log=lines.append).digest == digest
    assert "making it again" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == [data.folder(COMPONENT, tmp_path).name]


def test_verify_finds_a_flipped_pixel(tmp_path: Path) -> None:
    """A file of the right size with another pixel opens, and fails with verify."""
    data.prepare(COMPONENT, tmp_path)
    path = data.folder(COMPONENT, tmp_path) / "data.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))
    assert data.open_prepared(COMPONENT, tmp_path) is not None
    with pytest.raises(DataError, match="digest differs"):
        data.open_prepared(COMPONENT, tmp_path, verify=True)


def test_verify_accepts_what_prepare_wrote(tmp_path: Path) -> None:
    """The digest in the manifest is that of the file."""
    data.prepare(COMPONENT, tmp_path)
    assert data.open_prepared(COMPONENT, tmp_path, verify=True) is not None


def test_killed_while_writing_leaves_nothing_half(tmp_path: Path) -> None:
    """A process that dies before the rename leaves no dataset, and the next one prepares it."""
    code = (
        "import os; from pathlib import Path; from pipeline.data import prepared; prepared._publish = lambda *_: os._exit(9); "
        f"prepared.prepare({COMPONENT!r}, Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 9
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".preparing-")
    assert data.open_prepared(COMPONENT, tmp_path) is None
    os.utime(left[0], (time.time() - 2 * 24 * 3600,) * 2)
    data.prepare(COMPONENT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [data.folder(COMPONENT, tmp_path).name]


def test_error_while_writing_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is a DataError that says what to do, and leaves no scratch files."""

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "_fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*Free space"):
        data.prepare(COMPONENT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the folder appears while we write, it is used and ours is thrown away."""
    publish = prepared._publish

    def late(scratch: Path, target: Path, component: dict[str, Any], root: Path) -> None:
        monkeypatch.setattr(prepared, "_publish", publish)
        data.prepare(component, root)
        inode = (target / "data.arrow").stat().st_ino
        publish(scratch, target, component, root)
        assert (target / "data.arrow").stat().st_ino == inode

    monkeypatch.setattr(prepared, "_publish", late)
    data.prepare(COMPONENT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [data.folder(COMPONENT, tmp_path).name]


@pytest.mark.parametrize(
    ("component", "kind", "message"),
    [
        ({"name": "x", "source": "cluttered_digit"}, UnknownNameError, "Did you mean 'cluttered_digits'"),
        ({"name": "cluttered_digits", "cluter": 3}, ConfigError, "no option 'cluter'. Did you mean 'clutter'"),
        ({"name": "cluttered_digits", "canvas": "24"}, ConfigError, "canvas must be int, got '24'"),
        ({"name": "cluttered_digits", "clutter": True}, ConfigError, "clutter must be int, got True"),
        ({"name": "cluttered_digits", "canvas": 4}, ConfigError, "dataset 'cluttered_digits': 8"),
        ({"name": "cifar10", "max_train": 1.5}, ConfigError, "max_train must be int | None, got 1.5"),
        ({"name": "cifar10", "raw_root": "x"}, ConfigError, "no option 'raw_root'"),
        ({"name": "x", "source": "parquet"}, ConfigError, "parquet needs a value for train"),
    ],
)
def test_wrong_components(tmp_path: Path, component: dict[str, Any], kind: type[Exception], message: str) -> None:
    """A wrong source or option is refused with the value, what is allowed and the nearest name; nothing is written."""
    with pytest.raises(kind) as caught:
        data.prepare(component, tmp_path)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_names_and_labels() -> None:
    """All sources are found, each with a label for tables and annotated options."""
    assert {"cifar10", "cifar100", "cluttered_digits", "fashion_mnist", "image_folder", "parquet"} <= set(data.names())
    for name in data.names():
        for annotation, _ in data.registry.get(name).options.values():
            assert annotation is not None
        assert "raw_root" not in data.registry.get(name).options


def test_prepare_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to `log` only."""
    lines: list[str] = []
    data.prepare(COMPONENT, tmp_path, log=lines.append)
    assert len(lines) == 2
    assert capsys.readouterr() == ("", "")


def _split(rows: int, **changes: Any) -> RawSplit:
    parts = {"image_NHWC": np.zeros((rows, 4, 5, 3), np.uint8), "label_N": np.arange(rows) % 2, "source_index_N": np.arange(rows)}
    return RawSplit(**parts | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": None}, "must give the splits"),
        ({"train": _split(0)}, "the train split is empty"),
        ({"test": _split(4, image_NHWC=np.zeros((3, 4, 5, 3), np.uint8))}, "4 labels"),
        ({"test": _split(4, label_N=np.array([0, 1, 2, 0]))}, "label 2 in row 2 of test"),
        ({"test": _split(4, mask_NHW=np.zeros((4, 4, 5), np.uint8))}, "either every split has masks"),
        ({"train": _split(4, image_NHWC=np.zeros((4, 4, 5), np.uint8))}, "must have the shape"),
    ],
)
def test_raw_data_is_checked(splits: dict[str, Any], message: str) -> None:
    """A source that hands over what does not fit together is refused by what is wrong."""
    all_splits = {name: _split(4) for name in ("train", "val", "test")} | splits
    raw = RawData({name: part for name, part in all_splits.items() if part is not None}, ("a", "b"))
    with pytest.raises(DataError, match=message):
        raw.check("dataset 'x'")


def test_blocks_of_a_lazy_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that reads block by block gives the same digest as one that hands over arrays; too few blocks are refused."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)

    def raw(**lazy: Any) -> RawData:
        return RawData({name: _split(10, **(lazy or {"image_NHWC": image})) for name in ("train", "val", "test")}, ("a", "b"))

    digests = []
    for number, source in enumerate([raw(), raw(image_NHWC=Blocks((10, 4, 5, 3), lambda: iter([image[:3], image[3:]])))]):
        monkeypatch.setattr(prepared, "_load", lambda *_, source=source: source)
        digests.append(data.prepare({"name": f"d{number}"}, tmp_path).digest)
    assert digests[0] == digests[1]
    monkeypatch.setattr(prepared, "_load", lambda *_: raw(image_NHWC=Blocks((10, 4, 5, 3), lambda: iter([image[:3]]))))
    with pytest.raises(DataError, match="gave 3 images for 10 labels"):
        data.prepare({"name": "short"}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_empty_channel_has_a_usable_deviation() -> None:
    """A constant channel gets the deviation of one grey level, so nothing divides by zero."""
    image = np.zeros((2, 3, 3, 3), np.uint8)
    image[0, ..., 0] = 255
    mean, std = prepared._pixel_statistics(image)
    assert mean == [0.5, 0.0, 0.0]
    assert std == [0.5, 1 / 255, 1 / 255]
