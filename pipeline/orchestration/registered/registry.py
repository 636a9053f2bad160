"""The best model of a table's cell in MLflow's model registry.

What is registered is `exported_model.py`, a script, with the exported network of one trial (see `exporting`): nothing is pickled, and
to load it takes torch and MLflow, not this package. The registry lies where the runs lie (`tracking.uri`).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.data.image_data import ImageData
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.orchestration.driver import view_of
from pipeline.orchestration.mirror.tracker import open_tracker
from pipeline.orchestration.mirror.uri import prepare_environment, redact, resolve_uri
from pipeline.orchestration.planning import Plan, PlannedTrial, open_data
from pipeline.orchestration.registered.choice import Choice, choose, weights_rule
from pipeline.orchestration.registered.exporting import export, trained_network
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.project import absolute_url
from pipeline.study.spec import TrialSpec
from pipeline.training.evaluate import EVAL_BATCH

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "best"
COMMIT = "mlflow.source.git.commit"  # tag of a run whose record, or whose checkout while it was trained, told it
EXAMPLES = 2  # images of the input example; of one alone the export would take the number for a constant
REQUIREMENTS = ("mlflow", "torch", "numpy")
SCRIPT = Path(__file__).with_name("exported_model.py")


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        choice: the cell and its trial.
        version: number of the version.
        run_id: MLflow run of the trial.
        weights: 'last' or 'best_val': the epoch that the weights are of.
        metrics: what the trial's record says of these weights, on validation and test images.
        tracking_uri: where it lies, without a password.
        is_new: False when the same weights of the same trial had been registered before.
    """

    choice: Choice
    version: str
    run_id: str
    weights: str
    metrics: dict[str, float]
    tracking_uri: str
    is_new: bool

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.choice.model_name}@{ALIAS}"


def register_cell(
    plan: Plan,
    records: Mapping[str, Record],
    params: Params,
    table: str,
    *,
    row: str | None = None,
    column: str | None = None,
    log: Callable[[str], None],
) -> Registered:
    """Register the best trial of a cell under the alias 'best'; the same trial twice makes no second version. See `choose`.

    Args:
        plan: of the study.
        records: what is stored.
        params: store, tracking, prepared data.
        table, row, column: the cell, in the words of the printed table.
        log: receives warnings.

    Raises:
        ConfigError: tracking is off, no trial can be chosen, or the model's name is taken by something else.
        StoreError: the stored weights cannot be read or are not those of the record.
        DataError: there are too few validation images for an example of the input.
        PipelineError: the network cannot be exported, or MLflow fails.
    """
    if params.tracking.uri is None:
        raise ConfigError("tracking.uri is null in params.yaml: there is no registry. Set it, for example to sqlite:///mlflow.db.")
    store = TrialStore(absolute_url(params.store.url))
    choice = choose(plan, records, store, table, row=row, column=column)
    trial, record = plan.trials[choice.trial_id], records[choice.trial_id]
    weights = store.load_weights(choice.trial_id)
    rule = weights_rule(record, weights)
    run_id = _mirrored(trial, record, store, plan.study, params, log)
    metrics = _metrics_of(record, rule)
    uri = resolve_uri(params.tracking.uri)
    with _mlflow_errors(uri):
        registry = _Registry(uri, choice, rule)
        found = registry.find()
        if found is None:
            images = open_data(trial.spec, Path(params.data.prepared))
            facts = {"metrics": metrics, "trained_on": record["env_device"], "name": trial.name}
            newest = registry.add(trial.spec, images, weights, run_id, facts)
        else:
            newest = found
        registry.point_alias(newest)
    return Registered(choice, str(newest.version), run_id, rule, metrics, redact(uri), found is None)


def _mirrored(trial: PlannedTrial, record: Record, store: TrialStore, study: str, params: Params, log: Callable[[str], None]) -> str:
    """The MLflow run of a trial, made where it is missing."""
    trial_id = trial.spec.trial_id
    with open_tracker(params.tracking, study, log) as tracker:
        tracker.sync([(view_of(trial, study, Path(params.data.prepared)), record, lambda: store.history(trial_id))])
        run_id = tracker.run_ids().get(trial_id)
    if run_id is None:
        raise PipelineError(f"The run of {trial.name!r} could not be written to MLflow, so its model is not registered.")
    return run_id


def _metrics_of(record: Record, rule: str) -> dict[str, float]:
    """Validation and test metrics of the weights of one selection rule, without 'metric_'."""
    columns = (key for key in sorted(record) if key.startswith(("metric_val_", "metric_test_")) and key.endswith(f"_{rule}"))
    return {key.removeprefix("metric_"): record[key] for key in columns if record[key] is not None}


class _Registry:
    """MLflow's registry, for the model of one cell."""

    def __init__(self, uri: str, choice: Choice, rule: str) -> None:
        prepare_environment()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # "Validating input example against model signature"
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._choice, self._name = choice, choice.model_name
        self._cell = {"study": choice.study, "table": choice.table, "row": choice.row, "column": choice.column}
        self._identity = {"trial_id": choice.trial_id, "weights": rule}

    def find(self) -> ModelVersion | None:
        """The version with these weights of the trial, if there is one.

        Raises:
            ConfigError: the name belongs to something else.
        """
        for model in self._client.search_registered_models(f"name = '{self._name}'"):
            if not model.tags.items() >= self._cell.items():
                raise ConfigError(
                    f"The registry has a model {self._name!r} that is not of this cell: its tags are {model.tags}. "
                    "Rename that model, or the row or column in the study file."
                )
        versions = self._client.search_model_versions(f"name = '{self._name}'")
        return next((version for version in versions if version.tags.items() >= self._identity.items()), None)

    def add(self, spec: TrialSpec, images: ImageData, weights: bytes, run_id: str, facts: dict[str, Any]) -> ModelVersion:
        """Log the model to the run of its trial and make a version of it."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        run = self._client.get_run(run_id)
        metadata = {
            **self._cell,
            **self._identity,
            **facts,
            "chosen_by": self._choice.metric,
            "chosen_value": self._choice.value,
            "seed": spec.seed,
            "classes": list(images.classes),
            "data_digest": spec.data_digest,
            "code_key": spec.code_key,
            "commit": run.data.tags.get(COMMIT),
        }
        with tempfile.TemporaryDirectory() as folder:
            network = Path(folder) / "network.pt2"
            example_NHWC = _example(images)
            export(trained_network(spec, images, weights), torch.from_numpy(example_NHWC), network)
            logged_name = self._name.replace(".", "-")  # dots are for the registry only
            model = self._client.create_logged_model(
                run.info.experiment_id, logged_name, run_id, {**self._cell, **self._identity}, run.data.params, "classifier"
            )
            described = Model(
                artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id, metadata=metadata
            )
            save(Path(folder) / "model", described, network, example_NHWC, images.num_classes)
            self._client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        if not self._client.search_registered_models(f"name = '{self._name}'"):
            self._client.create_registered_model(self._name, self._cell, self._description())
        tags = {**self._identity, self._choice.metric: str(self._choice.value)}
        source = f"models:/{model.model_id}"
        return self._client.create_model_version(self._name, source, run_id, tags, description=facts["name"], model_id=model.model_id)

    def point_alias(self, version: ModelVersion) -> None:
        """Let the alias mean this version."""
        self._client.set_registered_model_alias(self._name, ALIAS, version.version)

    def _description(self) -> str:
        cell = self._choice
        return (
            f"{cell.row} / {cell.column} in table {cell.table} of study {cell.study}: logits of uint8 images. The alias '{ALIAS}' is the "
            f"trial with the best {cell.metric}; test images decide nothing. `ablate mlflow register` keeps it up to date."
        )


def save(path: Path, model: Any, network: Path, example_NHWC: np.ndarray, num_classes: int) -> None:
    """Write an exported network as a folder that `mlflow.pyfunc.load_model` reads.

    Args:
        path: folder to be made.
        model: `mlflow.models.Model` that is filled in.
        network: what `export` wrote.
        example_NHWC: uint8, the input example.
        num_classes: K.
    """
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    config = network.with_name("config.json")
    config.write_text(json.dumps({"batch": EVAL_BATCH}), encoding="utf-8")
    given = Schema([TensorSpec(np.dtype(np.uint8), (-1, *example_NHWC.shape[1:]))])
    pyfunc.save_model(
        path,
        python_model=str(SCRIPT),
        artifacts={"network": str(network), "config": str(config)},
        signature=ModelSignature(given, Schema([TensorSpec(np.dtype(np.float32), (-1, num_classes))])),
        input_example=example_NHWC,
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        mlflow_model=model,
    )


def _example(images: ImageData) -> np.ndarray:
    """The first validation images."""
    example_NHWC = np.array(images.split("val").image_NHWC[:EXAMPLES])
    if len(example_NHWC) < EXAMPLES:
        raise DataError(f"Dataset {images.name!r} has {len(example_NHWC)} validation images; a model's input example takes {EXAMPLES}.")
    return example_NHWC


@contextmanager
def _mlflow_errors(uri: str) -> Iterator[None]:
    """What MLflow raises, as one line without a password."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        line = redact(str(error).partition("\n")[0], uri)
        raise PipelineError(f"MLflow at {redact(uri)} did not register the model: {line}") from error
