"""Regularizers that change the images, several in one trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline import regularizers
from pipeline.batch import Batch, Target
from pipeline.data.image_data import ImageData
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Augment
from pipeline.training.feed import TrainFeed
from pipeline.trial import run_trial

LISTS = [
    ["rand_augment", "cutmix", "label_smoothing"],
    ["auto_augment", "random_erasing", "mixup"],
    ["trivial_augment", "cutout", "label_smoothing"],
    ["augmix", "random_erasing"],
    ["random_erasing", "cutmix", "label_smoothing"],
]


@pytest.mark.parametrize("names", LISTS, ids="-".join)
def test_a_list_is_each_in_turn(tiny_data: ImageData, names: list[str]) -> None:
    """The feed hands out what the methods make one after the other, each from its own stream: first all pixels, then all batches."""
    assert regularizers.supports([{"name": name} for name in names]) == (True, "")
    methods = [regularizers.create(name) for name in names]

    def streams() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(len(names))]

    def feed() -> TrainFeed:
        augment = Augment(crop_padding=2, flip=True)
        order, rng = torch.Generator().manual_seed(8), torch.Generator().manual_seed(9)
        return TrainFeed(tiny_data, torch.device("cpu"), batch_size=16, augment=augment, order=order, augment_rng=rng)

    raw: list[torch.Tensor] = []

    class Listen(regularizers.Regularizer):
        def on_pixels(self, image_BHWC: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            raw.append(image_BHWC.clone())
            return image_BHWC

    plain = list(feed().epoch([(Listen(), torch.Generator())]))
    generators, normalise = streams(), feed().normalise
    got = list(feed().epoch(list(zip(methods, streams(), strict=True))))
    assert len(got) == len(plain) == 4
    for batch, before, image_BHWC in zip(got, plain, raw, strict=True):
        for method, generator in zip(methods, generators, strict=True):
            image_BHWC = method.on_pixels(image_BHWC, generator)
        expected = Batch(normalise(image_BHWC), Target(before.target.label_B))
        for method, generator in zip(methods, generators, strict=True):
            expected = method.on_batch(expected, generator)
        assert torch.equal(batch.image_BCHW, expected.image_BCHW)
        assert not torch.equal(batch.image_BCHW, before.image_BCHW)
        assert torch.isfinite(batch.image_BCHW).all()
        assert batch.target.smoothing == (0.1 if "label_smoothing" in names else 0.0)
        assert (batch.target.other_B is not None) == bool({"mixup", "cutmix"} & set(names))


def test_a_trial_with_three_of_them(tiny_data: ImageData, make_spec: Callable[..., TrialSpec]) -> None:
    """A whole trial with three methods completes, and gives the same weights twice and others than without them."""
    components: list[dict[str, Any]] = [{"name": name} for name in LISTS[0]]
    digests = [run_trial(make_spec(regularizers=chosen), data=tiny_data)["weights_sha256"] for chosen in (components, components, [])]
    assert digests[0] == digests[1] != digests[2]
