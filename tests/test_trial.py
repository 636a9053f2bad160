"""`run_trial`: the same trial gives the same bytes, arms are paired, and the record says what happened."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import models
from pipeline.data.image_data import ImageData
from pipeline.metric_names import METRICS
from pipeline.store.records import Record
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Augment, Optimizer
from pipeline.training.evaluate import evaluate
from pipeline.training.feed import SplitFeed
from pipeline.training.loop import Fit, fit
from pipeline.trial import run_trial, summarise, weights_digest

CAM = {"ce": {}, "cam": {"weight": 1.0}}
RICH: dict[str, Any] = {
    "loss": CAM,
    "regularizers": [{"name": "cutmix"}, {"name": "cutout", "size": 3}, {"name": "dropout", "p": 0.3}],
    "augment": Augment(crop_padding=1, flip=True),
}
MakeSpec = Callable[..., TrialSpec]


class Listener:
    """A sink that remembers."""

    def __init__(self, weights: str = "none") -> None:
        self.weights, self.rows, self.states = weights, [], []  # type: ignore[var-annotated]

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def save_weights(self, state: dict[str, Tensor]) -> None:
        self.states.append(state)


def numbers(record: Record) -> dict[str, Any]:
    """What must not differ between two runs of one trial: all but times, memory and machine."""
    row = {key: value for key, value in record.items() if not key.startswith(("time_", "mem_", "env_"))}
    history = [{k: v for k, v in epoch.items() if not k.startswith("time_")} for epoch in record.history]
    return row | {"history": history}


def test_same_seed_same_bytes(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Twice the same trial, with every source of randomness in use, gives the same weights and history bit for bit."""
    first, again = (run_trial(make_spec(**RICH), data=tiny_data) for _ in range(2))
    assert first["weights_sha256"] == again["weights_sha256"]
    assert numbers(first) == numbers(again)
    first.check()


def test_another_seed_is_another_trial(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Another seed index or another dataset digest changes the weights and the derived seeds."""
    records = [run_trial(spec, data=tiny_data) for spec in (make_spec(), make_spec(seed=1), make_spec(digest="other"))]
    assert len({record["weights_sha256"] for record in records}) == 3
    assert len({record["seed_init"] for record in records}) == 3


def test_order_of_trials_in_a_process_does_not_matter(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Trials leave no state behind: a then b gives the same bytes as b then a."""
    a, b = make_spec(**RICH), make_spec(seed=1, optimizer=Optimizer(name="adamw", lr=1e-3), ema=0.9)
    forward = [run_trial(spec, data=tiny_data) for spec in (a, b)]
    backward = [run_trial(spec, data=tiny_data) for spec in (b, a)]
    assert [numbers(record) for record in forward] == [numbers(record) for record in reversed(backward)]


def test_global_generators_and_data_are_left_alone(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Neither the state of torch's, numpy's and Python's generators nor the dataset is changed, and their seeds do not matter."""
    images = tiny_data.image_NHWC.copy()
    records = []
    for seed in (0, 99):
        torch.manual_seed(seed)
        before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        records.append(run_trial(make_spec(**RICH), data=tiny_data))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert all(np.array_equal(x, y) for x, y in zip(np.random.get_state(), before[1], strict=True))
        assert random.getstate() == before[2]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    np.testing.assert_array_equal(tiny_data.image_NHWC, images)


def test_arms_start_equal_and_see_the_same_data(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """ce and cam are paired: as long as the CAM term is off they agree bit for bit, and at its first step cross-entropy does."""
    augment = Augment(crop_padding=2, flip=True)
    ce, late = (
        run_trial(make_spec(loss=loss, augment=augment), data=tiny_data) for loss in ({"ce": {}}, {"ce": {}, "cam": {"start_epoch": 2}})
    )
    assert late["weights_sha256"] == ce["weights_sha256"]
    whole = {"batch_size": 64, "epochs": 2, "augment": augment}  # one step an epoch
    ce, cam = (run_trial(make_spec(loss=loss, **whole), data=tiny_data) for loss in ({"ce": {}}, CAM))
    assert cam.history[0]["metric_train_ce"] == ce.history[0]["metric_train_ce"]
    assert cam.history[0]["metric_train_cam"] > 0
    assert cam.history[1]["metric_train_ce"] != ce.history[1]["metric_train_ce"]


def test_a_regularizer_does_not_shift_the_streams_of_others(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Adding one that changes no pixel here leaves every number as it is: initialisation, order and crops keep their streams."""
    crop = {"augment": Augment(crop_padding=2, flip=True), "epochs": 1}
    plain = run_trial(make_spec(**crop), data=tiny_data)
    never = run_trial(make_spec(**crop, regularizers=[{"name": "cutmix", "probability": 1e-9}]), data=tiny_data)
    assert never["weights_sha256"] == plain["weights_sha256"]


@pytest.mark.parametrize("backbone", ["resnet8", "resnet14"])
def test_dropout_draws_from_its_own_seed(tiny_data: ImageData, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    """When training starts, torch's generator stands at seed_regularizer, however many numbers the initial weights took."""
    from pipeline.tasks import classification

    seen = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_rng_state())
        return fit(*args, **kwargs)

    monkeypatch.setattr(classification, "fit", watched)
    record = run_trial(make_spec(backbone={"name": backbone}, epochs=1), data=tiny_data)
    assert torch.equal(seen[0], torch.Generator().manual_seed(record["seed_regularizer"]).get_state())


def test_selection_rules_are_read_off_the_history(make_data: Callable[..., ImageData], make_spec: MakeSpec) -> None:
    """`last`, `best_val` and `best_test` are the rows of the last epoch and of the first highest validation and test accuracy."""
    record = run_trial(make_spec(epochs=5, optimizer=Optimizer(lr=0.2), digest="any"), data=make_data(train=32, val=9, test=12))
    rows = record.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    chosen = {
        "last": rows[-1],
        "best_val": rows[int(np.argmax([row["metric_val_acc_top1"] for row in rows]))],
        "best_test": rows[int(np.argmax([row["metric_test_acc_top1"] for row in rows]))],
    }
    assert record["best_val_epoch"] == chosen["best_val"]["epoch"]
    for rule, row in chosen.items():
        for split in ("val", "test"):
            for metric in ("acc_top1", "loss", "caam_energy", "cam_energy", "flat_energy"):
                assert record[f"metric_{split}_{metric}_{rule}"] == row[f"metric_{split}_{metric}"]
    assert record["metric_train_loss_last"] == rows[-1]["metric_train_loss"]
    assert record["epochs_done"] == 5
    assert record["time_step_s"] == pytest.approx(record["time_train_s"] / 10)
    assert 0 < record["time_train_s"] <= record["time_total_s"]
    assert record["mem_peak_bytes"] > 2**20


def test_the_earliest_of_equal_epochs_is_chosen() -> None:
    """Ties go to the earlier epoch, under best_test too."""
    accuracy = [0.5, 0.8, 0.8, 0.6]
    history = [
        {"epoch": e + 1, "metric_val_acc_top1": a, "metric_test_acc_top1": a, "metric_test_loss": float(e)} for e, a in enumerate(accuracy)
    ]
    row = summarise(Fit(history=history, best_val_epoch=2, train_s=1.0, steps=4))
    assert (row["metric_test_loss_best_val"], row["metric_test_loss_best_test"], row["metric_test_loss_last"]) == (1.0, 1.0, 3.0)


def test_what_is_not_a_number_is_no_metric() -> None:
    """A value that is not finite stays in the history and does not become a metric that could be averaged."""
    history = [{"epoch": 1, "metric_test_acc_top1": 0.5, "metric_test_loss": float("inf"), "metric_test_cam_energy": float("nan")}]
    row = summarise(Fit(history=history, train_s=1.0, steps=4))
    assert {key for key in row if key.startswith("metric_")} == {"metric_test_acc_top1_last", "metric_test_acc_top1_best_test"}


def test_metrics_of_the_end_exist_for_the_last_and_the_best_weights(
    make_data: Callable[..., ImageData], make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a column under `last` and `best_val`, never under `best_test`, on validation or in the history; training is untouched."""
    from pipeline.training import loop

    data = make_data(train=32, val=9, test=12)
    options: dict[str, Any] = {"epochs": 5, "optimizer": Optimizer(lr=0.05), "loss": CAM, "ema": 0.5}
    record = run_trial(make_spec(**options), data=data)
    assert record["best_val_epoch"] < 5, "this test needs best weights that are not the last ones"
    names = {name for name, metric in METRICS.items() if metric.when == "end"}
    assert {f"metric_test_{name}_{rule}" for name in names for rule in ("last", "best_val")} <= set(record)
    assert not {f"metric_{split}_{name}_{rule}" for name in names for split, rule in (("test", "best_test"), ("val", "last"))} & set(record)
    assert not {f"metric_test_{name}" for name in names} & {key for row in record.history for key in row}
    for rule, epoch in (("last", 5), ("best_val", record["best_val_epoch"])):
        assert record[f"metric_test_nll_{rule}"] == record.history[epoch - 1]["metric_test_loss"]

    monkeypatch.setattr(loop, "evaluate_final", lambda *_: {})
    bare = run_trial(make_spec(**options), data=data)
    assert bare["weights_sha256"] == record["weights_sha256"]


def test_selected_never_shows_best_test(make_data: Callable[..., ImageData], make_spec: MakeSpec) -> None:
    """With evaluate_test=selected there is no best_test, while last and best_val are as ever."""
    data = make_data(train=32, val=9, test=12)
    options: dict[str, Any] = {"epochs": 6, "optimizer": Optimizer(lr=0.2)}
    honest, full = (run_trial(make_spec(**options, evaluate_test=how), data=data) for how in ("selected", "each_epoch"))
    assert any("metric_test_acc_top1" not in row for row in honest.history)
    assert "metric_test_acc_top1_best_test" in full
    metrics = {key: value for key, value in full.items() if key.startswith("metric_") and not key.endswith("_best_test")}
    assert {key: value for key, value in honest.items() if key.startswith("metric_")} == metrics


def test_no_validation_split(make_data: Callable[..., ImageData], make_spec: MakeSpec) -> None:
    """Without validation images there is no best_val; a sink that wants the best weights gets the last ones."""
    sink = Listener("best")
    record = run_trial(make_spec(), data=make_data(val=0), sink=sink)
    assert record["state"] == "complete"
    assert record["best_val_epoch"] is None
    assert not [key for key in record if "val_" in key and key != "best_val_epoch"]
    assert record["metric_test_acc_top1_last"] == record.history[-1]["metric_test_acc_top1"]
    assert weights_digest(sink.states[0]) == record["weights_sha256"]


def test_divergence_is_a_failed_record_that_names_the_step(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """A learning rate far too high fails the trial for good, with step and epoch, and keeps the epochs before."""
    record = run_trial(make_spec(optimizer=Optimizer(lr=1e30), batch_size=32, epochs=3), data=tiny_data)
    assert record["state"] == "failed"
    assert record["failure"] == "diverged"
    assert record.is_final
    assert "became nan at step" in record["reason"]
    assert "(epoch 0)" in record["reason"]
    assert not [key for key in record if key.startswith("metric_")]
    assert "weights_sha256" not in record
    record.check()


def test_a_later_divergence_keeps_the_history(tiny_data: ImageData, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that breaks in the second epoch leaves the first row, and the step is counted over the whole trial."""
    from pipeline.training import loop

    honest = loop.losses_of

    def breaks(model: torch.nn.Module, batch: Any, objective: Any, epoch: int, autocast: Any) -> dict[str, Tensor]:
        values = honest(model, batch, objective, epoch, autocast)
        return values if epoch == 0 else {name: value * float("nan") for name, value in values.items()}

    monkeypatch.setattr(loop, "losses_of", breaks)
    sink = Listener("last")
    record = run_trial(make_spec(epochs=3), data=tiny_data, sink=sink)
    assert record["reason"] == "loss became nan at step 4 (epoch 1)"
    assert [row["epoch"] for row in record.history] == [1]
    assert sink.states == [], "no weights of a failed trial"


def test_errors_of_a_method_reach_the_caller(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """A bug is not a result: the exception comes out, and torch's generator is restored all the same."""
    state = torch.get_rng_state()
    with pytest.raises(TypeError, match="nonsense"):
        run_trial(make_spec(loss={"ce": {"nonsense": 1}}), data=tiny_data)
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_on_the_cpu(tiny_data: ImageData, make_spec: MakeSpec) -> None:
    """Autocast to bfloat16 runs without a GPU, stays near float32 and keeps float32 weights."""
    sink = Listener("last")
    half = run_trial(make_spec(loss=CAM, precision="bfloat16", batch_size=64, epochs=1), data=tiny_data, sink=sink)
    full = run_trial(make_spec(loss=CAM, precision="float32", batch_size=64, epochs=1), data=tiny_data)
    auto = run_trial(make_spec(loss=CAM, precision="auto", batch_size=64, epochs=1), data=tiny_data)
    assert half["state"] == "complete"
    assert half["weights_sha256"] != full["weights_sha256"] == auto["weights_sha256"]
    for term in ("ce", "cam"):
        assert half[f"metric_train_{term}_last"] == pytest.approx(full[f"metric_train_{term}_last"], rel=0.05)
    assert {value.dtype for name, value in sink.states[0].items() if "num_batches" not in name} == {torch.float32}


@pytest.mark.parametrize("weights", ["none", "last", "best"])
def test_the_sink_hears_every_epoch_and_gets_the_weights_it_wants(
    tiny_data: ImageData, make_spec: MakeSpec, tmp_path: Path, weights: str
) -> None:
    """Each epoch is told as it ends; the weights asked for come once, can be stored by safetensors, and give the metrics of their epoch."""
    from safetensors.torch import load_file, save_file

    sink = Listener(weights)
    record = run_trial(make_spec(epochs=4, optimizer=Optimizer(lr=0.3)), data=tiny_data, sink=sink)
    assert sink.rows == record.history
    assert len(sink.states) == (weights != "none")
    if weights == "none":
        return
    save_file(sink.states[0], tmp_path / "weights.safetensors")
    state = load_file(tmp_path / "weights.safetensors")
    epoch = 4 if weights == "last" else record["best_val_epoch"]
    assert (weights_digest(state) == record["weights_sha256"]) is (epoch == 4)
    with torch.random.fork_rng(devices=[]):
        net = models.create("resnet8", num_classes=3, in_channels=1).eval()
    net.load_state_dict(state)
    test = tiny_data.split("test")
    scaled = (test.image_NHWC / 255 - tiny_data.mean) / tiny_data.std
    with torch.no_grad():
        logits = net(torch.from_numpy(scaled).permute(0, 3, 1, 2).float())
    accuracy = (logits.argmax(1).numpy() == test.label_N).mean()
    assert accuracy == pytest.approx(record.history[epoch - 1]["metric_test_acc_top1"])


def test_the_digest_sees_names_shapes_types_and_bytes() -> None:
    """Any difference between two states changes the digest; the order of names and the layout in memory do not."""
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    state = {"a": weight, "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": weight.to(memory_format=torch.channels_last).contiguous()}
    others = [
        state | {"a": weight.reshape(2, 1, 3, 4)},
        state | {"a": weight + 1},
        state | {"b": torch.tensor(3, dtype=torch.int32)},
        {"a": weight, "c": torch.tensor(3)},
    ]
    assert weights_digest(same) == weights_digest(state)
    assert len({weights_digest(other) for other in others} | {weights_digest(state)}) == 5


@pytest.mark.parametrize("weights", ["last", "best"])
@pytest.mark.parametrize("loss", ["ce", "am_softmax", "lgm"])
def test_kept_weights_load_into_a_fresh_backbone(tiny_data: ImageData, make_spec: MakeSpec, weights: str, loss: str) -> None:
    """Also where the loss changed the classifier: a fresh network with the kept weights has the accuracy of the record."""
    sink = Listener(weights)
    record = run_trial(make_spec(loss={loss: {}}, epochs=3), data=tiny_data, sink=sink)
    net = models.create("resnet8", num_classes=3, in_channels=1)
    net.load_state_dict(sink.states[0])
    feed = SplitFeed(tiny_data.split("test"), tiny_data.mean, tiny_data.std, torch.device("cpu"))
    rule = {"last": "last", "best": "best_val"}[weights]
    measured = evaluate(net, feed, contextlib.nullcontext)
    assert measured["loss"] == pytest.approx(record[f"metric_test_nll_{rule}"], rel=1e-5)
    assert measured["acc_top1"] == record[f"metric_test_acc_top1_{rule}"]
