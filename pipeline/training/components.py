"""Boxes of the connected components of 8-bit maps, at all thresholds at once.

Letters: N images, Y X image, R regions (one a local maximum), T thresholds 0 to 254: a pixel is on at threshold t if its level is above t.

Labelling every image anew at every threshold would cost N T labellings. Instead each pixel climbs once to its local maximum; what
climbs to one maximum is a region, and a region stays connected at every threshold. Two regions touch at thresholds below the
highest saddle between them, so a maximum spanning tree over the regions tells which of them are one component at which threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLDS = 255  # nothing lies above level 255
NOTHING = -(2**14)  # side of the box of no pixels, lower than any side of an image
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # 8-connectivity, each pair once


@dataclass(frozen=True)
class Components:
    """Components of each image and threshold. A component is held by one of its regions; the others hold nothing there.

    Attributes:
        image_R: image of each region, ascending; an image without a pixel above level 0 has none.
        sides_4RT: -top, -left, bottom, right in pixels, inclusive; `NOTHING` where nothing is held.
        pixels_RT: number of pixels, 0 where nothing is held.
    """

    image_R: np.ndarray
    sides_4RT: np.ndarray
    pixels_RT: np.ndarray


def components(level_NYX: Tensor) -> Components:
    """All 8-connected components of all images at all thresholds.

    Cost: some passes over the pixels, and 6 kB a local maximum; a constant number of maxima an image for smooth maps, at most a
    quarter of the pixels for noise.

    Args:
        level_NYX: uint8, on any device.
    """
    _, height, width = level_NYX.shape
    top = _climb(level_NYX).cpu().numpy().ravel()
    level_NYX = level_NYX.cpu().numpy()
    level = level_NYX.ravel()
    peak_R = np.flatnonzero((top == np.arange(len(top))) & (level > 0))
    number = np.zeros(len(top), dtype=np.int64)
    number[peak_R] = np.arange(len(peak_R))
    region = number[top]

    on = np.flatnonzero(level)
    slot = region[on] * THRESHOLDS + level[on] - 1  # the highest threshold at which the pixel is on
    y, x = np.divmod(on % (height * width), width)
    sides_4RT = np.full((4, len(peak_R), THRESHOLDS), NOTHING, dtype=np.int16)
    for side_RT, value in zip(sides_4RT, (-y, -x, y, x), strict=True):
        np.maximum.at(side_RT.reshape(-1), slot, value.astype(np.int16))
    pixels_RT = np.bincount(slot, minlength=len(peak_R) * THRESHOLDS).astype(np.int32).reshape(-1, THRESHOLDS)
    # What is on at a threshold is on at all lower ones.
    sides_4RT = np.maximum.accumulate(sides_4RT[..., ::-1], axis=2)[..., ::-1]
    pixels_RT = pixels_RT[:, ::-1].cumsum(axis=1, dtype=np.int32)[:, ::-1]

    threshold_T = np.arange(THRESHOLDS)
    for into, gone, saddle in _merges(region.reshape(level_NYX.shape), level_NYX, len(peak_R)):
        joined_MT = threshold_T < saddle[:, None]
        nothing = np.int16(NOTHING)
        sides_4RT[:, into] = np.maximum(sides_4RT[:, into], np.where(joined_MT, sides_4RT[:, gone], nothing))
        sides_4RT[:, gone] = np.where(joined_MT, nothing, sides_4RT[:, gone])
        pixels_RT[into] += np.where(joined_MT, pixels_RT[gone], 0)
        pixels_RT[gone] = np.where(joined_MT, 0, pixels_RT[gone])
    return Components(peak_R // (height * width), sides_4RT, pixels_RT)


def _climb(level_NYX: Tensor) -> Tensor:
    """For each pixel the index, in level_NYX.flatten(), of the local maximum that it reaches by steepest ascent."""
    count, height, width = level_NYX.shape
    place_P = torch.arange(height * width, device=level_NYX.device)
    # Pixels of one level are told apart by their place, so that a plateau is climbed, too. Keys are whole numbers, kept exact.
    exact = torch.float32 if 256 * height * width <= 2**24 else torch.float64
    key_NP = level_NYX.flatten(1).to(exact) * (height * width) + place_P
    _, up_N1YX = F.max_pool2d(key_NP.view(count, 1, height, width), 3, stride=1, padding=1, return_indices=True)
    up_NP = up_N1YX.flatten(1)
    while not torch.equal(further_NP := up_NP.gather(1, up_NP), up_NP):
        up_NP = further_NP
    return up_NP + torch.arange(count, device=up_NP.device)[:, None] * (height * width)


def _merges(region_NYX: np.ndarray, level_NYX: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rounds of merges (into, gone, saddle) of regions: at thresholds below the saddle, `gone` belongs to `into`.

    Within a round no region appears twice; a region takes part in its merges from the highest saddle down (Kruskal's order).
    """
    _, height, width = region_NYX.shape
    codes = []
    for down, right in _NEIGHBOURS:
        here = (slice(None), slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(None), slice(down, height), slice(max(0, right), width - max(0, -right)))
        saddle = np.minimum(level_NYX[here], level_NYX[there])
        meet = (region_NYX[here] != region_NYX[there]) & (saddle > 0)
        a, b = region_NYX[here][meet], region_NYX[there][meet]
        codes.append((np.minimum(a, b) * count + np.maximum(a, b)) * 256 + saddle[meet])
    code = np.sort(np.concatenate(codes))
    code = code[np.append(np.diff(code // 256) != 0, True)[: len(code)]]  # only the highest saddle of each pair
    code = code[np.argsort(-(code % 256), kind="stable")]

    root, round_R = list(range(count)), [0] * count
    rounds: list[list[tuple[int, int, int]]] = []
    for pair, saddle in zip((code // 256).tolist(), (code % 256).tolist(), strict=True):
        a, b = _root(root, pair // count), _root(root, pair % count)
        if a == b:
            continue
        root[b] = a
        turn = max(round_R[a], round_R[b])
        round_R[a] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append((a, b, saddle))
    for merges in rounds:
        into, gone, saddles = np.array(merges).T
        yield into, gone, saddles


def _root(root: list[int], region: int) -> int:
    while root[region] != region:
        root[region] = root[root[region]]
        region = root[region]
    return region
