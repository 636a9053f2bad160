"""params.yaml: the few knobs that are not science, and which study is active."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.study.config import Seeds
from pipeline.study.strict import Strict
from pipeline.study.validate import validate
from pipeline.study.yaml_file import locate, read_yaml


class Resources(Strict):
    """Who runs the trials. None of these changes a number."""

    executor: Literal["ray", "serial"] = Field(
        default="ray", description="ray: on this machine, or the cluster at RAY_ADDRESS; serial: one after the other."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is one.")
    cpus_per_trial: int = Field(default=1, ge=1, description="CPU threads of a trial. More than 1 may change the last bits of a metric.")
    gpus_per_trial: float = Field(default=1.0, gt=0, description="Share of a GPU that a trial gets when the device is cuda.")
    max_concurrent: int | None = Field(default=None, ge=1, description="Most trials at a time; null: as many as fit.")
    max_attempts: int = Field(
        default=3, ge=1, description="Starts of a trial in one run when its worker is lost or memory runs out; then given up."
    )
    gpu_packing: bool = Field(
        default=False,
        description="Give a trial the share of a GPU that its measured memory needs; gpus_per_trial is for what is not measured yet.",
    )
    ship_code: bool = Field(default=True, description="Send the project folder to the nodes of a cluster; false: it is installed there.")
    wait_s: float = Field(default=60.0, ge=0, description="Seconds to wait for a node of a cluster that has what a trial asks for.")


class SearchParams(Strict):
    """Where a hyperparameter search keeps its points."""

    storage: str = Field(
        default="sqlite:///search.db",
        min_length=1,
        description="Optuna RDB storage: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )


class Tracking(Strict):
    """The MLflow mirror."""

    uri: str | None = Field(default="sqlite:///mlflow.db", description="MLflow tracking URI; null switches tracking off.")
    flush_s: float = Field(default=5.0, gt=0, description="Seconds between batches of metrics.")


class StoreParams(Strict):
    """The trial store."""

    url: str = Field(default="store", min_length=1, description="Folder or object-store URL; may be shared by studies and machines.")
    weights: Literal["none", "last", "best"] = Field(default="none", description="Which weights of a trial are kept.")
    checkpoint_s: float | None = Field(
        default=120.0, gt=0, description="Seconds between checkpoints of a running trial; null: none, a lost trial begins anew."
    )
    lease_s: float = Field(default=60.0, ge=1, description="Seconds without a sign of life after which another run takes a trial over.")


class DataParams(Strict):
    """Where data lies."""

    prepared: str = Field(
        default="data/prepared", min_length=1, description="Folder of prepared datasets; on a cluster a path that all nodes see."
    )
    raw: str = Field(default="data/raw", min_length=1, description="Folder of downloads.")


class Params(Strict):
    """params.yaml."""

    study: str = Field(default="quick", description="Active study: studies/<name>.yaml.")
    seeds: Seeds | None = Field(default=None, description="Overrides the seeds of the study file; null: as declared there.")
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    store: StoreParams = StoreParams()
    search: SearchParams = SearchParams()
    data: DataParams = DataParams()


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; every key has a default, the file may be absent.

    Raises:
        ConfigError: an unknown key or a wrong value, with its line.
    """
    if not path.exists():
        return Params()
    raw, lines = read_yaml(path, "params file")

    return validate(Params, raw, functools.partial(locate, path, lines))
