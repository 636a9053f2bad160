"""Probes: real trials of a few steps on a prepared dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.data import prepare
from pipeline.data.image_data import ImageData
from pipeline.orchestration import probe
from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.probe import FILE, Probe, add_probes, measure, take_part
from pipeline.study.identity import make_spec
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import TrialConfig
from tests.orchestration.priced import priced_record

DIGITS = {"name": "digits", "source": "cluttered_digits", "canvas": 16, "num_train": 40, "num_val": 10, "num_test": 12}
CPU = torch.device("cpu")


@pytest.fixture(name="digits", scope="module")
def digits_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageData]:
    """The folder of prepared datasets, and the dataset in it."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare(DIGITS, folder)


@pytest.fixture(name="spec_of")
def spec_of_fixture(digits: tuple[Path, ImageData]) -> Callable[..., TrialSpec]:
    """Factory of trials on the dataset."""

    def make(backbone: str = "resnet8", **changes: Any) -> TrialSpec:
        fields = {"dataset": DIGITS, "backbone": {"name": backbone}, "epochs": 50, "batch_size": 20, "loss": {"ce": term()}}
        return make_spec(TrialConfig(**(fields | changes)).to_dict(), 0, digits[1].digest, "code")

    return make


@pytest.fixture(name="rehearsed")
def rehearsed_fixture(monkeypatch: pytest.MonkeyPatch) -> list[TrialSpec]:
    """The trials that are run while probing."""
    seen: list[TrialSpec] = []
    real = probe.run_trial

    def run_trial(spec: TrialSpec, **options: Any) -> Any:
        seen.append(spec)
        return real(spec, **options)

    monkeypatch.setattr(probe, "run_trial", run_trial)
    return seen


@pytest.fixture(name="broken", scope="module")
def broken_fixture() -> Iterator[str]:
    """A loss with a bug."""

    def broken(inputs: Any) -> Any:
        raise RuntimeError("a bug\nin two lines")

    losses.register("broken_in_probe")(lambda: broken)
    yield "broken_in_probe"
    losses.registry._entries.pop("broken_in_probe")


def term(start_epoch: int = 0) -> dict[str, Any]:
    """The common options of a loss term."""
    return {"weight": 1.0, "start_epoch": start_epoch, "ramp_epochs": 0}


def probed(specs: list[TrialSpec], folder: Path, **options: Any) -> tuple[CostModel, list[str], list[str]]:
    """A model with probes of these trials, what was said, and what went wrong."""
    model, said = CostModel("cpu"), []
    troubles = add_probes(model, specs, folder, threads=1, log=said.append, **options)
    return model, said, troubles


def test_a_probe_times_real_steps(digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], rehearsed: list[TrialSpec]) -> None:
    """Every part takes time, few epochs are run, and every term of the loss acts in them from the start."""
    spec = spec_of(loss={"ce": term(), "cam": term(start_epoch=30)})
    times = measure(spec, digits[1], CPU)
    assert times.step_s > 0
    assert times.image_s > 0
    assert times.once_s > 0
    assert times.final_image_s >= 0
    assert {run.config["epochs"] for run in rehearsed} == {2}
    assert {run.config["loss"]["cam"]["start_epoch"] for run in rehearsed} == {0}
    assert rehearsed[-1].config["batch_size"] == 20


def test_a_slow_network_is_tried_with_a_small_batch_only(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], rehearsed: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step is stretched to the whole batch."""
    monkeypatch.setattr(probe, "SLOW_STEP_S", 0.0)
    assert measure(spec_of(), digits[1], CPU).step_s > 0
    assert [run.config["batch_size"] for run in rehearsed] == [probe.SMALL]


def test_the_time_of_a_whole_trial(spec_of: Callable[..., TrialSpec]) -> None:
    """epochs x (steps x step + images x image) + once + test x final, by hand."""
    times, sizes = Probe(step_s=2.0, image_s=0.5, once_s=7.0, final_image_s=1.0), {"train": 50, "val": 4, "test": 6}
    assert times.seconds(spec_of(epochs=3), sizes) == 3 * (2 * 2.0 + 10 * 0.5) + 7.0 + 6.0
    assert times.seconds(spec_of(epochs=3, evaluate_test="selected"), sizes) == 3 * (2 * 2.0 + 4 * 0.5) + 7.0 + 6.0


def test_a_part_of_a_dataset_spans_it(make_data: Callable[..., ImageData]) -> None:
    """The asked number a split, first and last image among them, images still with their labels and masks; never more than there is."""
    data = make_data(train=64, val=0, test=16)
    part = take_part(data, {"train": 8, "val": 5, "test": 99})
    assert [len(part.split(name)) for name in ("train", "val", "test")] == [8, 0, 16]
    assert np.array_equal(part.split("train").image_NHWC[[0, -1]], data.split("train").image_NHWC[[0, -1]])
    assert np.array_equal(part.split("test").label_N, data.split("test").label_N)
    assert data.mask_NHW is not None
    for image_HWC, mask_HW in zip(part.image_NHWC, part.mask_NHW if part.mask_NHW is not None else [], strict=True):
        assert set(image_HWC[mask_HW == 1].ravel()) == {240}


def test_a_probe_a_setup_and_none_where_a_trial_is_stored(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], rehearsed: list[TrialSpec], tmp_path: Path
) -> None:
    """Other methods on the same network are no new probe; the methods that most trials have are taken."""
    folder = _copy(digits, tmp_path)
    stored = spec_of("resnet14")
    model, said = CostModel.learn([priced_record(stored, 10.0)], device="cpu"), []
    ce, cam = spec_of(), [dataclasses.replace(spec_of(loss={"ce": term(), "cam": term()}), seed=seed) for seed in range(2)]
    assert add_probes(model, [stored, ce, *cam], folder, threads=1, log=said.append) == []
    assert said == ["probing 1 network ..."]
    assert {tuple(run.config["loss"]) for run in rehearsed} == {("ce", "cam")}
    assert [model.seconds(spec).source for spec in (stored, cam[0], ce)] == ["measured", "probe", "probe"]


def test_probes_are_remembered(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], rehearsed: list[TrialSpec], tmp_path: Path
) -> None:
    """The second time nothing is run or said, even where nothing may be measured; with other code it is."""
    folder = _copy(digits, tmp_path)
    first, _, _ = probed([spec_of()], folder)
    rehearsed.clear()
    second, said, troubles = probed([spec_of()], folder, measure_new=False)
    assert (rehearsed, said, troubles) == ([], [], [])
    assert second.seconds(spec_of()) == first.seconds(spec_of())
    edited = dataclasses.replace(spec_of(), code_key="edited")
    assert probed([edited], folder, measure_new=False)[0].seconds(edited).source == "unknown"
    assert rehearsed == []
    probed([edited], folder)
    assert rehearsed


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"step_s": NaN}}', '{"a": {"sizes": {"train": 1}}}'])
def test_a_damaged_file_is_not_used(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], rehearsed: list[TrialSpec], tmp_path: Path, content: str
) -> None:
    """It is made anew."""
    folder = _copy(digits, tmp_path)
    (folder / FILE).write_text(content)
    assert probed([spec_of()], folder)[0].seconds(spec_of()).source == "probe"
    assert len(json.loads((folder / FILE).read_text())) == 1


def test_a_failed_probe_is_said_and_not_remembered(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], tmp_path: Path, broken: str
) -> None:
    """The other networks are probed all the same."""
    folder = _copy(digits, tmp_path)
    bad, good = spec_of(loss={"ce": term(), broken: term()}), spec_of("resnet14")
    model, _, troubles = probed([bad, good], folder)
    assert troubles == ["the probe of resnet8 failed: RuntimeError: a bug"]
    assert model.seconds(bad).reason == troubles[0]
    assert model.seconds(good).source == "probe"
    assert len(json.loads((folder / FILE).read_text())) == 1


def test_after_a_minute_no_probe_is_begun(
    digits: tuple[Path, ImageData],
    spec_of: Callable[..., TrialSpec],
    rehearsed: list[TrialSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan is made with what is known by then, and says so."""
    monkeypatch.setattr(probe, "CAP_S", -1.0)
    model, _, troubles = probed([spec_of()], _copy(digits, tmp_path))
    assert rehearsed == []
    assert model.seconds(spec_of()).source == "unknown"
    assert len(troubles) == 1


def test_threads_and_generators_are_left_as_they_were(
    digits: tuple[Path, ImageData], spec_of: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    """A probe changes nothing in the process that asks."""
    before, state = torch.get_num_threads(), torch.get_rng_state()
    model = CostModel("cpu")
    add_probes(model, [spec_of()], _copy(digits, tmp_path), threads=2, log=lambda _: None)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def _copy(digits: tuple[Path, ImageData], folder: Path) -> Path:
    """A folder of prepared datasets of its own, without remembered probes."""
    place = folder / "prepared"
    place.mkdir()
    for dataset in digits[0].iterdir():
        (place / dataset.name).symlink_to(dataset)
    return place
