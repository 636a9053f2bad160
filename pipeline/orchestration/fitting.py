"""Whether the parts of a trial fit together and to the size of the images, found by building the network without weights.

What cannot work is a skipped cell with its reason instead of a failed trial. Building a network imports its library, which takes
seconds, so answers are kept in a small file beside the prepared datasets: planning again imports no library. An answer counts for
the same parts, the same shape of the data, the same code and the same versions of the libraries.
"""

from __future__ import annotations

import functools
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline import losses, models, regularizers
from pipeline.errors import ConfigError, IncompatibleError
from pipeline.models.backbone import Backbone
from pipeline.models.weightless import Weightless
from pipeline.orchestration.remembered import Remembered
from pipeline.study.code_key import digest_of
from pipeline.study.identity import digest
from pipeline.study.resolve import TERM_DEFAULTS

FILE = "fits.json"
LIBRARIES = ("torch", "torchvision", "timm", "torchdistill", "pytorch-metric-learning")
ADMITTED = (224, 256, 299)  # sides of a square, in pixels, one of which any network takes


class Fits:
    """Answers of `why_unfit`, remembered in a file.

    Args:
        folder: folder of the prepared datasets.
    """

    def __init__(self, folder: Path) -> None:
        self._known = Remembered(folder / FILE, lambda answer: isinstance(answer, str))

    def why_unfit(self, config: dict[str, Any], manifest: dict[str, Any], code: str) -> str:
        """Why the parts of a trial do not fit together or to its dataset; '' when they do, or when nobody can tell.

        Args:
            config: resolved configuration of the trial.
            manifest: that of its prepared dataset.
            code: code key of the trial.

        Raises:
            ConfigError, ValueError: an option that a method does not allow.
        """
        parts = {
            "backbone": config["backbone"],
            "components": [component for component in config["regularizers"] if _changes_network(component)],
            "terms": {name: _own(term) for name, term in config["loss"].items()},
            "num_classes": len(manifest["classes"]),
            "size": manifest["shape"],
        }
        key = digest([parts, code, *_surroundings()])
        if key not in self._known:
            self._known[key] = why_unfit(**parts)
        return self._known[key]

    def save(self) -> None:
        """Write what is new."""
        self._known.save()


def why_unfit(
    backbone: dict[str, Any],
    components: list[dict[str, Any]],
    terms: dict[str, dict[str, Any]],
    num_classes: int,
    size: list[int],
) -> str:
    """Why these parts do not fit together, or '': found by building the network on the meta device and sending an image through.

    Some networks cannot be run there, because what they do depends on values; nothing is said of those, and the trial may try. Nor is
    anything said where the network's library is missing: the machine that trains may have it.

    Args:
        backbone: {"name": ..., option: value, ...}.
        components: regularizers that change the network, written likewise.
        terms: loss -> its own options.
        num_classes: K.
        size: rows, columns and channels of the images.

    Raises:
        ConfigError, ValueError: an option that a method does not allow.
    """
    name = backbone["name"]
    height, width, channels = size
    wanted = {term: losses.create(term, **options) for term, options in terms.items()}
    chosen = [regularizers.create(**component) for component in components]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever a library has to say, it says again at the trial
        try:
            with Weightless():
                model = models.create(num_classes=num_classes, in_channels=channels, **backbone)
            model = model.to("meta")
        except IncompatibleError as error:
            return str(error)
        except ConfigError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                return ""
            raise
        except Exception:  # noqa: BLE001 - foreign code on a device it was not written for
            return ""
        try:
            return _why_parts_clash(name, model, chosen, wanted) or _why_too_small(name, model, wanted, channels, height, width)
        except Exception:  # noqa: BLE001 - as above
            return ""


def _why_parts_clash(name: str, model: Backbone, chosen: list[regularizers.Regularizer], wanted: dict[str, losses.Loss]) -> str:
    try:
        for regularizer in chosen:
            regularizer.on_model(model)
        deep = {term: loss.fewest_stages for term, loss in wanted.items() if loss.fewest_stages > 1}
        for term, count in deep.items():
            if count > (there := len(model.stage_points())):
                return f"{term} asks for stage -{count}, but {name} has {there}: -1 to -{there}"
    except IncompatibleError as error:
        return _named(name, str(error))
    try:
        for loss in wanted.values():
            loss.attach(model.classifier)
    except IncompatibleError as error:
        return str(error)
    return ""


def _why_too_small(name: str, model: Backbone, wanted: dict[str, losses.Loss], channels: int, height: int, width: int) -> str:
    model.eval()
    try:
        rows, columns = _feature_map_size(model, channels, height, width)
    except Exception as error:  # noqa: BLE001 - foreign code; what it raises is the answer
        # Where every size fails, it is not the size.
        if any(_runs(model, channels, side) for side in ADMITTED):
            return f"{name} does not take {height}x{width} images: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        return ""
    blind = [term for term, loss in wanted.items() if loss.compares_positions]
    if blind and rows * columns == 1:
        return f"{blind[0]} compares maps over positions, but the feature map of {name} at {height}x{width} pixels is 1x1"
    return ""


@torch.no_grad()
def _feature_map_size(model: Backbone, channels: int, height: int, width: int) -> tuple[int, int]:
    feature_map_BCHW = model.forward_features(torch.zeros(2, channels, height, width, device="meta"))
    model.forward_head(feature_map_BCHW)
    if feature_map_BCHW.numel() == 0:  # a meta tensor may become empty where a real one raises
        raise ValueError("the feature map is empty")
    return feature_map_BCHW.shape[2], feature_map_BCHW.shape[3]


def _runs(model: Backbone, channels: int, side: int) -> bool:
    try:
        _feature_map_size(model, channels, side, side)
    except Exception:  # noqa: BLE001 - foreign code
        return False
    return True


def _named(name: str, reason: str) -> str:
    """A reason about 'this network', with the network's name."""
    if reason.startswith("this network "):
        return name + reason.removeprefix("this network")
    return reason if name in reason else f"{name}: {reason}"


def _changes_network(component: dict[str, Any]) -> bool:
    return type(regularizers.create(**component)).on_model is not regularizers.Regularizer.on_model


def _own(term: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in term.items() if key not in TERM_DEFAULTS}


@functools.cache
def _surroundings() -> tuple[str, ...]:
    """This module's own code, and the versions of the libraries that networks come from."""
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {library}")
    return (digest_of([__name__]), *versions)
