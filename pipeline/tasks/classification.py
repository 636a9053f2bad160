"""Image classification: one backbone trained from scratch on one dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline import models, regularizers
from pipeline.data.image_data import ImageData
from pipeline.seeds import derive
from pipeline.study.spec import TrialSpec
from pipeline.training.checkpoint import Snapshots
from pipeline.training.loop import Fit, fit
from pipeline.training.objective import Objective

SEEDED = ("init", "order", "augment", "regularizer")


def derived_seeds(spec: TrialSpec) -> dict[str, int]:
    """Seeds of a trial's streams: they depend on the dataset and the seed index, never on the arm."""
    return {f"seed_{purpose}": derive(purpose, spec.data_digest, spec.seed) for purpose in SEEDED}


def train_classifier(
    spec: TrialSpec,
    data: ImageData,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    result: Fit,
    keep_best: bool = False,
    snapshots: Snapshots | None = None,
) -> nn.Module:
    """Build the network of a trial and train it; all randomness comes from the derived seeds. See `fit` for the arguments.

    The caller isolates torch's global generators: weights are drawn from them, and so is dropout.
    """
    settings, seeds = spec.settings, derived_seeds(spec)
    torch.manual_seed(seeds["seed_init"])
    model = models.create(num_classes=data.num_classes, in_channels=data.channels, **settings.backbone)
    model = model.to(device, memory_format=torch.channels_last)
    chosen = []
    for component in settings.regularizers:
        options = {key: value for key, value in component.items() if key != "name"}
        regularizer = regularizers.create(component["name"], **options)
        regularizer.on_model(model)
        stream = derive("regularizer", spec.data_digest, spec.seed, component["name"])
        chosen.append((regularizer, torch.Generator(device).manual_seed(stream)))
    objective = Objective(settings.loss)
    objective.attach(model.classifier, lambda name: derive("init", spec.data_digest, spec.seed, "loss", name))
    torch.manual_seed(seeds["seed_regularizer"])
    return fit(
        model,
        data,
        settings,
        chosen,
        objective,
        device=device,
        order=torch.Generator().manual_seed(seeds["seed_order"]),
        augment=torch.Generator(device).manual_seed(seeds["seed_augment"]),
        on_epoch=on_epoch,
        result=result,
        keep_best=keep_best,
        snapshots=snapshots,
    )
