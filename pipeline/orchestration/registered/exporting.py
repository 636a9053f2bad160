"""The trained network of a stored trial as one file that needs none of this package to be run.

Letters: B batch, H W rows and columns of the image, C channels, K classes.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline import models, regularizers
from pipeline.data.image_data import ImageData
from pipeline.errors import ConfigError, PipelineError
from pipeline.models.backbone import Backbone
from pipeline.study.spec import TrialSpec
from pipeline.training.feed import SplitFeed
from pipeline.training.loop import autocast_for
from pipeline.training.objective import Objective

CPU = torch.device("cpu")


class Evaluated(nn.Module):
    """A network as training evaluates it, from uint8 images to logits.

    Args:
        model: the network, with its weights.
        data: its dataset, whose statistics normalise the images.
        precision: of the trial's configuration; on a CPU 'auto' is float32.
    """

    def __init__(self, model: nn.Module, data: ImageData, precision: str) -> None:
        super().__init__()
        self.model = model
        self._feed = SplitFeed(data.split("val"), data.mean, data.std, CPU)
        self._autocast = autocast_for(precision, CPU)

    def forward(self, image_BHWC: Tensor) -> Tensor:
        """logits_BK in float32."""
        with self._autocast():
            logits_BK: Tensor = self.model(self._feed.normalise(image_BHWC))
        return logits_BK.float()


def trained_network(spec: TrialSpec, data: ImageData, weights: bytes) -> Evaluated:
    """The network of a trial with the weights that the store keeps of it, in evaluation mode, on the CPU.

    Built as `pipeline.tasks.classification.train_classifier` does it: regularizers and losses may have changed the layers.

    Args:
        spec: the trial; its plugins are imported.
        data: its prepared dataset.
        weights: what `Backbone.plain_state_dict` gave, as safetensors.

    Raises:
        ConfigError: the weights do not fit the network.
    """
    settings = spec.settings
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten below
        model = models.create(num_classes=data.num_classes, in_channels=data.channels, **settings.backbone)
        model = model.to(memory_format=torch.channels_last)
        for component in settings.regularizers:
            options = {key: value for key, value in component.items() if key != "name"}
            regularizers.create(component["name"], **options).on_model(model)
        Objective(settings.loss).attach(model.classifier, lambda name: 0)
    _fill(model, load(weights))
    return Evaluated(model, data, settings.precision).eval()


def export(network: Evaluated, image_BHWC: Tensor, path: Path) -> None:
    """Write the network with `torch.export`, for any number of images, and see that what was written computes the same.

    Args:
        network: as `trained_network` gives it.
        image_BHWC: at least two images, uint8.
        path: file that is written; nothing in it is pickled.

    Raises:
        PipelineError: the network cannot be exported, or the file gives other logits.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(network, (image_BHWC,), dynamic_shapes=({0: torch.export.Dim("images")},))
    except Exception as error:  # whatever the tracing of foreign code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PipelineError(f"The network cannot be exported: {reason}. Its code may depend on the values in a tensor.") from error
    program.example_inputs = None  # the only part that would be pickled
    with warnings.catch_warnings():
        # Said of weights that lie channels-last; below it is seen that they are written as they are.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)
    written = torch.export.load(path).module()
    with torch.no_grad():
        for count in (len(image_BHWC), 1):
            if not torch.equal(written(image_BHWC[:count]), network(image_BHWC[:count])):
                raise PipelineError("The exported network gives other logits than the trained one. It is not registered.")


def _fill(model: Backbone, weights: dict[str, Tensor]) -> None:
    """Load plain weights into a network whose classifier a loss may have changed."""
    classifier = model.classifier
    if parametrize.is_parametrized(classifier, "weight"):  # what is kept is what the parametrization gave in the end
        parametrize.remove_parametrizations(classifier, "weight", leave_parametrized=True)
    if "classifier.bias" not in model.state_dict():  # a loss took it, or derives it
        weights = {name: value for name, value in weights.items() if name != "classifier.bias"}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"The stored weights do not fit the network: {' '.join(str(error).split())}") from error
