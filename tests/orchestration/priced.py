"""Trials with real identities, and records that say how long they took."""

from __future__ import annotations

import json
from typing import Any

from pipeline.store.records import Record
from pipeline.study.identity import make_spec
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import TrialConfig


def priced_spec(
    backbone: str = "resnet8",
    *,
    loss: tuple[str, ...] = ("ce",),
    regularizers: tuple[str, ...] = (),
    seed: int = 0,
    data: str = "digits",
    epochs: int = 10,
    **changes: Any,
) -> TrialSpec:
    """A trial; keywords replace fields of `TrialConfig`."""
    fields: dict[str, Any] = {
        "dataset": {"name": data},
        "backbone": {"name": backbone},
        "loss": {name: {"weight": 1.0} for name in loss},
        "regularizers": [{"name": name} for name in regularizers],
        "epochs": epochs,
        "batch_size": 32,
    }
    return make_spec(TrialConfig(**(fields | changes)).to_dict(), seed, data, "code")


def priced_record(spec: TrialSpec, seconds: float, /, *, finished: int = 0, images: int | None = None, **changes: Any) -> Record:
    """A finished trial that took so many seconds, half of them in training steps on `images` images."""
    row: dict[str, Any] = {
        "trial_id": spec.trial_id,
        "cell_id": spec.cell_id,
        "state": "complete",
        "failure": "",
        "seed": spec.seed,
        "epochs_done": spec.config["epochs"],
        "time_total_s": seconds,
        "env_device": "cpu",
        "env_device_name": "this",
        "env_threads": 1,
        "time_finished_ns": finished,
        "spec": json.dumps(spec.to_dict(), sort_keys=True),
        "metric_test_acc_top1_last": 0.5,
    }
    if images is not None:
        steps = spec.config["epochs"] * (images // spec.config["batch_size"])
        row |= {"time_train_s": seconds / 2, "time_step_s": seconds / 2 / steps}
    return Record(row | changes)
