"""Activation maps of the networks of a row, below the images they are of.

Letters: H W rows and columns of a map, Y X rows and columns of a tile.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analysis.figures.panels import (
    Arm,
    Caption,
    Group,
    Images,
    blocks_of,
    chosen_words,
    class_name,
    class_names,
    cut,
    full_label,
    hidden_words,
    title_words,
    trial_words,
)
from pipeline.analysis.figures.style import STYLE, plain
from pipeline.analysis.wording import join_words, one_line, wrap

COLOR_MAP = "viridis"  # perceptually uniform, and the same to colour-blind readers
TILE_PIXELS = 96  # at least so many a side, so that the outline is thin
_LABEL_CHARACTERS = 17  # beside the tiles
_TILE, _GAP, _MARGIN, _LABEL, _LINE = 1.0, 0.06, 0.12, 1.5, 0.19  # inches: tile, gaps, room for labels, height of a line of text
_SOFT = "#444444"
_GREY = 215  # of a flat map: no colour of the scale
Pixels = NDArray[np.uint8]


def maps_figure(spec: Mapping[str, Any], group: Group, images: Images) -> tuple[Figure, Caption]:
    """The test images of a row, and below them each arm's CAM of the labelled class, CAAM and prediction.

    Args:
        spec: one entry of `tables` in tables.json.
        group: one with at least one arm that has pictures.
        images: see `panels.image_rows`; an image that is not among them is an empty tile.
    """
    panels = [panel for _, panel in group.shown]
    rules = dict.fromkeys(chosen_words(panel["panel_label"], class_names(panel, images)) for panel in panels)
    masked = any(images.get((p["panel_digest"], i), {}).get("mask") is not None for p in panels for i in p["panel_index"])
    outline = " The line is the outline of the object." if masked else ""
    grey = " A flat map has no range and is grey." if any(is_flat(map_HW) for p in panels for maps in _maps(p) for map_HW in maps) else ""
    scale = f"Each map is scaled to its own range: dark is lowest, bright is highest.{grey}{outline}"
    rule = f"Images by a fixed rule: {join_words(list(rules))}, in the order of the test split."
    left_out = hidden_words(0, group.hidden)
    note = (
        f"{rule} CAM: map of the labelled class; CAAM: sum of the feature map, which knows no class. {scale} Above each CAM: "
        f"✓ or ✗ and the predicted class. Seed {group.seed}. {left_out}"
    ).strip()
    where = f"row {one_line(group.row)}" if group.row else "every row"
    with matplotlib.rc_context(STYLE):
        figure = _draw(f"Class activation maps: {title_words(group.field, group.row or spec['title'])}", note, group, images)
    verdicts = " ".join(_verdict(group, arm, panel) for arm, panel in group.shown)
    alt = f"Class activation maps, table {spec['name']}, {where}. {verdicts} {note}"
    return figure, Caption(f"Class activation maps, {where}. {trial_words([group])}", alt)


def is_flat(map_HW: Pixels) -> bool:
    """Whether a map is the same everywhere, as one of 1x1 is."""
    return bool(map_HW.min() == map_HW.max())


def map_tile(map_HW: Pixels, shape_YX: tuple[int, int]) -> Pixels:
    """RGB tile of a map: resized bilinearly, as where its energy on the object is measured, then coloured; grey where it is flat."""
    if is_flat(map_HW):
        return np.full((*shape_YX, 3), _GREY, np.uint8)
    zoom = (shape_YX[0] / map_HW.shape[0], shape_YX[1] / map_HW.shape[1])
    full_YX = ndimage.zoom(map_HW.astype(np.float64), zoom, order=1, mode="nearest", grid_mode=True)
    colored: Pixels = matplotlib.colormaps[COLOR_MAP](full_YX / 255, bytes=True)[..., :3]
    return colored


def outlined(tile_YXC: Pixels, mask_YX: Pixels | None) -> Pixels:
    """A tile with a line around the object, which hides nothing of it: white, then black, so that it is seen on any colour."""
    if mask_YX is None:
        return tile_YXC
    inside = mask_YX.astype(bool)
    tile_YXC = tile_YXC.copy()
    tile_YXC[ndimage.binary_dilation(inside, np.ones((5, 5))) & ~inside] = 0
    tile_YXC[ndimage.binary_dilation(inside, np.ones((3, 3))) & ~inside] = 255
    return tile_YXC


def _enlarged(image: Pixels) -> Pixels:
    """Each pixel repeated until the longer side has `TILE_PIXELS` or more."""
    times = math.ceil(TILE_PIXELS / max(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _input(row: Mapping[str, Any] | None) -> tuple[Pixels | None, Pixels | None]:
    """RGB tile and mask of an image, None for what is not known."""
    if row is None:
        return None, None
    shape = (row["height"], row["width"])
    image_YXC = np.frombuffer(row["pixels"], np.uint8).reshape(*shape, row["channels"])
    mask = None if row["mask"] is None else _enlarged(np.frombuffer(row["mask"], np.uint8).reshape(shape))
    return _enlarged(np.broadcast_to(image_YXC, (*shape, 3))), mask


@dataclass
class _Sheet:
    """What is drawn where, in inches from the upper left corner, gathered from top to bottom."""

    width: float
    y: float = _MARGIN
    tiles: list[tuple[Pixels, tuple[float, float, float, float]]] = field(default_factory=list)
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def lines(self, text: str, *, height: float, indent: float = 0.0, **style: Any) -> None:
        """Text over the whole width."""
        a_line = int((self.width - 2 * _MARGIN - indent) * (110 if "fontweight" in style else 132) / style["fontsize"])
        for line in textwrap.wrap(text, a_line):
            self.texts.append((_MARGIN + indent, self.y, line, {"va": "top", **style}))
            self.y += height

    def strip(self, words: Sequence[str], label: str = "", **style: Any) -> None:
        """One line of words, one above each tile; a label that does not fit beside them stands above."""
        bold = {"fontsize": 8.5, "fontweight": "bold"}
        if len(label) > _LABEL_CHARACTERS:
            for line in wrap(label, int((self.width - 2 * _MARGIN) * 12)):
                self.texts.append((_MARGIN, self.y, line, {"va": "top", **bold}))
                self.y += _LINE
        elif label:
            self.texts.append((_MARGIN, self.y, label, {"va": "top", **bold}))
        for i, word in enumerate(words):
            self.texts.append((self._left(i) + _TILE / 2, self.y, cut(word, 14), {"va": "top", "ha": "center", "fontsize": 8, **style}))
        self.y += _LINE

    def row(self, tiles: Sequence[Pixels | None], label: str, words: Sequence[str] = ()) -> None:
        """One line of tiles, None is an empty one; `words` stand on them."""
        heights = [_TILE * tile.shape[0] / tile.shape[1] for tile in tiles if tile is not None]
        height = min(max(heights, default=_TILE), 2 * _TILE)
        self.texts.append((_MARGIN + _LABEL - 0.1, self.y + height / 2, label, {"va": "center", "ha": "right", "fontsize": 8}))
        for i, tile in enumerate(tiles):
            if tile is None:
                style = {"va": "center", "ha": "center", "fontsize": 8, "color": _SOFT}
                self.texts.append((self._left(i) + _TILE / 2, self.y + height / 2, "image\nnot kept", style))
            else:
                self.tiles.append((tile, (self._left(i), self._left(i) + _TILE, self.y + height, self.y)))
        for i, word in enumerate(words):
            if not word:
                continue
            style = {"va": "center", "ha": "center", "fontsize": 8, "color": _SOFT}
            self.texts.append((self._left(i) + _TILE / 2, self.y + height / 2, word, style))
        self.y += height + _GAP

    def _left(self, i: int) -> float:
        return _MARGIN + _LABEL + i * (_TILE + _GAP)


def _draw(title: str, note: str, group: Group, images: Images) -> Figure:
    count = max(len(panel["panel_index"]) for _, panel in group.shown)
    sheet = _Sheet(2 * _MARGIN + _LABEL + max(count, 4) * (_TILE + _GAP))
    sheet.lines(title, height=0.22, fontsize=11, fontweight="bold")
    sheet.y += 0.05
    digests = {panel["panel_digest"] for _, panel in group.shown}
    for block in blocks_of(group.arms):
        _draw_block(sheet, block, images, named=len(digests) > 1)
    sheet.lines(note, height=0.15, fontsize=8, color=_SOFT)
    height = sheet.y + _MARGIN
    figure = Figure(figsize=(sheet.width, height))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    for tile, extent in sheet.tiles:
        ax.imshow(tile, extent=extent, aspect="auto", interpolation="none")
    for x, y, text, style in sheet.texts:
        ax.text(x, y, plain(text), **style)
    ax.set(xlim=(0, sheet.width), ylim=(height, 0))
    return figure


def _draw_block(sheet: _Sheet, arms: Sequence[Arm], images: Images, *, named: bool) -> None:
    """The images of one dataset and below them the maps of each arm."""
    panel = next((arm.panel for arm in arms if arm.panel is not None), None)
    if panel is not None:
        rows = [images.get((panel["panel_digest"], index)) for index in panel["panel_index"]]
        names = class_names(panel, images)
        inputs = [_input(row) for row in rows]
        if named:
            known = next((row["dataset"] for row in rows if row is not None), panel["panel_digest"][:12])
            sheet.lines(f"Dataset {one_line(known)}", height=_LINE, fontsize=8.5, fontweight="bold")
        sheet.strip([class_name(label, names) for label in panel["panel_label"]])
        sheet.row([None if tile is None else outlined(tile, mask) for tile, mask in inputs], "test image")
        sheet.y += _GAP
    for arm in arms:
        if arm.panel is None:
            sheet.strip([], arm.label)
            sheet.lines(arm.reason, height=0.16, indent=_LABEL, fontsize=8, color=_SOFT)
        else:
            marks = ["✓" if right else "✗" for right in _right(arm.panel)]
            said = [f"{mark} {class_name(label, names)}" for mark, label in zip(marks, arm.panel["panel_predicted"], strict=True)]
            sheet.strip(said, arm.label)
            for name, maps_NHW in zip(("CAM", "CAAM"), _maps(arm.panel), strict=True):
                tiles = []
                for map_HW, (tile, mask) in zip(maps_NHW, inputs, strict=True):
                    shape = (TILE_PIXELS, TILE_PIXELS) if tile is None else tile.shape[:2]
                    tiles.append(outlined(map_tile(map_HW, (shape[0], shape[1])), None if is_flat(map_HW) else mask))
                sheet.row(tiles, name, ["flat map" if is_flat(map_HW) else "" for map_HW in maps_NHW])
        sheet.y += _GAP


def _maps(panel: Mapping[str, Any]) -> tuple[Pixels, Pixels]:
    """CAMs and CAAMs of the images, each of images x rows x columns."""
    shape = (-1, panel["panel_height"], panel["panel_width"])
    cam_NHW, caam_NHW = (np.frombuffer(panel[name], np.uint8).reshape(shape) for name in ("panel_cam", "panel_caam"))
    return cam_NHW, caam_NHW


def _right(panel: Mapping[str, Any]) -> list[bool]:
    return [label == predicted for label, predicted in zip(panel["panel_label"], panel["panel_predicted"], strict=True)]


def _verdict(group: Group, arm: Arm, panel: Mapping[str, Any]) -> str:
    name = full_label(group, arm).removeprefix(f"{one_line(group.row)} / ")
    return f"{name}: {sum(_right(panel))} of {len(panel['panel_label'])} images are classified correctly."
