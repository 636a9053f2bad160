"""params.yaml: the few knobs that are not science, and which study is active."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.study.config import Seeds, Strict
from pipeline.study.validate import dotted, validate
from pipeline.study.yaml_file import Path_, read_yaml


class Resources(Strict):
    """Who runs the trials. None of these changes a number."""

    executor: Literal["ray", "serial"] = Field("ray", description="ray: Ray Tune, local or at RAY_ADDRESS; serial: one after the other.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    cpus_per_trial: int = Field(1, ge=1, description="CPU threads of a trial. More than 1 may change the last bits of a metric.")
    gpus_per_trial: float = Field(1.0, gt=0, description="Share of a GPU a trial gets when the device is cuda.")
    max_concurrent: int | None = Field(None, ge=1, description="Most trials at a time; null: as many as fit.")


class Tracking(Strict):
    """The MLflow mirror."""

    uri: str | None = Field("sqlite:///mlflow.db", description="MLflow tracking URI; null switches tracking off.")
    flush_s: float = Field(5.0, gt=0, description="Seconds between batches of metrics.")


class StoreParams(Strict):
    """The trial store."""

    url: str = Field("store", description="Folder or object-store URL; may be shared by studies and machines.")
    weights: Literal["none", "last", "best"] = Field("none", description="Which weights of a trial are kept.")


class DataParams(Strict):
    """Where data lies."""

    prepared: str = Field("data/prepared", description="Folder of prepared datasets; on a cluster a path that all nodes see.")
    raw: str = Field("data/raw", description="Folder of downloads.")


class Params(Strict):
    """params.yaml."""

    study: str = Field("quick", description="Active study: studies/<name>.yaml.")
    seeds: Seeds | None = Field(None, description="Overrides the seeds of the study file; null: as declared there.")
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    store: StoreParams = StoreParams()
    data: DataParams = DataParams()


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; every key has a default, the file may be absent.

    Raises:
        ConfigError: an unknown key or a wrong value, with its line.
    """
    if not path.exists():
        return Params()
    raw, lines = read_yaml(path, "params file")

    def locate(where: Path_) -> str:
        return f"{path}:{lines.get(where, '?')}: {dotted(where)}"

    return validate(Params, raw, locate)
