"""Cut a timm network just before its global average pooling, by timm's own contract.

Every timm network has `forward_features` (image to feature map) and `forward_head` (feature map to logits: pooling, perhaps a norm or
hidden layers, dropout, classifier). The first becomes the body; the second is tried on a map to see that it is nothing but
average pooling and one linear layer.

Letters: B batch, C channels, H W rows and columns of the feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pipeline.errors import IncompatibleError


class FeatureBody(nn.Module):
    """A timm network without its head: maps image_BCHW to feature_map_BCHW.

    Args:
        network: its classifier is taken out already.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """feature_map_BCHW."""
        return self.network.forward_features(image_BCHW)  # type: ignore[operator]


def cut_timm(network: nn.Module, name: str) -> tuple[FeatureBody, nn.Linear]:
    """Body and classifier of a timm network that ends in global average pooling and one linear layer.

    The pieces share the network's parameters, so use the network itself no more. Works on networks without weights too
    (`pipeline.models.weightless`), and draws no random numbers.

    Args:
        network: built without dropout of pooled features.
        name: the name of the network in messages.

    Raises:
        IncompatibleError: the head is anything else; the message says what was found.
    """
    if not (hasattr(network, "get_classifier") and hasattr(network, "forward_features") and hasattr(network, "forward_head")):
        raise IncompatibleError(f"{name} is no image classifier with a separate head, so its class activation map is undefined")
    last = network.get_classifier()  # type: ignore[operator]
    classifier = _as_linear(last) if isinstance(last, nn.Conv2d) else last
    if not isinstance(classifier, nn.Linear):
        found = "no classifier" if classifier is None else f"a {type(classifier).__name__} as its classifier"
        raise IncompatibleError(f"{name} has {found}, where one linear layer is needed, so its class activation map is undefined")
    path = next(path for path, module in network.named_modules() if module is last)
    network.set_submodule(path, nn.Identity())
    channels = classifier.in_features
    feature_map_BCHW = torch.arange(2.0 * channels * 6).sin().view(2, channels, 2, 3)
    training = network.training
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _modules_with_state() as used:
        for mode in (True, False):
            network.train(mode)
            failed, pooled = "", None
            try:
                pooled = network.forward_head(feature_map_BCHW)  # type: ignore[operator]
            except Exception as error:  # noqa: BLE001  a head of any other kind may fail in any way on this map
                failed = str(error).partition("\n")[0]
            if used:
                found = ", ".join(dict.fromkeys(type(module).__name__ for module in used))
                raise IncompatibleError(
                    f"{name} has {found} in its head, where only global average pooling and one linear layer may be, "
                    "so its class activation map is undefined"
                )
            if not _same(pooled, feature_map_BCHW.mean(dim=(2, 3))):
                why = f" ({failed})" if failed else ""
                raise IncompatibleError(
                    f"{name} makes more of its feature map than an average over all positions and one linear layer{why}"
                )
    network.train(training)
    return FeatureBody(network).train(training), classifier


def _as_linear(conv: nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The linear layer that a 1x1 convolution of a pooled map is, on the same values; any other convolution itself."""
    if conv.kernel_size != (1, 1) or conv.groups != 1 or conv.bias is None:
        return conv
    with torch.device("meta"):
        linear = nn.Linear(conv.in_channels, conv.out_channels)
    linear.weight, linear.bias = nn.Parameter(conv.weight.detach().flatten(1)), conv.bias
    return linear


@contextmanager
def _modules_with_state() -> Iterator[list[nn.Module]]:
    """Collects the modules with parameters or buffers of their own that run inside the context."""
    used: list[nn.Module] = []

    def note(module: nn.Module, _given: object) -> None:
        if module._parameters or module._buffers:
            used.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        yield used
    finally:
        hook.remove()


def _same(found: object, expected: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
