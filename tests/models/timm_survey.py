"""Which timm networks are CNNs with exact class activation maps: the criterion, and the script that writes the packaged list.

The criterion, tried on each network without weights, on images of two sizes, colour and grey:

1. `forward_features` gives one map of shape (B, C, H, W), where C is what the classifier takes.
2. From there to the logits, in training and in evaluation, lie only average pooling over all positions and one linear layer (or 1x1
   convolution): see `pipeline.models.timm_cut`.
3. No two activations are multiplied as matrices: positions are not weighed by each other, as in self-attention.
4. It does not lie in one of timm's files of hybrids (`TRANSFORMERS`), whose attention is written in another way.

`python -m tests.models.timm_survey` (ten minutes) judges every network of the installed timm and writes `pipeline/models/timm_names.json`;
`tests/models/test_timm.py` judges a sample again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from pipeline.errors import IncompatibleError
from pipeline.models.backbone import num_parameters
from pipeline.models.timm_cut import cut_timm
from pipeline.models.weightless import Weightless

LIST = Path(__file__).parents[2] / "pipeline" / "models" / "timm_names.json"
K = 5
SIZES = ((3, 128, 96), (1, 96, 160))  # channels, rows, columns
PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")
# MobileViTv2 sums over positions what self-attention multiplies; the other two cannot be built without weights.
TRANSFORMERS = {"mobilevit", "vision_transformer_hybrid", "vitamin"}
ONLY_CNNS = "class activation maps are studied for CNNs only"


class Verdict(NamedTuple):
    """What is said of a network.

    Attributes:
        reason: '' for a CNN with exact class activation maps, else why it is none: a sentence that begins with a verb.
        parameters: trainable scalars; 0 where there is a reason.
    """

    reason: str
    parameters: int = 0


def judge(name: str) -> Verdict:
    """Try the criterion on one of timm's networks."""
    import timm

    parameters = 0
    if file_of(name) in TRANSFORMERS:
        return Verdict(f"is a hybrid of convolutions and a transformer; {ONLY_CNNS}")
    for channels, rows, columns in SIZES:
        try:
            with Weightless():
                network = timm.create_model(name, pretrained=False, num_classes=K, in_chans=channels).eval()
        except Exception as error:  # noqa: BLE001  a network may refuse in any way
            return Verdict(f"cannot be built for {channels} channels: {type(error).__name__}")
        if not hasattr(network, "forward_features"):
            return Verdict("is no image classifier with a separate head, so its class activation map is undefined")
        parameters = num_parameters(network)
        without_dropout = network if not getattr(network, "drop_rate", 0.0) else _without_dropout(name, channels)
        try:
            in_features, refused = cut_timm(without_dropout, name)[1].in_features, ""
        except IncompatibleError as error:
            in_features, refused = 0, str(error).removeprefix(f"{name} ")
        forward_features = network.forward_features
        network.to("meta").requires_grad_(False)
        attention = _Attention()
        out, one_size = None, False
        try:
            with attention:
                out = forward_features(_image(channels, rows, columns))
        except Exception:  # noqa: BLE001
            one_size = True
            native = network.default_cfg["input_size"][1:]
            with attention:
                forward_features(_image(channels, *native))
        if attention.found:
            return Verdict(f"weighs positions by each other, as transformers do; {ONLY_CNNS}")
        if one_size:
            return Verdict("takes images of one size only")
        if not isinstance(out, Tensor) or out.dim() != 4:
            return Verdict("has tokens instead of a feature map, so its class activation map is undefined")
        if refused:
            return Verdict(refused)
        if out.shape[1] != in_features:
            return Verdict("has a feature map with channels last")
    return Verdict("", parameters)


def file_of(name: str) -> str:
    """timm's file that registers a network, without '.py'."""
    from timm.models._registry import _model_to_module

    return _model_to_module[name]


def survey() -> dict[str, object]:
    """The packaged list: supported networks by file of timm, smallest first, and the others by reason."""
    import timm

    supported: dict[str, list[tuple[int, str]]] = {}
    unsupported: dict[str, list[str]] = {}
    names = timm.list_models()
    for done, name in enumerate(names):
        reason, parameters = judge(name)
        if reason:
            unsupported.setdefault(reason, []).append(name)
        else:
            supported.setdefault(file_of(name), []).append((parameters, name))
        sys.stderr.write(f"\r{done + 1} of {len(names)}")
    smallest_first = {file: [name for _, name in sorted(found)] for file, found in sorted(supported.items())}
    return {"timm": timm.__version__, "supported": smallest_first, "unsupported": dict(sorted(unsupported.items()))}


class _Attention(TorchFunctionMode):
    """Notes matrix products of two activations: every position weighed against every other, as self-attention does.

    An activation is what needs a gradient when the image does and the parameters do not. A product with one row or column is a weighted
    mean of positions (as where channels are squeezed) and does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2].strip("_")
        if name in PRODUCTS and isinstance(out, Tensor) and out.dim() >= 2 and min(out.shape[-2:]) > 1:
            operands = [a for given in args for a in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(a, Tensor)]
            self.found |= sum(a.requires_grad for a in operands) > 1
        return out


def _image(channels: int, rows: int, columns: int) -> Tensor:
    return torch.empty(2, channels, rows, columns, device="meta", requires_grad=True)


def _without_dropout(name: str, channels: int) -> torch.nn.Module:
    import timm

    with Weightless():
        return timm.create_model(name, pretrained=False, num_classes=K, in_chans=channels, drop_rate=0.0).eval()


if __name__ == "__main__":
    LIST.write_text(json.dumps(survey(), indent=1) + "\n", encoding="utf-8")
