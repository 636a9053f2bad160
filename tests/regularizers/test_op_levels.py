"""Magnitudes read off torchvision: the numbers they must be, written out, so that a new torchvision cannot change them unseen."""

from __future__ import annotations

import pytest

from pipeline.regularizers import augmix, auto_augment, rand_augment, trivial_augment
from pipeline.regularizers.op_levels import Levels

HEIGHT, WIDTH = 33, 20
NONE = ("AutoContrast", "Equalize")


def ramp(highest: float, bins: int) -> list[float]:
    return [highest * level / (bins - 1) for level in range(bins)]


def assert_levels(levels: dict[str, Levels], highest: dict[str, float], bits: list[int], bins: int, without: tuple[str, ...]) -> None:
    """Signed ramps from 0 to `highest`, bits kept, thresholds from 255 to 0, and operations without a magnitude."""
    assert set(levels) == {*highest, "Posterize", "Solarize", *without}
    for op, top in highest.items():
        assert levels[op].signed, op
        assert levels[op].magnitudes == pytest.approx(ramp(top, bins), abs=1e-5), op
    assert levels["Posterize"] == Levels(tuple(map(float, bits)), signed=False)
    assert not levels["Solarize"].signed
    assert levels["Solarize"].magnitudes == pytest.approx(ramp(255, bins)[::-1], abs=1e-4)
    assert all(levels[op] == Levels((0.0,), signed=False) for op in without)


def moves(shear: float, x: float, y: float, angle: float) -> dict[str, float]:
    return {"ShearX": shear, "ShearY": shear, "TranslateX": x, "TranslateY": y, "Rotate": angle}


def colours(change: float) -> dict[str, float]:
    return dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), change)


def test_rand_augment() -> None:
    """14 operations in 31 levels; translations go up to 150 / 331 of the image."""
    highest = moves(0.3, 150 / 331 * WIDTH, 150 / 331 * HEIGHT, 30) | colours(0.9)
    bits = [8 - round(level * 4 / 30) for level in range(31)]
    assert_levels(rand_augment._levels(31, HEIGHT, WIDTH), highest, bits, 31, ("Identity", *NONE))


def test_trivial_augment() -> None:
    """14 operations in 31 levels over wide ranges, translations in pixels."""
    bits = [8 - round(level * 6 / 30) for level in range(31)]
    assert_levels(trivial_augment._levels(31), moves(0.99, 32, 32, 135) | colours(0.99), bits, 31, ("Identity", *NONE))


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_auto_augment(policy: str) -> None:
    """The operations of RandAugment in 10 levels, Invert instead of Identity."""
    highest = moves(0.3, 150 / 331 * WIDTH, 150 / 331 * HEIGHT, 30) | colours(0.9)
    assert_levels(auto_augment._levels(policy, HEIGHT, WIDTH), highest, [8, 8, 7, 7, 6, 6, 5, 5, 4, 4], 10, ("Invert", *NONE))


@pytest.mark.parametrize("all_ops", [True, False])
def test_augmix(all_ops: bool) -> None:
    """10 levels of severity; the four operations on colour and sharpness only with `all_ops`; posterizing starts at 4 bits."""
    highest = moves(0.3, WIDTH / 3, HEIGHT / 3, 30) | (colours(0.9) if all_ops else {})
    assert_levels(augmix._levels(all_ops, HEIGHT, WIDTH), highest, [4, 4, 3, 3, 2, 2, 1, 1, 0, 0], 10, NONE)


def test_the_sign() -> None:
    """Sign 0 negates a signed magnitude and nothing else; an operation without levels has the same magnitude at each."""
    signed, plain, single = Levels((0.0, 0.5), True), Levels((8.0, 4.0), False), Levels((0.0,), False)
    assert [signed.at(1, sign) for sign in (0, 1)] == [-0.5, 0.5]
    assert [plain.at(1, sign) for sign in (0, 1)] == [4.0, 4.0]
    assert single.at(7, 0) == 0.0
