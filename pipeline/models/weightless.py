"""Build a network without filling its weights, to look at its structure in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Weightless(TorchFunctionMode):
    """Context in which parameters are made on the meta device: shapes without memory and without random numbers.

    `torch.device("meta")` as a context is not enough: RegNet computes its widths with tensors and reads them back, which a meta
    tensor cannot give. So only `torch.empty`, with which layers make their weights, is redirected. Buffers stay on the
    CPU; move the network `.to("meta")` to send shapes through it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
