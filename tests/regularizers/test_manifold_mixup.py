"""Manifold mixup: where it mixes, by which formula, when it does not, and whose randomness it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from pipeline import models, regularizers
from pipeline.batch import Batch, Target
from pipeline.errors import IncompatibleError
from pipeline.models.backbone import Backbone
from pipeline.models.weightless import Weightless

MakeBatch = Callable[..., Batch]


def resnet8() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create("resnet8", num_classes=3, in_channels=1)


def example(size: int = 5) -> Batch:
    return Batch(
        torch.randn(size, 1, 24, 20, generator=torch.Generator().manual_seed(0)), Target(torch.arange(size))
    )  # labels tell the images apart


def changes(net: Backbone, image_BCHW: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Stages whose map is changed at the end, with the map before and after."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def look(index: int) -> Callable[..., None]:
        return lambda _module, given, out: None if torch.equal(given[0], out) else seen.update({index: (given[0], out)})

    hooks = [point.register_forward_hook(look(index)) for index, point in enumerate(net.stage_points())]
    net(image_BCHW)
    for hook in hooks:
        hook.remove()
    return seen


def test_one_place_a_batch_mixed_by_the_formula() -> None:
    """In each batch either the images or one stage's maps are `lam h + (1 - lam) h[other]`, nothing else, and labels are mixed alike."""
    net, method, rng, given = resnet8().train(), regularizers.create("manifold_mixup", stages=[1, -1]), torch.Generator(), example()
    method.on_model(net)
    rng.manual_seed(0)
    places = []
    for _ in range(40):
        batch = method.on_batch(given, rng)
        lam_B111, other_B = torch.as_tensor(batch.target.lam).view(-1, 1, 1, 1), batch.target.other_B
        assert other_B is not None
        assert len(lam_B111.unique()) == 1
        assert torch.equal(batch.target.label_B, given.target.label_B)
        assert sorted(other_B.tolist()) == list(range(5))
        if torch.equal(other_B, torch.arange(5)):
            continue
        pairs = changes(net, batch.image_BCHW)
        if not torch.equal(batch.image_BCHW, given.image_BCHW):
            pairs[-1] = (given.image_BCHW, batch.image_BCHW)
        ((place, (before_BCHW, after_BCHW)),) = pairs.items()
        torch.testing.assert_close(after_BCHW, lam_B111 * before_BCHW + (1 - lam_B111) * before_BCHW[other_B])
        places.append(place)
    assert set(places) == {-1, 1, 2}


def test_all_places_are_equally_likely() -> None:
    """Over 900 batches images and both stages are drawn a third of the time each: a chi-squared test does not reject it."""
    method, rng, batch = regularizers.create("manifold_mixup"), torch.Generator().manual_seed(1), example(2)
    counts = [0, 0, 0]
    for _ in range(900):
        method.on_batch(batch, rng)
        counts[2 if method._stage is None else method._stage] += 1
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_the_share_is_beta(make_batch: MakeBatch, alpha: float) -> None:
    """lam follows Beta(alpha, alpha), whatever the place."""
    method, batch, rng = regularizers.create("manifold_mixup", alpha=alpha), make_batch(2, 1, 1, 1), torch.Generator().manual_seed(0)
    shares = [float(method.on_batch(batch, rng).target.lam[0]) for _ in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_at_the_images_it_is_mixup(make_batch: MakeBatch) -> None:
    """Where the images are drawn, the batch is mixup's of the same generator, bit for bit; elsewhere the labels still are."""
    batch, at_images = make_batch(), 0
    for seed in range(12):
        manifold = regularizers.create("manifold_mixup", alpha=1.0).on_batch(batch, torch.Generator().manual_seed(seed))
        mixup = regularizers.create("mixup", alpha=1.0).on_batch(batch, torch.Generator().manual_seed(seed))
        assert torch.equal(manifold.target.other_B, mixup.target.other_B)
        assert torch.equal(manifold.target.lam, mixup.target.lam)
        if not torch.equal(manifold.image_BCHW, batch.image_BCHW):
            assert torch.equal(manifold.image_BCHW, mixup.image_BCHW)
            at_images += 1
    assert 0 < at_images < 12


def test_without_images_only_stages_are_mixed() -> None:
    """With images=false the batch's pixels are never touched, and some stage always is."""
    net, method, rng = resnet8().train(), regularizers.create("manifold_mixup", images=False), torch.Generator().manual_seed(0)
    method.on_model(net)
    given = example()
    seen = set()
    for _ in range(12):
        batch = method.on_batch(given, rng)
        assert torch.equal(batch.image_BCHW, given.image_BCHW)
        (place,) = changes(net, batch.image_BCHW)
        seen.add(place)
    assert seen == {0, 1}


def test_neither_evaluation_nor_a_copy_mixes() -> None:
    """In evaluation the network gives the plain one's bits; a copy, as EMA makes it, never mixes, in training neither."""
    plain, net, method, given = resnet8(), resnet8(), regularizers.create("manifold_mixup", images=False, stages=[0]), example()
    method.on_model(net)
    twin = copy.deepcopy(net)
    batch = method.on_batch(given, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net.eval()(batch.image_BCHW), plain.eval()(given.image_BCHW))
        expected = copy.deepcopy(plain).train()(given.image_BCHW)
        assert torch.equal(twin.train()(batch.image_BCHW), expected)
        assert not torch.equal(net.train()(batch.image_BCHW), expected)
    assert list(net.state_dict()) == list(plain.state_dict())


def test_the_same_batch_again_is_mixed_alike() -> None:
    """A second pass of a batch, as for SAM, mixes at the same place by the same share; the next batch mixes anew."""
    net, method, given, rng = resnet8(), regularizers.create("manifold_mixup", images=False), example(), torch.Generator().manual_seed(0)
    method.on_model(net)
    with torch.no_grad():
        first, again = (net.train()(batch.image_BCHW) for batch in [method.on_batch(given, rng)] * 2)
        following = net(method.on_batch(given, rng).image_BCHW)
    assert torch.equal(first, again)
    assert not torch.equal(first, following)


def test_the_generator_decides_the_place_too() -> None:
    """Equal seeds give equal batches and places, other seeds others, and torch's global generator is left alone."""
    state = torch.get_rng_state()

    def run(seed: int) -> list[Any]:
        method, rng = regularizers.create("manifold_mixup"), torch.Generator().manual_seed(seed)
        batches = [method.on_batch(example(), rng) for _ in range(12)]
        return [(float(batch.target.lam[0]), batch.target.other_B.tolist(), batch.image_BCHW.sum().item()) for batch in batches]

    assert run(3) == run(3)
    assert run(3) != run(4)
    assert torch.equal(torch.get_rng_state(), state)
    one = regularizers.create("manifold_mixup")
    places = []
    for _ in range(2):  # a new generator starts anew, as a fresh method would
        rng = torch.Generator().manual_seed(3)
        places.append([(one.on_batch(example(), rng), one._stage)[1] for _ in range(30)])
    assert places[0] == places[1]
    assert len(set(places[0])) == 3


def test_losses_see_the_mixed_last_map() -> None:
    """Mixing at the last stage mixes the map that losses get, and the stage maps end with it."""
    net, method = resnet8().eval(), regularizers.create("manifold_mixup", images=False, stages=[-1])
    method.on_model(net)
    given = example()
    plain_BCHW = net.forward_features(given.image_BCHW)
    for module in net.stage_points():
        module.train()  # batch norm stays in evaluation, so that the maps can be compared
    batch = method.on_batch(given, torch.Generator().manual_seed(0))
    other_B, lam = batch.target.other_B, float(batch.target.lam[0])
    expected_BCHW = lam * plain_BCHW + (1 - lam) * plain_BCHW[other_B]
    torch.testing.assert_close(net.forward_features(batch.image_BCHW), expected_BCHW)
    torch.testing.assert_close(net.forward_stages(batch.image_BCHW)[-1], expected_BCHW)
    logits_BK = F.linear(plain_BCHW.mean((2, 3)), net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(net(batch.image_BCHW), lam * logits_BK + (1 - lam) * logits_BK[other_B])


def test_stages_that_the_backbone_lacks() -> None:
    """Two stages fewer than asked for make the pair incompatible; the defaults fit, without weights as in planning."""
    with Weightless():
        net = models.create("wrn_10_1", num_classes=2).to("meta")
    regularizers.create("manifold_mixup").on_model(net)
    with pytest.raises(IncompatibleError, match="this network has 3 stages, so there is no stage 4"):
        regularizers.create("manifold_mixup", stages=[0, 4]).on_model(net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"stages": []}, r"at least one, got \[\]"),
        ({"stages": [0, 0]}, r"must be different numbers, at least one, got \[0, 0\]"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    """Values that make no distribution or no place are refused with the value."""
    with pytest.raises(ValueError, match=message):
        regularizers.create("manifold_mixup", **options)
