"""A machine with only torch and torchvision can run a trial: everything else is blocked in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys

BLOCKED = {"ray", "mlflow", "optuna", "dvc", "pydantic", "torchdistill", "pyarrow", "sklearn", "scipy", "pandas", "matplotlib",
           "jinja2", "yaml", "fsspec", "psutil", "typer", "rich", "safetensors"}

from importlib.machinery import PathFinder

class OnlySomeInstalled(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = OnlySomeInstalled
import numpy as np
import pipeline.trial
from pipeline import data, losses, models, regularizers, store, study, tasks, training
from pipeline.data.image_data import ImageData
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import Optimizer, TrialConfig

assert losses.names() and regularizers.names() and "resnet18" in models.names()
rng = np.random.default_rng(0)
images = ImageData("noise", rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), np.arange(24) % 2, None, ("a", "b"),
                   {"train": (0, 16), "val": (16, 20), "test": (20, 24)}, (0.5,) * 3, (0.3,) * 3, "digest")
config = TrialConfig(dataset={"name": "noise"}, backbone={"name": "shufflenet_v2_x0_5"}, loss={"ce": {}, "cam": {}}, epochs=1,
                     batch_size=8, optimizer=Optimizer(lr=0.01))
record = pipeline.trial.run_trial(TrialSpec("t", "c", config.to_dict(), 0, "digest", "code"), data=images)
assert record["state"] == "complete", record
loaded = BLOCKED & {name.split(".")[0] for name in sys.modules}
assert not loaded, loaded
try:
    models.create("resnet8", num_classes=2)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
else:
    raise AssertionError("resnet8 needs torchdistill")
"""


def test_a_trial_needs_only_torch_torchvision_and_numpy() -> None:
    """With the schedulers, trackers, pydantic, torchdistill, pyarrow and the rest blocked, everything up to the trial imports and
    runs, and a backbone that needs a missing library says which."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "torchdistill" in done.stdout
