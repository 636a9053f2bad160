"""The training loop: read it from top to bottom. Letters: B batch, C channels, H W image, K classes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.batch import Batch, LossInputs
from pipeline.data.image_data import ImageData
from pipeline.errors import DivergedError
from pipeline.regularizers import Regularizer
from pipeline.stateful import Stateful
from pipeline.study.trial_config import TrialConfig
from pipeline.training.checkpoint import Snapshots
from pipeline.training.evaluate import evaluate
from pipeline.training.feed import SplitFeed, TrainFeed
from pipeline.training.final import evaluate_final
from pipeline.training.objective import Objective
from pipeline.training.optim import build_optimizer, lr_factor, set_lr
from pipeline.training.stopwatch import Stopwatch

CHECK_EVERY = 100  # steps between looks at the loss: a look waits for the GPU


@dataclass
class Fit(Stateful):
    """What a training run leaves behind, filled in while it runs.

    Attributes:
        history: one row an epoch: `epoch` (from 1), `metric_train_*`, `metric_val_*`, `metric_test_*`, `metric_lr`, `time_*`.
        best_val_epoch: epoch (from 1) with the highest validation accuracy, the earliest of equals; None without a validation split.
        best_weights: state of the evaluated network after that epoch; empty without one.
        best_state: the same as plain weights on the CPU, if asked for.
        final: selection rule ('last'; 'best_val' with a validation split) -> metrics of the test split that are measured only at the
            end, see `evaluate_final`.
        train_s: seconds spent in training steps.
        steps: number of training steps.
        resumed: how often the run was continued from a checkpoint.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_val_epoch: int | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_state: dict[str, Tensor] | None = None
    final: dict[str, dict[str, float]] = field(default_factory=dict)
    train_s: float = 0.0
    steps: int = 0
    resumed: int = 0

    @property
    def best_val(self) -> float:
        """The highest validation accuracy so far."""
        return -math.inf if self.best_val_epoch is None else self.history[self.best_val_epoch - 1]["metric_val_acc_top1"]


def fit(
    model: nn.Module,
    data: ImageData,
    settings: TrialConfig,
    regularizers: list[tuple[Regularizer, torch.Generator]],
    objective: Objective,
    *,
    device: torch.device,
    order: torch.Generator,
    augment: torch.Generator,
    on_epoch: Callable[[dict[str, Any]], None],
    result: Fit,
    keep_best: bool = False,
    snapshots: Snapshots | None = None,
) -> nn.Module:
    """Train `model` in place by the settings of a trial; returns the model to be kept (the EMA copy when there is one).

    Continued from a checkpoint, everything comes out as if training had never stopped.

    Args:
        model: a backbone on `device`.
        regularizers: applied to each batch in this order, each with its own generator.
        objective: the training loss, attached to the model's classifier.
        order, augment: generators of the data order (CPU) and of crop and flip (device).
        on_epoch: called with each finished row of the history.
        result: filled in, also when training ends with an error.
        keep_best: keep a copy of the weights of the best validation epoch.
        snapshots: checkpoints of the trial; None makes none.

    Raises:
        UnusableError: there is a checkpoint that does not fit.
        DivergedError: the loss stopped being finite; names the first such step.
    """
    train = TrainFeed(data, device, batch_size=settings.batch_size, augment=settings.augment, order=order, augment_rng=augment)
    val = SplitFeed(data.split("val"), data.mean, data.std, device)
    test = SplitFeed(data.split("test"), data.mean, data.std, device)
    autocast = autocast_for(settings.precision, device)
    trained = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = build_optimizer(trained, settings.optimizer)
    averaged = None if settings.ema is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
    evaluated = model if averaged is None else averaged.module
    terms, watch = LossMeter(), Stopwatch()
    if snapshots is not None:
        snapshots.keep(model=model, averaged=averaged, optimizer=optimizer, objective=objective, regularizers=regularizers)
        snapshots.keep(feed=train, terms=terms, watch=watch, result=result)
        with watch.paused():
            if snapshots.restore():
                result.resumed += 1

    for epoch in range(len(result.history), settings.epochs):
        model.train()
        for batch in train.epoch(regularizers):
            factor = lr_factor(result.steps, steps_per_epoch=train.steps_per_epoch, epochs=settings.epochs, schedule=settings.schedule)
            set_lr(optimizer, settings.optimizer.lr * factor)

            def gradients(batch: Batch = batch, epoch: int = epoch) -> dict[str, Tensor]:
                optimizer.zero_grad(set_to_none=True)
                values = losses_of(model, batch, objective, epoch, autocast)
                values["total"].backward()
                return values

            values = gradients()
            for regularizer, _ in regularizers:
                regularizer.before_update(trained, gradients)
            if settings.grad_clip is not None:
                nn.utils.clip_grad_norm_(trained, settings.grad_clip)
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
            terms.add(values)
            result.steps += 1
            if snapshots is not None and snapshots.due():
                with watch.paused():
                    snapshots.save()
        row: dict[str, Any] = {"epoch": epoch + 1, **terms.means()}
        row["metric_lr"] = optimizer.param_groups[0]["lr"]
        row["time_train_s"] = watch.seconds()
        result.train_s += row["time_train_s"]

        row |= {f"metric_val_{name}": value for name, value in evaluate(evaluated, val, autocast).items()}
        is_best = row.get("metric_val_acc_top1", -math.inf) > result.best_val  # never, without a validation split
        if is_best:
            result.best_val_epoch = epoch + 1
            result.best_weights = {name: value.detach().clone() for name, value in evaluated.state_dict().items()}
        if settings.evaluate_test == "each_epoch" or is_best or epoch + 1 == settings.epochs:
            row |= {f"metric_test_{name}": value for name, value in evaluate(evaluated, test, autocast).items()}
        row["time_epoch_s"] = watch.seconds()
        result.history.append(row)
        on_epoch(row)
        watch.restart()

    result.final = evaluate_selected(evaluated, result.best_weights, result.best_val_epoch == settings.epochs, test, autocast)
    if keep_best and result.best_weights:
        with holding(evaluated, result.best_weights):
            result.best_state = evaluated.plain_state_dict()
    return evaluated


def evaluate_selected(
    model: nn.Module,
    best_weights: dict[str, Tensor],
    best_is_last: bool,
    test: SplitFeed,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> dict[str, dict[str, float]]:
    """`evaluate_final` for the weights that `model` has, 'last', and for the best ones, 'best_val', if any; the model keeps its weights."""
    final = {"last": evaluate_final(model, test, autocast)}
    if best_is_last:
        final["best_val"] = final["last"]
    elif best_weights:
        with holding(model, best_weights):
            final["best_val"] = evaluate_final(model, test, autocast)
    return final


@contextlib.contextmanager
def holding(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the model has these weights; after it its own again."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


def losses_of(
    model: nn.Module, batch: Batch, objective: Objective, epoch: int, autocast: Callable[[], contextlib.AbstractContextManager[object]]
) -> dict[str, Tensor]:
    """Terms of the loss of one batch, and their weighted 'total'."""
    with autocast():
        if objective.needs_stages(epoch):
            stage_maps = model.forward_stages(batch.image_BCHW)
            feature_map_BCHW = stage_maps[-1]
        else:
            stage_maps, feature_map_BCHW = (), model.forward_features(batch.image_BCHW)
        feature_BC = model.pool(feature_map_BCHW)
        logits_BK = model.classifier(feature_BC)
        inputs = LossInputs(feature_map_BCHW, logits_BK, model.classifier_weight_KC, batch.target, feature_BC, stage_maps)
        return objective(inputs, epoch)


def autocast_for(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A factory of the autocast context: bfloat16 where asked for, or by default on CUDA; else float32."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


class LossMeter(Stateful):
    """Means of the loss terms over an epoch, kept on the device; looks for non-finite values every `CHECK_EVERY` steps."""

    def __init__(self, first_step: int = 0, epoch: int = 0) -> None:
        self.first_step, self.epoch = first_step, epoch
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.recent: list[Tensor] = []  # totals since the last look

    def add(self, values: dict[str, Tensor]) -> None:
        """Count the terms of one step.

        Raises:
            DivergedError: a total since the last look was not finite.
        """
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        self.recent.append(values["total"].detach())
        self.steps += 1
        if len(self.recent) == CHECK_EVERY:
            self._check()

    def means(self) -> dict[str, float]:
        """`metric_train_loss` (the weighted total) and `metric_train_<term>` (unweighted), averaged over the epoch, which ends."""
        self._check()
        means = {f"metric_train_{'loss' if name == 'total' else name}": float(value) / self.steps for name, value in self.sums.items()}
        self.first_step, self.epoch, self.steps, self.sums = self.first_step + self.steps, self.epoch + 1, 0, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Counts and sums; of losses that turned out to be finite."""
        self._check()
        return super().state_dict()

    def _check(self) -> None:
        if not self.recent:
            return
        recent = torch.stack(self.recent)
        bad = (~torch.isfinite(recent)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise DivergedError(self.first_step + self.steps - len(recent) + first, self.epoch, float(recent[first]))
        self.recent = []
