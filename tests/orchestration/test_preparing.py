"""The images that pictures are made of, as the prepare stage writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import data
from pipeline.errors import DataError
from pipeline.orchestration.preparing import MAX_SIDE, prepare_study, write_images
from pipeline.study.config import StudyFile, load_study
from pipeline.study.params import DataParams, Params

STUDY = """\
study: two
datasets:
  digits: {source: cluttered_digits, canvas: 16, num_train: 40, num_val: 10, num_test: 60, clutter: 1}
  photos: {source: image_folder, root: ROOT, size: 160}
defaults: {backbone: resnet8, epochs: 1}
arms: {ce: {}}
tables:
  both: {rows: {dataset: [digits, photos]}, columns: {arm: [ce]}}
"""


@pytest.fixture(name="study")
def study_fixture(tmp_path: Path) -> tuple[StudyFile, Params]:
    """Digits with masks, and a folder of photographs of 160 pixels in two classes, without masks."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("test", 2)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "photos" / split / kind
            folder.mkdir(parents=True)
            for i in range(number):
                Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "two.yaml").write_text(STUDY.replace("ROOT", str(tmp_path / "photos")))
    params = Params(data=DataParams(prepared=str(tmp_path / "prepared"), raw=str(tmp_path / "raw")))
    return load_study("two", tmp_path), params


def test_images_by_the_rule_with_masks_and_names(study: tuple[StudyFile, Params], tmp_path: Path) -> None:
    """The first test image of each of the first six classes, pixel for pixel; a large one made smaller; the same bytes each time."""
    file, params = study
    prepare_study(file, params)
    write_images(file, params, tmp_path / "a" / "images.parquet")
    write_images(file, params, tmp_path / "b" / "images.parquet")
    assert (tmp_path / "a/images.parquet").read_bytes() == (tmp_path / "b/images.parquet").read_bytes()
    rows = pq.read_table(tmp_path / "a/images.parquet").to_pylist()
    digits, photos = ([row for row in rows if row["dataset"] == name] for name in ("digits", "photos"))
    component = next(c for c in map(dict, _components(file)) if c["name"] == "digits")
    images = data.open_prepared(component, Path(params.data.prepared))
    test = images.split("test")
    assert [row["label"] for row in digits] == list(range(6))
    assert [row["index"] for row in digits] == [int(np.flatnonzero(test.label_N == label)[0]) for label in range(6)]
    for row in digits:
        assert row["data_digest"] == images.digest
        assert row["classes"] == list(images.classes)
        assert row["pixels"] == test.image_NHWC[row["index"]].tobytes()
        assert row["mask"] == test.mask_NHW[row["index"]].tobytes()
        assert (row["height"], row["width"], row["channels"]) == (16, 16, 1)
    assert [row["classes"] for row in photos] == [["cat", "dog"]] * 2
    for row in photos:
        assert (row["height"], row["width"], row["channels"]) == (MAX_SIDE, MAX_SIDE, 3)
        assert len(row["pixels"]) == MAX_SIDE**2 * 3
        assert row["mask"] is None


def test_data_that_is_not_prepared_is_named(study: tuple[StudyFile, Params], tmp_path: Path) -> None:
    """Nothing is written from half of the datasets."""
    with pytest.raises(DataError, match=r"Dataset '(digits|photos)' is not prepared in .*Run `ablate prepare`"):
        write_images(*study, tmp_path / "images.parquet")
    assert not (tmp_path / "images.parquet").exists()


def _components(file: StudyFile) -> list[dict]:
    from pipeline.study.design import expand_datasets

    return expand_datasets(file, data.registry)
