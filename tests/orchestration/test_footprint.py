"""Bytes on the disk of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import models
from pipeline.orchestration import footprint as module
from pipeline.orchestration.footprint import RECORD_BYTES, Footprint, ModelSizes, footprint, mean_record_bytes
from pipeline.store.trial_store import TrialStore
from tests.orchestration.priced import priced_record, priced_spec

MANIFEST = {"classes": ["a", "b", "c"], "shape": [12, 12, 1]}


def test_what_trials_take() -> None:
    """Records of all, weights of all where kept, checkpoints of the largest long trials that fit on the slots."""
    specs = [priced_spec(seed=seed) for seed in range(3)] + [priced_spec("large", ema=0.9)]
    sizes = {specs[0].cell_id: 100, specs[3].cell_id: 1000}
    long = {specs[0].trial_id, specs[1].trial_id, specs[3].trial_id}
    found = footprint(specs, record_bytes=10, model_bytes=sizes, keeps_weights=True, long=long, slots=2)
    # weights, momentum and best weights of the small one; those and the average of the large one
    assert found == Footprint(records=40, is_guess=False, weights=1300, checkpoints=3 * 100 + 4 * 1000)
    assert found.total == 40 + 1300 + 4300


def test_without_stored_records_a_default_is_said(tmp_path: Path) -> None:
    """And not taken for a measurement."""
    assert mean_record_bytes(TrialStore(tmp_path / "store"), 0) is None
    found = footprint([priced_spec()], record_bytes=None, model_bytes={}, keeps_weights=False, long=set(), slots=1)
    assert found == Footprint(RECORD_BYTES, is_guess=True, weights=0, checkpoints=0)
    assert found.line() == "30 kB of records (none is stored to measure)"


def test_the_mean_of_stored_records(tmp_path: Path) -> None:
    """All bytes of the segments over the trials in them."""
    store = TrialStore(tmp_path / "store")
    store.append([priced_record(priced_spec(seed=seed), 1.0) for seed in range(4)])
    total = sum(path.stat().st_size for path in (tmp_path / "store" / "segments").iterdir())
    assert mean_record_bytes(store, 4) == total // 4


def test_the_size_of_a_network_is_that_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a real network has them; found once and then remembered; another number of classes is another network."""
    net = models.create("resnet8", num_classes=3, in_channels=1)
    real = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    sizes = ModelSizes(tmp_path)
    assert sizes.bytes_of(priced_spec(), MANIFEST) == real
    assert sizes.bytes_of(priced_spec(), {**MANIFEST, "classes": ["a"]}) < real
    sizes.save()
    monkeypatch.setattr(module, "_bytes_of", lambda *_: pytest.fail("built again"))
    assert ModelSizes(tmp_path).bytes_of(priced_spec(), MANIFEST) == real


def test_a_network_that_cannot_be_built_counts_as_nothing(tmp_path: Path) -> None:
    """The plan goes on."""
    assert ModelSizes(tmp_path).bytes_of(priced_spec("no such network"), MANIFEST) == 0


def test_bytes_in_words() -> None:
    """What is nothing is left out."""
    found = Footprint(records=12_000_000, is_guess=False, weights=1_234_000_000, checkpoints=300_000_000)
    assert found.line() == "12 MB of records, 1.23 GB of weights, up to 300 MB of checkpoints while running"
