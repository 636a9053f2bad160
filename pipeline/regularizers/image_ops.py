"""Image operations of AutoAugment and its kin, batched, each image with its own operation and magnitude.

Letters: B batch, N those images of a batch that share an operation, C channels, H W rows and columns, P numbers that set an operation.

Every operation gives the pixels that `torchvision.transforms.functional` gives for one uint8 image (pixels that a movement brings in
are 0, as in the padding of the crop). torchvision takes one magnitude for a whole batch, so what varies from image to image is
written out here; what has no magnitude is torchvision's own. Object masks are not moved along: training never looks at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UnknownNameError

Interpolation = Literal["nearest", "bilinear"]
SETTINGS = 6  # the most numbers that set an operation: an affine matrix


def check_interpolation(interpolation: str, regularizer: str) -> None:
    """Refuse what `apply` does not know.

    Raises:
        UnknownNameError: neither nearest nor bilinear.
    """
    if interpolation not in get_args(Interpolation):
        raise UnknownNameError("interpolation", interpolation, get_args(Interpolation), where=f"regularizer {regularizer!r}")


def to_planes(image_BHWC: Tensor) -> Tensor:
    """image_BCHW, contiguous: reductions over an image are several times faster on planes."""
    return image_BHWC.permute(0, 3, 1, 2).contiguous()


def to_pixels(image_BCHW: Tensor) -> Tensor:
    """image_BHWC, contiguous: the layout of the feed."""
    return image_BCHW.permute(0, 2, 3, 1).contiguous()


def apply(image_BCHW: Tensor, ops: Sequence[str], magnitudes: Sequence[float], interpolation: Interpolation = "nearest") -> Tensor:
    """Each image after its own operation, as a new tensor.

    Images are sorted by operation, so each operation runs once, on those that drew it. The names and magnitudes are on the host for
    that: running all operations on all images and choosing afterwards would cost an order of magnitude more than the one small copy
    of the draws that the caller makes.

    Args:
        image_BCHW: uint8, with 1 or 3 channels; not written to.
        ops: a name of `OPS` for each image.
        magnitudes: one for each image, signed, in the operation's own unit: degrees (Rotate), pixels (Translate), slope (Shear), bits
            kept (Posterize), first inverted value (Solarize), change of a factor around 1 (Brightness, Color, Contrast, Sharpness).
        interpolation: of Shear, Translate and Rotate.

    Raises:
        ValueError: neither 1 nor 3 channels.
        UnknownNameError: no such operation.
    """
    _, channels, height, width = image_BCHW.shape
    if channels not in (1, 3):
        raise ValueError(f"image operations are defined for 1 or 3 channels, got {channels}")
    rows: dict[Callable[..., Tensor], list[int]] = {}
    settings: list[list[float]] = []
    for row, (op, magnitude) in enumerate(zip(ops, magnitudes, strict=True)):
        if op not in OPS:
            raise UnknownNameError("image operation", op, OPS)
        kernel, setting_of = OPS[op]
        rows.setdefault(kernel, []).append(row)
        setting = setting_of(magnitude, height, width)
        settings.append([*setting, *[0.0] * (SETTINGS - len(setting))])
    order = [row for members in rows.values() for row in members]
    order_B = torch.tensor(order, device=image_BCHW.device)
    setting_BP = torch.tensor([settings[row] for row in order], device=image_BCHW.device)
    sizes = [len(members) for members in rows.values()]
    parts = zip(rows, image_BCHW[order_B].split(sizes), setting_BP.split(sizes), strict=True)
    done = [kernel(image_NCHW, setting_NP, interpolation) for kernel, image_NCHW, setting_NP in parts]
    return torch.empty_like(image_BCHW).index_copy_(0, order_B, torch.cat(done))


# --- what sets an operation: numbers worked out on the host, in double precision as torchvision does ------------------------------


def _nothing(magnitude: float, height: int, width: int) -> list[float]:
    return []


def _factor(magnitude: float, height: int, width: int) -> list[float]:
    """Share of the image and share of what it is blended with."""
    return [1 + magnitude, 1 - (1 + magnitude)]


def _bits(magnitude: float, height: int, width: int) -> list[float]:
    """Mask that keeps the highest bits of a byte."""
    return [256 - 2 ** (8 - int(magnitude))]


def _threshold(magnitude: float, height: int, width: int) -> list[float]:
    return [magnitude]


# An affine matrix takes a pixel of the result, relative to the centre, to its source. Rounding is part of the contract: sources that
# lie half-way between two pixels are common (a shear by 0.2), and the last bit decides. So sums are taken in torchvision's order.


def _slope(magnitude: float) -> float:
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


def _shear_x(magnitude: float, height: int, width: int) -> list[float]:
    """About the top left corner, as torchvision's policies do."""
    slope = _slope(magnitude)
    return [1, slope, (width / 2 + slope * (height / 2)) - width / 2, 0, 1, 0]


def _shear_y(magnitude: float, height: int, width: int) -> list[float]:
    slope = _slope(magnitude)
    return [1, 0, 0, slope, 1, (slope * (width / 2) + height / 2) - height / 2]


def _translate_x(magnitude: float, height: int, width: int) -> list[float]:
    return [1, 0, -int(magnitude), 0, 1, 0]


def _translate_y(magnitude: float, height: int, width: int) -> list[float]:
    return [1, 0, 0, 0, 1, -int(magnitude)]


def _rotation(magnitude: float, height: int, width: int) -> list[float]:
    angle = math.radians(-magnitude)
    return [math.cos(angle), math.sin(angle), 0, -math.sin(angle), math.cos(angle), 0]


# --- the operations themselves --------------------------------------------------------------------------------------------------


def _identity(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    return image_NCHW


def _affine(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    _, _, height, width = image_NCHW.shape
    x_W, y_H = (torch.linspace(-n * 0.5 + 0.5, n * 0.5 - 0.5, n, device=image_NCHW.device) for n in (width, height))
    scale_21 = torch.tensor([[0.5 * width], [0.5 * height]], device=image_NCHW.device)
    # Written out rather than as a matrix product: that would be rounded to TF32 on a GPU where a user allows it.
    matrix_N23 = setting_NP.view(-1, 2, 3) / scale_21
    by_x_N2, by_y_N2, shift_N2 = matrix_N23[:, None, None].unbind(-1)
    grid_NHW2 = x_W[:, None] * by_x_N2 + y_H[:, None, None] * by_y_N2 + shift_N2
    moved_NCHW = F.grid_sample(image_NCHW.float(), grid_NHW2, mode=interpolation, padding_mode="zeros", align_corners=False)
    return moved_NCHW.round_().to(torch.uint8)


def _blend(image_NCHW: Tensor, other_NCHW: Tensor | float, setting_NP: Tensor) -> Tensor:
    """`factor * image + (1 - factor) * other`, cut to a byte."""
    own_N111, rest_N111 = (setting_NP[:, p, None, None, None] for p in (0, 1))
    return (own_N111 * image_NCHW + rest_N111 * other_NCHW).clamp_(0, 255).to(torch.uint8)


def _brightness(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    return _blend(image_NCHW, 0.0, setting_NP)


# torchvision is imported inside the functions: that takes seconds, and planning a study asks only for the names.


def _grey(image_NCHW: Tensor) -> Tensor:
    from torchvision.transforms.functional import rgb_to_grayscale

    return rgb_to_grayscale(image_NCHW)


def _color(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    """Blended with its grey version; a grey image stays as it is."""
    return image_NCHW if image_NCHW.shape[1] == 1 else _blend(image_NCHW, _grey(image_NCHW), setting_NP)


def _contrast(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    """Blended with the mean of its grey version."""
    return _blend(image_NCHW, _grey(image_NCHW).float().mean((1, 2, 3), keepdim=True), setting_NP)


def _sharpness(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    """Blended with a 3x3 mean of weights 1 and, in the middle, 5, rounded; the outermost pixels have no such mean and stay."""
    if min(image_NCHW.shape[2:]) <= 2:
        return image_NCHW
    blurred_NCHW = image_NCHW.float()
    inner_NCHW = blurred_NCHW[..., 1:-1, 1:-1]
    rows_NCHW = blurred_NCHW[..., :-2, :] + blurred_NCHW[..., 1:-1, :] + blurred_NCHW[..., 2:, :]
    sum_NCHW = rows_NCHW[..., :-2] + rows_NCHW[..., 1:-1] + rows_NCHW[..., 2:] + 4 * inner_NCHW
    # The sum is a whole number, and 13ths are never half-way between two of those: no order of additions changes the result.
    inner_NCHW.copy_((sum_NCHW / 13).round_())
    return _blend(image_NCHW, blurred_NCHW, setting_NP)


def _posterize(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    return image_NCHW & setting_NP[:, 0, None, None, None].to(torch.uint8)


def _solarize(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    return torch.where(image_NCHW >= setting_NP[:, 0, None, None, None], 255 - image_NCHW, image_NCHW)


def _autocontrast(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    from torchvision.transforms.functional import autocontrast

    return autocontrast(image_NCHW)


def _equalize(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    from torchvision.transforms.v2.functional import equalize  # the older one gives the same pixels, image by image

    return equalize(image_NCHW)


def _invert(image_NCHW: Tensor, setting_NP: Tensor, interpolation: str) -> Tensor:
    return 255 - image_NCHW


OPS: dict[str, tuple[Callable[[Tensor, Tensor, str], Tensor], Callable[[float, int, int], list[float]]]] = {
    "Identity": (_identity, _nothing),
    "ShearX": (_affine, _shear_x),
    "ShearY": (_affine, _shear_y),
    "TranslateX": (_affine, _translate_x),
    "TranslateY": (_affine, _translate_y),
    "Rotate": (_affine, _rotation),
    "Brightness": (_brightness, _factor),
    "Color": (_color, _factor),
    "Contrast": (_contrast, _factor),
    "Sharpness": (_sharpness, _factor),
    "Posterize": (_posterize, _bits),
    "Solarize": (_solarize, _threshold),
    "AutoContrast": (_autocontrast, _nothing),
    "Equalize": (_equalize, _nothing),
    "Invert": (_invert, _nothing),
}
"""Name in torchvision's policies -> the operation, and what sets it (magnitude, height, width -> at most `SETTINGS` numbers)."""
