"""CutMix: one box, the label share equal to the area that is left, and the distribution of that area."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from pipeline import regularizers
from pipeline.batch import Batch

MakeBatch = Callable[..., Batch]
HEIGHT, WIDTH = 10, 7


def box_of(inside_HW: Tensor) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of the smallest box around the True pixels."""
    rows, columns = (inside_HW.any(dim).nonzero().flatten() for dim in (1, 0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(25))
def test_box_and_share_are_torchvisions(make_batch: MakeBatch, seed: int) -> None:
    """Each image has one box of its partner, the same in all images; torchvision's CutMix of that box gives equal pixels and labels."""
    before = make_batch(6, 2, HEIGHT, WIDTH)
    after = regularizers.create("cutmix", probability=1.0).on_batch(before, torch.Generator().manual_seed(seed))
    assert after.target.other_B is not None
    other_B, lam_B = after.target.other_B, torch.as_tensor(after.target.lam)
    assert sorted(other_B.tolist()) == list(range(6))
    moved = (other_B != torch.arange(6)).nonzero()[0].item()
    box = box_of(after.image_BCHW[moved, 0] != before.image_BCHW[moved, 0])
    x1, y1, x2, y2 = box
    share = 1 - (x2 - x1) * (y2 - y1) / (HEIGHT * WIDTH)
    torch.testing.assert_close(lam_B, torch.full((6,), share))
    theirs = v2.CutMix(num_classes=6)
    for i, j in enumerate(other_B.tolist()):
        labels = torch.tensor([i, j])
        parameters = {"box": box, "lam_adjusted": share, "batch_size": 2, "labels": labels}
        assert torch.equal(after.image_BCHW[i], theirs.transform(before.image_BCHW[[i, j]], parameters)[0])
        ours_K = lam_B[i] * F.one_hot(after.target.label_B[i], 6) + (1 - lam_B[i]) * F.one_hot(other_B[i], 6)
        torch.testing.assert_close(ours_K, theirs.transform(labels, parameters)[0])


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_area_is_distributed_as_torchvisions(make_batch: MakeBatch, alpha: float) -> None:
    """Over 3,000 batches each, the areas left agree with torchvision's: a two-sample Kolmogorov-Smirnov test does not reject it."""
    cutmix, batch, rng = regularizers.create("cutmix", alpha=alpha, probability=1.0), make_batch(2, 1, 96, 64), torch.Generator()
    rng.manual_seed(0)
    # Whole pixels: float32 and float64 of one area would not count as equal.
    ours = [round(float(cutmix.on_batch(batch, rng).target.lam[0]) * 96 * 64) for _ in range(3000)]
    theirs, image_BCHW = v2.CutMix(alpha=alpha, num_classes=2), batch.image_BCHW
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = [round(theirs.make_params([image_BCHW])["lam_adjusted"] * 96 * 64) for _ in range(3000)]
    assert stats.ks_2samp(ours, expected).pvalue > 0.01


def test_every_pixel_can_be_pasted(make_batch: MakeBatch) -> None:
    """Boxes reach every pixel, corners included."""
    cutmix, batch, rng = regularizers.create("cutmix", probability=1.0), make_batch(2, 1, HEIGHT, WIDTH), torch.Generator().manual_seed(0)
    covered_HW = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for _ in range(300):
        covered_HW |= cutmix.on_batch(batch, rng).image_BCHW[0, 0] != batch.image_BCHW[0, 0]
    assert covered_HW.all()


def test_probability_leaves_the_other_batches_alone(make_batch: MakeBatch) -> None:
    """About `probability` of the batches are mixed, as they would be without the coin; the others keep their pixels and lam = 1."""
    batch, mixed = make_batch(4, 1, 16, 16), 0
    for seed in range(600):
        always, half = (
            regularizers.create("cutmix", probability=p).on_batch(batch, torch.Generator().manual_seed(seed)) for p in (1.0, 0.3)
        )
        if torch.equal(half.image_BCHW, always.image_BCHW) and torch.equal(half.target.lam, always.target.lam):
            mixed += 1
        else:
            assert torch.equal(half.image_BCHW, batch.image_BCHW)
            assert (half.target.lam == 1).all()
    assert 0.25 < mixed / 600 < 0.37  # a few of the unmixed batches count here too: their box would have been empty


def test_a_box_for_each_image(make_batch: MakeBatch) -> None:
    """With `per_image` every image has its own box, whose area is its label share; areas are distributed as over many batches."""
    cutmix, rng = regularizers.create("cutmix", probability=0.6, per_image=True), torch.Generator().manual_seed(0)
    before = make_batch(2000, 1, 24, 16)
    after = cutmix.on_batch(before, rng)
    lam_B, other_B = torch.as_tensor(after.target.lam), after.target.other_B
    assert other_B is not None
    for b in (other_B != before.target.label_B).nonzero().flatten().tolist():
        pasted_HW = after.image_BCHW[b, 0] == other_B[b] + 1
        assert torch.equal(after.image_BCHW[b, 0] == b + 1, ~pasted_HW)
        x1, y1, x2, y2 = box_of(pasted_HW)
        assert int(pasted_HW.sum()) == (x2 - x1) * (y2 - y1) == round(float(1 - lam_B[b]) * 24 * 16)
    one_a_batch, batch = regularizers.create("cutmix", probability=0.6), make_batch(2, 1, 24, 16)
    expected = [round(float(one_a_batch.on_batch(batch, rng).target.lam[0]) * 24 * 16) for _ in range(2000)]
    assert stats.ks_2samp([round(float(lam) * 24 * 16) for lam in lam_B], expected).pvalue > 0.01


def test_the_generator_decides(make_batch: MakeBatch) -> None:
    """The same generator state gives equal bytes, another seed other bytes, and torch's global generator is left alone."""
    cutmix, batch, state = regularizers.create("cutmix", probability=1.0), make_batch(), torch.get_rng_state()
    first, again, other = (cutmix.on_batch(batch, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.image_BCHW, again.image_BCHW)
    assert torch.equal(first.target.lam, again.target.lam)
    assert not torch.equal(first.image_BCHW, other.image_BCHW)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 0.0}, "alpha must be > 0, got 0.0"), ({"probability": 0.0}, "probability must be"), ({"probability": 1.5}, "got 1.5")],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    """Values that make no distribution are refused with the value."""
    with pytest.raises(ValueError, match=message):
        regularizers.create("cutmix", **options)
