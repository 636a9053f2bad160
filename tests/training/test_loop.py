"""The loop: what an epoch reports, what stops it, and that it learns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.image_data import ImageData
from pipeline.errors import DivergedError
from pipeline.models.backbone import Backbone
from pipeline.study.trial_config import Augment, Optimizer, Schedule, TrialConfig
from pipeline.training import loop
from pipeline.training.evaluate import evaluate
from pipeline.training.feed import SplitFeed
from pipeline.training.loop import Fit, LossMeter, autocast_for, fit
from pipeline.training.objective import Objective

CPU = torch.device("cpu")


def train(net: nn.Module, data: ImageData, *, keep_best: bool = False, **changes: Any) -> tuple[nn.Module, Fit]:
    fields: dict[str, Any] = {"epochs": 3, "batch_size": 16, "optimizer": Optimizer(lr=0.1)}
    settings = TrialConfig(dataset={"name": "corners"}, backbone={"name": "resnet8"}, **(fields | changes))
    order, augment = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    result = Fit()
    kept = fit(
        net,
        data,
        settings,
        [],
        Objective(settings.loss),
        device=CPU,
        order=order,
        augment=augment,
        on_epoch=lambda row: None,
        result=result,
        keep_best=keep_best,
    )
    return kept, result


@pytest.mark.parametrize("loss", [{"ce": {}}, {"ce": {}, "cam": {"start_epoch": 2}}], ids=["ce", "cam"])
def test_a_separable_problem_is_learnt(
    make_data: Callable[..., ImageData], make_net: Callable[..., Backbone], loss: dict[str, Any]
) -> None:
    """A bright square in one of three corners is told apart without errors, and the loss falls."""
    # One filter as large as the image, moved nowhere: pooling would forget the corner otherwise.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Backbone(nn.Sequential(nn.Conv2d(1, 8, 11), nn.BatchNorm2d(8), nn.ReLU()), nn.Linear(8, 3))
    _, fitted = train(net, make_data(train=96), epochs=8, loss=loss)
    assert fitted.history[-1]["metric_test_acc_top1"] == 1.0
    assert fitted.history[-1]["metric_train_ce"] < 0.5 * fitted.history[0]["metric_train_ce"]
    assert fitted.steps == 8 * 6


def test_one_step_is_the_optimizers_step_on_the_mean_loss(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """One epoch of one full batch moves the weights as cross-entropy, autograd and SGD written out do."""
    settings = Optimizer(lr=0.3, momentum=0.0, nesterov=False, weight_decay=0.01)
    trained, fitted = train(make_net(), tiny_data, epochs=1, batch_size=64, optimizer=settings, schedule=Schedule(name="constant"))
    by_hand = make_net()
    feed = SplitFeed(tiny_data.split("train"), tiny_data.mean, tiny_data.std, CPU)
    value = F.cross_entropy(by_hand(feed.normalise(feed.images(slice(None)))), feed.label_N)
    value.backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.3 * (parameter.grad + 0.01 * parameter)
    assert fitted.history[0]["metric_train_loss"] == pytest.approx(value.item(), rel=1e-5)
    for (name, ours), theirs in zip(trained.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4, msg=name)


def test_history_and_the_best_validation_epoch(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """Each epoch has one row; the best epoch is the earliest with the highest validation accuracy, and its weights were kept."""
    rows = []
    settings = TrialConfig(
        dataset={"name": "corners"},
        backbone={"name": "resnet8"},
        epochs=6,
        batch_size=16,
        optimizer=Optimizer(lr=0.5),
        augment=Augment(flip=True),
    )
    order, augment = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    fitted = Fit()
    fit(
        make_net(),
        tiny_data,
        settings,
        [],
        Objective(settings.loss),
        device=CPU,
        order=order,
        augment=augment,
        on_epoch=rows.append,
        result=fitted,
        keep_best=True,
    )
    assert rows == fitted.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    accuracy = [row["metric_val_acc_top1"] for row in rows]
    assert fitted.best_val_epoch == int(np.argmax(accuracy)) + 1
    assert fitted.best_state is not None
    best = make_net()
    best.load_state_dict(fitted.best_state)
    feed = SplitFeed(tiny_data.split("val"), tiny_data.mean, tiny_data.std, CPU)
    again = evaluate(best, feed, contextlib.nullcontext)
    assert {f"metric_val_{name}": value for name, value in again.items()} == {
        name: value for name, value in rows[fitted.best_val_epoch - 1].items() if name.startswith("metric_val_")
    }
    assert fitted.train_s == pytest.approx(sum(row["time_train_s"] for row in rows))
    assert all(row["time_train_s"] <= row["time_epoch_s"] for row in rows)


def test_kept_weights_lie_in_plain_layout(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """The kept weights of a channels-last network are contiguous, as weight files want them, and are copies."""
    net = make_net(channels=6).to(memory_format=torch.channels_last)
    net.body.append(nn.Conv2d(6, 6, 3)).to(memory_format=torch.channels_last)
    trained, fitted = train(net, tiny_data, keep_best=True, epochs=1)
    assert fitted.best_state is not None
    assert not trained.body[3].weight.is_contiguous()
    assert all(value.is_contiguous() for value in fitted.best_state.values())
    assert torch.equal(fitted.best_state["body.3.weight"], trained.body[3].weight)
    assert fitted.best_state["body.3.weight"].data_ptr() != trained.body[3].weight.data_ptr()


def test_the_learning_rate_follows_the_schedule(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """The rate in the history is that of the epoch's last step."""
    _, fitted = train(make_net(), tiny_data, epochs=4, optimizer=Optimizer(lr=0.2), schedule=Schedule(name="multistep", milestones=[0.5]))
    assert [row["metric_lr"] for row in fitted.history] == pytest.approx([0.2, 0.2, 0.02, 0.02])


def test_gradients_are_clipped_to_the_global_norm(tiny_data: ImageData, make_net: Callable[..., Backbone]) -> None:
    """With a clip far below the gradient's norm one plain SGD step moves the weights by exactly lr times the clip."""
    plain = Optimizer(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 64, "optimizer": plain, "schedule": Schedule(name="constant")}
    moved = []
    for clip in (None, 1e-3):
        before = make_net()
        after, _ = train(make_net(), tiny_data, grad_clip=clip, **options)
        moved.append(nn.utils.parameters_to_vector(after.parameters()) - nn.utils.parameters_to_vector(before.parameters()))
    assert moved[0].norm() > 0.5e-2
    assert moved[1].norm().item() == pytest.approx(0.5e-3, rel=1e-2)
    torch.testing.assert_close(moved[1] / moved[1].norm(), moved[0] / moved[0].norm(), atol=2e-3, rtol=0)


def test_the_average_is_the_formula(tiny_data: ImageData, make_net: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept network is ema = decay * ema + (1 - decay) * weights after every step, starting from the weights after the first."""
    seen: list[dict[str, torch.Tensor]] = []
    average = loop.AveragedModel.update_parameters

    def watched(self: Any, model: nn.Module) -> None:
        seen.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        average(self, model)

    monkeypatch.setattr(loop.AveragedModel, "update_parameters", watched)
    net = make_net()
    kept, fitted = train(net, tiny_data, epochs=2, ema=0.7)
    assert kept is not net
    assert len(seen) == fitted.steps == 8
    expected = seen[0]
    for state in seen[1:]:
        expected = {
            name: 0.7 * expected[name] + 0.3 * state[name] if value.is_floating_point() else state[name] for name, value in state.items()
        }
    for name, value in kept.state_dict().items():
        if value.is_floating_point():  # the batch counter of batch norm is no weight
            torch.testing.assert_close(value, expected[name], msg=name)
    feed = SplitFeed(tiny_data.split("test"), tiny_data.mean, tiny_data.std, CPU)
    assert fitted.history[-1]["metric_test_loss"] == evaluate(kept, feed, contextlib.nullcontext)["loss"]


def test_test_split_is_read_only_when_selected(make_data: Callable[..., ImageData], make_net: Callable[..., Backbone]) -> None:
    """With evaluate_test=selected rows have test metrics at a new best validation epoch and at the last epoch only."""
    _, fitted = train(make_net(), make_data(train=32), epochs=8, optimizer=Optimizer(lr=1.0), evaluate_test="selected")
    best, wanted = -1.0, []
    for row in fitted.history:
        wanted.append(row["metric_val_acc_top1"] > best or row["epoch"] == 8)
        best = max(best, row["metric_val_acc_top1"])
    assert ["metric_test_acc_top1" in row for row in fitted.history] == wanted
    assert not all(wanted)


@pytest.mark.parametrize("steps", [1, 99, 100, 101, 200])
def test_the_meter_averages_any_number_of_steps(steps: int) -> None:
    """Means over the epoch are right also when the last step has just been looked at."""
    meter = LossMeter(first_step=0, epoch=0)
    for step in range(steps):
        meter.add({"total": torch.tensor(float(step)), "ce": torch.tensor(2.0)})
    assert meter.means() == {"metric_train_loss": pytest.approx((steps - 1) / 2), "metric_train_ce": 2.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 99, 100, 149, 249])
def test_the_meter_names_the_first_bad_step(at: int, bad: float) -> None:
    """The error names the first step whose total was not finite, counted over the whole trial, and comes within 100 steps."""
    meter = LossMeter(first_step=1000, epoch=4)
    taken = 0

    def run() -> None:
        nonlocal taken
        for step in range(250):
            meter.add({"total": torch.tensor(bad if step >= at else 1.0)})
            taken += 1
        meter.means()

    with pytest.raises(DivergedError, match=rf"at step {1000 + at} \(epoch 4\)") as caught:
        run()
    assert (caught.value.step, caught.value.epoch) == (1000 + at, 4)
    assert taken - at <= 100


def test_precision_chooses_the_autocast() -> None:
    """float32 is what is computed in by default on a CPU; bfloat16 on demand."""
    linear, x = nn.Linear(2, 2), torch.ones(1, 2)
    dtypes = {}
    for precision in ("auto", "float32", "bfloat16"):
        with autocast_for(precision, CPU)():
            dtypes[precision] = linear(x).dtype
    assert dtypes == {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
