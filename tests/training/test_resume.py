"""A trial that is interrupted and continued ends with the same bytes as one that is left alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import models
from pipeline.data.image_data import ImageData
from pipeline.errors import PrunedError
from pipeline.store.records import Record
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Augment, Optimizer
from pipeline.training import loop, stopwatch
from pipeline.training.checkpoint import Snapshots, UnusableError
from pipeline.trial import Costs, run_trial
from tests.training.interruptions import Interruptions, Keeper, KilledError, numbers, run_interrupted

ROOT = Path(__file__).parents[2]
MakeSpec = Callable[..., TrialSpec]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "loss": {"ce": {}, "cam": {"start_epoch": 1, "stages": [-1, -2]}, "center": {"weight": 0.01}},
        "regularizers": [{"name": "cutout", "size": 3}, {"name": "dropout", "p": 0.3}, {"name": "sam"}, {"name": "shake_drop"}],
        "augment": Augment(crop_padding=1, flip=True),
        "ema": 0.8,
        "grad_clip": 0.5,
        "epochs": 3,
    },
    "adamw": {
        "optimizer": Optimizer(name="adamw", lr=3e-3),
        "regularizers": [{"name": "cutmix"}],
        "evaluate_test": "selected",
        "epochs": 3,
    },
}
STEPS_AN_EPOCH = 4
slow_to_begin = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: ImageData, make_spec: MakeSpec) -> dict[str, Record]:
    """The trials of `SETTINGS`, left alone."""
    return {name: run_trial(make_spec(**fields), data=tiny_data) for name, fields in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
@settings(slow_to_begin, max_examples=3)
@given(share=st.floats(0, 1), lost=st.integers(0, 3))
@example(share=0.0, lost=1)
@example(share=0.5, lost=0)
@example(share=1.0, lost=1)
def test_any_step_will_do(
    tiny_data: ImageData, make_spec: MakeSpec, uninterrupted: dict[str, Record], name: str, share: float, lost: int
) -> None:
    """Killed after any step, the first and the last included, up to three steps after it was saved, a trial ends with the same numbers."""
    spec = make_spec(**SETTINGS[name])
    last = spec.settings.epochs * STEPS_AN_EPOCH
    record = run_interrupted(spec, tiny_data, 1 + round(share * (last - 1)), lost=lost)
    assert numbers(record) == numbers(uninterrupted[name])
    assert record["weights_sha256"] == uninterrupted[name]["weights_sha256"]


@pytest.mark.parametrize("steps", [(1, 2, 3), (4, 8), (5, 5 + 2, 12)], ids=str)
def test_several_times_in_a_row(
    tiny_data: ImageData, make_spec: MakeSpec, uninterrupted: dict[str, Record], steps: tuple[int, ...]
) -> None:
    """A continued trial is interrupted again, at the ends of epochs and in their midst: the same numbers, and each time is counted."""
    record = run_interrupted(make_spec(**SETTINGS["everything"]), tiny_data, *steps, lost=1)
    assert record["resumed"] == len(steps)
    assert numbers(record) == numbers(uninterrupted["everything"])


def test_without_a_validation_split(make_data: Callable[..., ImageData], make_spec: MakeSpec) -> None:
    """There is no best epoch then, and nothing to carry over."""
    data = make_data(val=0)
    assert numbers(run_interrupted(make_spec(), data, 6)) == numbers(run_trial(make_spec(), data=data))


@pytest.mark.parametrize("weights", ["last", "best"])
def test_kept_weights_and_told_epochs(tiny_data: ImageData, make_spec: MakeSpec, weights: str) -> None:
    """The sink gets the same weights, also where the best epoch was before the kill; what it was told before is not told again."""
    spec = make_spec(epochs=4, optimizer=Optimizer(lr=0.5))
    alone, first, second = Keeper(weights), Keeper(weights), Keeper(weights)
    expected = run_trial(spec, data=tiny_data, sink=alone)
    assert expected["best_val_epoch"] < 4, "the best epoch must not be the last one here"
    checkpoints = Interruptions(4 * expected["best_val_epoch"] + 1)
    with pytest.raises(KilledError):
        run_trial(spec, data=tiny_data, sink=first, checkpoints=checkpoints)
    run_trial(spec, data=tiny_data, sink=second, checkpoints=checkpoints)
    assert first.epochs + second.epochs == [1, 2, 3, 4]
    assert second.state.keys() == alone.state.keys()
    for key, value in alone.state.items():
        assert torch.equal(second.state[key], value), key


def test_a_later_divergence_is_the_same_record(tiny_data: ImageData, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that breaks after the checkpoint names the same step, and the epochs before the checkpoint are in the history."""
    honest = loop.losses_of

    def breaks(model: torch.nn.Module, batch: Any, objective: Any, epoch: int, autocast: Any) -> dict[str, Any]:
        values = honest(model, batch, objective, epoch, autocast)
        return values if epoch < 2 else {name: value * float("nan") for name, value in values.items()}

    monkeypatch.setattr(loop, "losses_of", breaks)
    record = run_interrupted(make_spec(epochs=3), tiny_data, 6)
    assert record["reason"] == "loss became nan at step 8 (epoch 2)"
    assert [row["epoch"] for row in record.history] == [1, 2]
    assert numbers(record) == numbers(run_trial(make_spec(epochs=3), data=tiny_data))


def test_a_trial_given_up_after_it_was_continued(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """A pruned trial has its whole history and the metrics of its last epoch, but neither weights nor pictures nor final metrics."""

    class GivesUp(Keeper):
        def epoch(self, row: dict[str, Any]) -> None:
            super().epoch(row)
            if row["epoch"] == 3:
                raise PrunedError("worse than the median after epoch 3")

    sink = GivesUp("last")
    record = run_interrupted(make_spec(epochs=5), tiny_data, 6, sink=sink)
    record.check()
    assert (record["state"], record["reason"], record["failure"]) == ("pruned", "worse than the median after epoch 3", "")
    assert not record.is_final
    assert (record["epochs_done"], [row["epoch"] for row in record.history]) == (3, [1, 2, 3])
    for split in ("train_loss", "val_acc_top1", "test_acc_top1"):
        assert record[f"metric_{split}_last"] == record.history[-1][f"metric_{split}"]
    assert not {"weights_sha256", "metric_test_ece_last"} & record.keys()
    assert (sink.state, record.panel) == ({}, {})
    whole = run_trial(make_spec(epochs=5), data=tiny_data)
    assert [row["metric_val_loss"] for row in record.history] == [row["metric_val_loss"] for row in whole.history[:3]]


@pytest.mark.parametrize("lost", [0, 2])
def test_only_time_of_training_that_counts_is_counted(
    tiny_data: ImageData, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """With a clock that gains a second a step, a trial of 8 steps took 8: neither saving, nor loading, nor steps done twice count."""
    clock, honest = SimpleNamespace(now=0.0), loop.losses_of

    def takes_a_second(*args: Any) -> Any:
        clock.now += 1
        return honest(*args)

    class Slow(Interruptions):
        def save(self, payload: bytes) -> None:
            clock.now += 1000
            super().save(payload)

        def load(self) -> bytes | None:
            clock.now += 500
            return super().load()

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(loop, "losses_of", takes_a_second)
    checkpoints = Slow(2, 3, 7, lost=lost)
    record: Record | None = None
    while record is None:
        with contextlib.suppress(KilledError):
            record = run_trial(make_spec(), data=tiny_data, checkpoints=checkpoints)
    assert record["time_train_s"] == 8
    assert [row["time_train_s"] for row in record.history] == [4, 4]
    assert record["time_step_s"] == 1


def test_costs_of_earlier_processes_are_carried_on() -> None:
    """Total time adds up, and the peak memory is that of the process that needed most."""
    costs = Costs(torch.device("cpu"))
    now = costs.peak_bytes
    assert now is not None
    for before, expected in ((2**60, 2**60), (1, now), (None, now)):
        costs.load_state_dict({"total_s": 100.0, "peak_bytes": before})
        assert expected <= costs.peak_bytes < expected + 2**30  # type: ignore[operator]
    assert 300 <= costs.total_s < 400


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from pipeline.data.image_data import ImageData
from pipeline.study.spec import TrialSpec
from pipeline.trial import run_trial
from tests.training.interruptions import numbers

folder, save_at, die_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

class File:
    steps = 0
    def due(self):
        File.steps += 1
        if File.steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return File.steps == save_at
    def save(self, payload):
        (folder / "checkpoint").write_bytes(payload)
    def load(self):
        file = folder / "checkpoint"
        return file.read_bytes() if file.exists() else None

fields = json.loads((folder / "data.json").read_text())
fields |= {key: tuple(fields[key]) for key in ("classes", "mean", "std")}
fields["ranges"] = {split: tuple(pair) for split, pair in fields["ranges"].items()}
arrays = np.load(folder / "arrays.npz")
data = ImageData(image_NHWC=arrays["image"], label_N=arrays["label"], mask_NHW=arrays["mask"], **fields)
spec = TrialSpec.from_dict(json.loads((folder / "spec.json").read_text()))
record = run_trial(spec, data=data, checkpoints=File())
found = numbers(record)
found.pop("panel")
(folder / "record.json").write_text(json.dumps({"numbers": found, "resumed": record["resumed"]}))
"""


def test_into_another_process_after_sigkill(tiny_data: ImageData, make_spec: MakeSpec, tmp_path: Path) -> None:
    """A process is killed by the system two steps after a checkpoint; another one goes on and ends with the numbers of this one."""
    import numpy as np

    spec = make_spec(**SETTINGS["everything"])
    fields = {name: getattr(tiny_data, name) for name in ("name", "classes", "ranges", "mean", "std", "digest")}
    (tmp_path / "data.json").write_text(json.dumps(fields))
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    np.savez(tmp_path / "arrays.npz", image=tiny_data.image_NHWC, label=tiny_data.label_N, mask=tiny_data.mask_NHW)

    def start_process(save_at: int, die_at: int) -> int:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(save_at), str(die_at)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    assert start_process(6, 8) == -signal.SIGKILL
    assert not (tmp_path / "record.json").exists()
    assert start_process(0, 0) == 0
    found = json.loads((tmp_path / "record.json").read_text())
    expected = numbers(run_trial(spec, data=tiny_data))
    expected.pop("panel")
    assert found == {"numbers": json.loads(json.dumps(expected)), "resumed": 1}


@pytest.fixture(scope="module")
def payload(tiny_data: ImageData, make_spec: MakeSpec) -> bytes:
    """A checkpoint of the plain trial after its fifth step."""
    checkpoints = Interruptions(5)
    with pytest.raises(KilledError):
        run_trial(make_spec(), data=tiny_data, checkpoints=checkpoints)
    assert checkpoints.payload is not None
    return checkpoints.payload


class Lying:
    """Checkpoints that hold one payload and are never due."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def due(self) -> bool:
        return False

    def save(self, payload: bytes) -> None:
        raise AssertionError

    def load(self) -> bytes:
        return self.payload


@settings(slow_to_begin, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(["cut", "flip", "noise"]), noise=st.binary(max_size=40))
def test_any_damage_is_noticed(payload: bytes, place: float, kind: str, noise: bytes) -> None:
    """A payload that is cut short, has one bit turned over, or is nonsense is refused before anything is changed."""
    at = int(place * len(payload))
    flipped = payload[:at] + bytes([payload[at] ^ 4]) + payload[at + 1 :]
    damaged = {"cut": payload[:at], "flip": flipped, "noise": noise}[kind]
    snapshots = Snapshots(Lying(damaged), "trial", torch.device("cpu"))
    with pytest.raises(UnusableError):
        snapshots.restore()


def relabelled(payload: bytes, **changes: object) -> bytes:
    line, _, body = payload.partition(b"\n")
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n" + body


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 0}, "its format is 0, and here it is 1"),
        ({"trial_id": "other"}, "its trial_id is 'other', and here it is 'trial'"),
        ({"torch": "1.0"}, "its torch is '1.0', and here it is"),
        ({"device": "cuda"}, "its device is 'cuda', and here it is 'cpu'"),
        ({"sha256": "0"}, "it is damaged: its sha256 is another one"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_foreign_checkpoint_starts_the_trial_anew(
    tiny_data: ImageData, make_spec: MakeSpec, uninterrupted: dict[str, Record], payload: bytes, changes: dict[str, Any], reason: str
) -> None:
    """A checkpoint of another format, trial, torch or device is left alone; the record says why and has the right numbers."""
    record = run_trial(make_spec(), data=tiny_data, checkpoints=Lying(relabelled(payload, **changes)))
    assert record["checkpoint_refused"].startswith(reason)
    assert record["resumed"] == 0
    assert numbers(record) == numbers(uninterrupted["plain"])


def test_a_checkpoint_that_fits_only_in_part(tiny_data: ImageData, make_spec: MakeSpec, uninterrupted: dict[str, Record]) -> None:
    """Weights of another network under the right label fail halfway; the trial starts from fresh weights all the same."""
    checkpoints = Interruptions(5)
    spec = make_spec(backbone={"name": "resnet14"})
    with pytest.raises(KilledError):
        run_trial(replace(spec, trial_id="trial"), data=tiny_data, checkpoints=checkpoints)
    assert checkpoints.payload is not None
    record = run_trial(make_spec(), data=tiny_data, checkpoints=Lying(checkpoints.payload))
    assert record["checkpoint_refused"].startswith("it does not fit the trial (RuntimeError: ")
    assert "\n" not in record["checkpoint_refused"]
    assert numbers(record) == numbers(uninterrupted["plain"])


def test_no_code_in_a_checkpoint_is_run(
    tiny_data: ImageData, make_spec: MakeSpec, uninterrupted: dict[str, Record], payload: bytes, tmp_path: Path
) -> None:
    """A payload that would run a function when unpickled, with label and digest in order, is refused and runs nothing."""
    import io

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torn = io.BytesIO()
    torch.save({"parts": Evil(), "random": {}}, torn)
    for body in (torn.getvalue(), pickle.dumps(Evil(), protocol=2)):
        line = payload.partition(b"\n")[0]
        evil = relabelled(line + b"\n" + body, sha256=hashlib.sha256(body).hexdigest())
        record = run_trial(make_spec(), data=tiny_data, checkpoints=Lying(evil))
        assert record["checkpoint_refused"].startswith("it cannot be read (")
        assert not (tmp_path / "owned").exists()
        assert numbers(record) == numbers(uninterrupted["plain"])


def test_memory_layout_is_kept() -> None:
    """Weights that lie channels-last lie so after loading, and so does the optimizer's momentum."""
    net = models.create("resnet8", num_classes=3).to(memory_format=torch.channels_last)
    other = models.create("resnet8", num_classes=3).to(memory_format=torch.channels_last)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (net, other)]
    image_BCHW = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    net(image_BCHW).sum().backward()
    optimizers[0].step()

    class Memory(Lying):
        def save(self, payload: bytes) -> None:
            self.payload = payload

    memory = Memory(b"")
    for parts, step in (((net, optimizers[0]), "save"), ((other, optimizers[1]), "restore")):
        snapshots = Snapshots(memory, "trial", torch.device("cpu"))
        snapshots.keep(model=parts[0], optimizer=parts[1])
        getattr(snapshots, step)()
    strided = 0
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
        momentum = [optimizer.state[p]["momentum_buffer"] for optimizer, p in zip(optimizers, (ours, theirs), strict=True)]
        assert torch.equal(*momentum)
        assert momentum[0].stride() == momentum[1].stride()
        strided += not ours.is_contiguous()
    assert strided > 3
