"""The code of a registered model: MLflow copies this file into the model and runs it to load the network.

It imports nothing of this package, so a model loads wherever torch and MLflow are installed, whatever has become of the code that
trained it. Letters: N images, H W rows and columns, C channels, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ExportedModel(PythonModel):
    """An exported network behind `mlflow.pyfunc`: logits_NK, float32, of image_NHWC, uint8 as the images of the dataset are."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the network, with its weights and the normalisation of images, and how many images it takes at a time."""
        self._net = torch.export.load(context.artifacts["network"]).module()
        self._batch = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))["batch"]

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """logits_NK; batch by batch as in training, so that the whole test split gives what was measured there, bit for bit."""
        with torch.no_grad():
            starts = range(0, max(len(model_input), 1), self._batch)
            logits = [self._net(torch.tensor(model_input[start : start + self._batch])) for start in starts]
        return torch.cat(logits).float().numpy()


set_model(ExportedModel())
