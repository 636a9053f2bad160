"""Cluttered digits: one whole handwritten digit among fragments of others, with its exact mask. Needs no download.

After the cluttered translated digits of Mnih et al. (2014, arXiv:1406.6247), made from the 1,797 real 8x8 digits that ship inside
scikit-learn. All pixels come from whole-number arithmetic, so that every machine makes the same bytes and thus the same digest.

Letters: N canvases, S side of a canvas, D = 8 side of a source digit.
"""

from __future__ import annotations

import numpy as np

from pipeline.data import register
from pipeline.data.image_data import SPLITS
from pipeline.data.raw import RawData, RawSplit
from pipeline.data.splits import stratified_split
from pipeline.errors import ConfigError
from pipeline.seeds import derive

DIGIT_SIDE = 8
NUM_CLASSES = 10
TEST_SHARE, VAL_SHARE = 0.3, 0.15
"Shares of the source digits: test of all of them, val of what is left."
INK = 64
"A pixel of 0..255 belongs to the digit where the digit alone is brighter than this."
_ONE = 256  # fixed-point unit of an interpolation weight


@register("cluttered_digits", label="cluttered digits")
def cluttered_digits(
    canvas: int = 24,
    num_train: int = 1500,
    num_val: int = 300,
    num_test: int = 1000,
    clutter: int = 4,
    fragment: int = 4,
    min_scale: float = 1.2,
    max_scale: float = 2.0,
    noise: int = 16,
    seed_split: int = 0,
) -> RawData:
    """Grey canvases of `canvas` x `canvas` pixels, classes balanced.

    Source digits are split first (stratified by `seed_split`), so no digit, whole or as a fragment, is seen in two splits.
    The digit is drawn over the clutter and is never hidden by it; clutter next to it is dimmed.
    `source_index` is the row of the whole digit in scikit-learn's table.

    Args:
        canvas: side of an image in pixels.
        num_train: canvases of the training split; likewise num_val (may be 0) and num_test.
        clutter: fragments of digits of other classes on each canvas.
        fragment: side of the square cut from a source digit, in pixels of the 8x8 source.
        min_scale: smallest size of a digit and of a fragment, as a factor of its source.
        max_scale: largest size likewise.
        noise: half-width of the uniform noise added to every pixel, in grey levels of 0..255.
        seed_split: seed of the split of the digits and of everything drawn.

    Raises:
        ConfigError: an option is out of range.
    """
    _check(num_train >= NUM_CLASSES, f"num_train must be at least {NUM_CLASSES} (one canvas a class), got {num_train}")
    _check(num_val >= NUM_CLASSES or num_val == 0, f"num_val must be at least {NUM_CLASSES} (one canvas a class) or 0, got {num_val}")
    _check(num_test >= NUM_CLASSES, f"num_test must be at least {NUM_CLASSES} (one canvas a class), got {num_test}")
    _check(clutter >= 0, f"clutter must be at least 0 fragments, got {clutter}")
    _check(1 <= fragment <= DIGIT_SIDE, f"fragment must be in 1..{DIGIT_SIDE} source pixels, got {fragment}")
    _check(1 <= min_scale <= max_scale, f"1 <= min_scale <= max_scale must hold, got min_scale {min_scale} and max_scale {max_scale}")
    _check(DIGIT_SIDE * max_scale <= canvas, f"{DIGIT_SIDE} * max_scale must not exceed canvas, got max_scale {max_scale}, canvas {canvas}")
    _check(0 <= noise <= 255, f"noise must be in 0..255 grey levels, got {noise}")
    from sklearn.datasets import load_digits

    table = load_digits()
    digit_MDD, label_M = table.images.astype(np.int32), table.target.astype(np.int64)
    rest, test = stratified_split(label_M, TEST_SHARE, derive("split", "cluttered_digits", seed_split, "test digits"))
    train, val = stratified_split(label_M[rest], VAL_SHARE, derive("split", "cluttered_digits", seed_split, "val digits"))
    source = {"train": rest[train], "val": rest[val], "test": test}
    number = {"train": num_train, "val": num_val, "test": num_test}
    splits = {}
    for split in SPLITS:
        generator = np.random.default_rng(derive("split", "cluttered_digits", seed_split, split))
        splits[split] = _draw_split(
            digit_MDD, label_M, source[split], number[split], generator,
            side=canvas, clutter=clutter, fragment=fragment, scale=(min_scale, max_scale), noise=noise,
        )  # fmt: skip
    return RawData(splits, tuple(str(digit) for digit in range(NUM_CLASSES)))


def _draw_split(
    digit_MDD: np.ndarray,
    label_M: np.ndarray,
    rows: np.ndarray,
    number: int,
    generator: np.random.Generator,
    *,
    side: int,
    clutter: int,
    fragment: int,
    scale: tuple[float, float],
    noise: int,
) -> RawSplit:
    """`number` canvases from the source digits `rows`."""
    label_N = generator.permutation(np.arange(number) % NUM_CLASSES)
    rows_of = [generator.permutation(rows[label_M[rows] == label]) for label in range(NUM_CLASSES)]
    source_N = np.zeros(number, dtype=np.int64)
    for label, own in enumerate(rows_of):  # in turn, so that every source digit is used equally often
        at = np.flatnonzero(label_N == label)
        source_N[at] = own[np.arange(len(at)) % len(own)]

    size_K = np.array([len(own) for own in rows_of])
    start_K = np.cumsum(size_K) - size_K
    pool = np.concatenate(rows_of)
    clutter_NSS = np.zeros((number, side, side), dtype=np.int32)
    for _ in range(clutter):
        other_N = (label_N + generator.integers(1, NUM_CLASSES, number)) % NUM_CLASSES
        piece_N = pool[start_K[other_N] + (generator.random(number) * size_K[other_N]).astype(np.int64)]
        patch_NPP = _cut(digit_MDD[piece_N], fragment, generator)
        np.maximum(clutter_NSS, _place(patch_NPP, side, scale, generator), out=clutter_NSS)
    whole_NSS = _place(digit_MDD[source_N], side, scale, generator)
    image_NSS = np.maximum(whole_NSS, ((255 - _halo(whole_NSS)) * clutter_NSS + 127) // 255)
    image_NSS += generator.integers(-noise, noise, image_NSS.shape, dtype=np.int32, endpoint=True)
    image_NHWC = np.clip(image_NSS, 0, 255).astype(np.uint8)[..., None]
    return RawSplit(image_NHWC, label_N, source_N, (whole_NSS > INK).astype(np.uint8))


def _cut(digit_NDD: np.ndarray, fragment: int, generator: np.random.Generator) -> np.ndarray:
    """One `fragment` x `fragment` square of each digit, drawn in proportion to its ink, so that no fragment is blank."""
    window_NAAPP = np.lib.stride_tricks.sliding_window_view(digit_NDD, (fragment, fragment), axis=(1, 2))
    places = window_NAAPP.shape[2]
    cumulative_NA = window_NAAPP.sum(axis=(3, 4)).reshape(len(digit_NDD), places * places).cumsum(axis=1)
    goal_N = (generator.random(len(digit_NDD)) * cumulative_NA[:, -1]).astype(np.int64)
    at_N = (cumulative_NA <= goal_N[:, None]).sum(axis=1)
    patch_NPP: np.ndarray = window_NAAPP[np.arange(len(digit_NDD)), at_N // places, at_N % places]
    return patch_NPP


def _place(patch_NPP: np.ndarray, side: int, scale: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Each patch (0..16) at a random scale and place inside an empty canvas (0..255), by bilinear interpolation.

    Interpolation is separable: canvas = R patch C^T, where row y of R holds the weights of the source rows in canvas row y.
    """
    number, patch = len(patch_NPP), patch_NPP.shape[1]
    scale_N = scale[0] + (scale[1] - scale[0]) * generator.random(number)
    weights = []
    for _ in ("rows", "columns"):
        start_N = generator.random(number) * (side - patch * scale_N)
        source_NS = (np.arange(side) + 0.5 - start_N[:, None]) / scale_N[:, None] - 0.5
        hat_NSP = np.maximum(0.0, 1.0 - np.abs(source_NS[:, :, None] - np.arange(patch)))
        weights.append(np.rint(hat_NSP * _ONE).astype(np.int32))
    canvas_NSS = weights[0] @ patch_NPP @ weights[1].transpose(0, 2, 1)
    level_NSS: np.ndarray = np.minimum(canvas_NSS.astype(np.int64) * 255 // (16 * _ONE * _ONE), 255).astype(np.int32)
    return level_NSS


def _halo(whole_NSS: np.ndarray) -> np.ndarray:
    """The brightest of each pixel and its eight neighbours: clutter is dimmed by it, so that the outline of the digit stays readable."""
    padded = np.pad(whole_NSS, ((0, 0), (1, 1), (1, 1)))
    halo_NSS: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4))
    return halo_NSS


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
