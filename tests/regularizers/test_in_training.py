"""Methods that change the network or the update, in whole trials with CAM-loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import regularizers
from pipeline.trial import run_trial

if TYPE_CHECKING:
    from pipeline.data.image_data import ImageData
    from pipeline.study.spec import TrialSpec

METHODS: dict[str, dict[str, Any]] = {
    "stochastic_depth": {}, "shake_drop": {}, "drop_block": {"block_size": 3}, "manifold_mixup": {}, "sam": {},
}  # fmt: skip
CAM = {"ce": {}, "cam": {}}


def trial(make_spec: Callable[..., TrialSpec], data: ImageData, *names: str, **changes: Any) -> Any:
    chosen = [{"name": name, **METHODS[name]} for name in names]
    return run_trial(make_spec(loss=CAM, epochs=1, regularizers=chosen, **changes), data=data)


@pytest.mark.parametrize("name", METHODS)
def test_each_trains_with_cam_loss(tiny_data: ImageData, make_spec: Callable[..., TrialSpec], name: str) -> None:
    """A trial completes, with EMA as well; the same trial gives the same weights, and they are not those without the method."""
    first, again, plain = (trial(make_spec, tiny_data, *chosen) for chosen in ((name,), (name,), ()))
    assert first["state"] == again["state"] == "complete"
    assert first["weights_sha256"] == again["weights_sha256"] != plain["weights_sha256"]
    averaged = trial(make_spec, tiny_data, name, ema=0.5)
    assert averaged["state"] == "complete"
    assert averaged["metric_train_loss_last"] == first["metric_train_loss_last"], "the average changes no step"
    assert averaged["weights_sha256"] != first["weights_sha256"]


def test_all_together(tiny_data: ImageData, make_spec: Callable[..., TrialSpec]) -> None:
    """All of them in one trial, in either order: SAM's second pass mixes as the first, and noises share the branches."""
    forth, back = (trial(make_spec, tiny_data, *names) for names in (METHODS, reversed(METHODS)))
    assert forth["state"] == back["state"] == "complete"
    assert forth["weights_sha256"] != trial(make_spec, tiny_data)["weights_sha256"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_manifold_mixup_under_sam_and_autocast(tiny_data: ImageData, make_spec: Callable[..., TrialSpec], precision: str) -> None:
    """The pair trains in both precisions."""
    assert trial(make_spec, tiny_data, "sam", "manifold_mixup", precision=precision)["state"] == "complete"


def test_defaults_can_be_written_as_json() -> None:
    """What a study file shows as defaults are plain values, lists included."""
    options = {name: {key: default for key, (_, default) in regularizers.registry.get(name).options.items()} for name in METHODS}
    assert options["drop_block"] == {"p": 0.1, "block_size": 7, "stages": [-1, -2]}
    assert options["manifold_mixup"] == {"alpha": 2.0, "images": True, "stages": [0, 1]}
    assert options["sam"] == {"rho": 0.05}
    assert options["stochastic_depth"] == {"p": 0.5, "mode": "batch"}
    assert options["shake_drop"] == {"p": 0.5, "mode": "row"}
