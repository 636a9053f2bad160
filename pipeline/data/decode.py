"""Encoded images (JPEG, PNG ...) to uint8 arrays of one shape, block by block, with the file and row in every message."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.raw import Blocks
from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

Encoded = Callable[[np.ndarray], Iterator[tuple[str, bytes]]]
"Rising row numbers -> (where the image lies, its bytes), in that order."
_GREY_MODES = frozenset({"1", "L", "LA"})
_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_BLOCK_ROWS = 256


def decoded(encoded: Mapping[str, tuple[Encoded, np.ndarray]], *, size: int | None, grey: bool | None) -> dict[str, Blocks]:
    """Images of every split as blocks of one common shape.

    Args:
        encoded: split -> (reader, rows to read); `train` is read first and settles the shape.
        size: scale the shorter side to `size` pixels (bilinear, antialiased) and cut out the centre square; None takes the
            images as they are, which must then be of one size.
        grey: one channel, or three; None: one when all images are grey.

    Raises:
        ConfigError: `size` is below 1.
        DataError: an image does not decode or has another size; raised when the blocks are read, or here for the first image.
    """
    if size is not None and size < 1:
        raise ConfigError(f"size must be at least 1 pixel or null (as the images are), got {size}")
    channels = 1 if (_all_grey(encoded) if grey is None else grey) else 3
    read, rows = encoded["train"]
    first = next(read(rows[:1]), None)
    if first is None:
        raise DataError("the training split is empty. Ask for more images or a smaller val_fraction.")
    shape = decode(*first, channels=channels, size=size).shape
    return {split: _blocks(read, rows, shape, size) for split, (read, rows) in encoded.items()}


def decode(where: str, data: bytes, *, channels: int, size: int | None) -> np.ndarray:
    """One image as a uint8 array of shape (H, W, C).

    Raises:
        DataError: the bytes are no image that can be read.
    """
    from PIL import Image, ImageOps

    try:
        with _open(where, data) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
        if size is not None and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ... for bytes they cannot read
        raise _undecodable(where, error) from error
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], channels)


def _open(where: str, data: bytes) -> Image.Image:
    """The image with its header read."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
    except Exception as error:  # as in `decode`
        raise _undecodable(where, error) from error
    if image.mode not in _MODES:
        raise DataError(f"{where}: images with pixels of mode {image.mode!r} are not supported. Convert it to 8 bits a channel.")
    return image


def _undecodable(where: str, error: Exception) -> DataError:
    reason = "unknown image format" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
    return DataError(f"{where}: the image does not decode ({reason}). Repair or remove it and prepare again.")


def _all_grey(encoded: Mapping[str, tuple[Encoded, np.ndarray]]) -> bool:
    """Whether no image has colour; reads headers only, and stops at the first image with colour."""
    images = chain.from_iterable(read(rows) for read, rows in encoded.values())
    return all(_open(where, data).mode in _GREY_MODES for where, data in images)


def _blocks(read: Encoded, rows: np.ndarray, shape: tuple[int, ...], size: int | None) -> Blocks:
    height, width, channels = shape

    def one(item: tuple[str, bytes]) -> np.ndarray:
        array = decode(*item, channels=channels, size=size)
        if array.shape != shape:
            raise DataError(
                f"{item[0]}: the image has {array.shape[0]}x{array.shape[1]} pixels, the first one {height}x{width}. "
                "Set the option size, e.g. size: 32, to bring all images to one size."
            )
        return array

    def passes() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes without holding the interpreter lock
            items = read(rows)
            while block := list(islice(items, _BLOCK_ROWS)):
                yield np.stack(list(pool.map(one, block)))

    return Blocks((len(rows), height, width, channels), passes)
