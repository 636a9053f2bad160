"""Optuna: the database of a search, its samplers, and how a point is drawn."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import ConfigError, StoreError, did_you_mean
from pipeline.orchestration.mirror.uri import redact
from pipeline.orchestration.search.arms import ArmPlan
from pipeline.orchestration.search.points import ARM
from pipeline.study.config import level_label
from pipeline.study.identity import digest
from pipeline.study.search import FieldSpace, SearchSpec

SCHEMES = ("sqlite", "postgresql")
BUSY_S = 60  # sqlite: how long a writer waits for another
_CLASSES: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "qmc": optuna.samplers.QMCSampler,
    "brute_force": optuna.samplers.BruteForceSampler,
    "random": RandomSampler,
}
_FIXED: dict[str, dict[str, Any]] = {"qmc": {"scramble": True}, "brute_force": {"avoid_premature_stop": True}}
# Filled in here, or no value that a study file can hold.
_TAKEN = {
    "seed",
    "independent_sampler",
    "constraints_func",
    "gamma",
    "weights",
    "source_trials",
    "mutation",
    "crossover",
    "warn_independent_sampling",
}


def open_storage(url: str) -> RDBStorage:
    """The database, made where it is missing; a path in an sqlite URL is relative to the project.

    Raises:
        ConfigError: the URL is of another kind, or its driver is not installed.
        StoreError: the database cannot be reached, read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scheme, mark, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if not mark or kind not in SCHEMES or (kind == "sqlite" and len(rest) < 2):
        raise ConfigError(
            f"search.storage {redact(url)!r} is no database; allowed: sqlite:///FILE and postgresql://USER:PASSWORD@HOST/NAME."
            f"{did_you_mean(scheme, SCHEMES)} Correct it in params.yaml."
        )
    options: dict[str, Any] = {}
    if kind == "sqlite":
        url = f"sqlite:///{Path(rest.removeprefix('/')).absolute()}"
        options = {"connect_args": {"timeout": BUSY_S}}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except (ImportError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"search.storage {redact(url)!r} needs a driver that is not installed: {redact(str(error), url)}. "
            "Run `pip install 'psycopg[binary]'`."
        ) from error
    except (SQLAlchemyError, RuntimeError) as error:
        raise StoreError(_unusable(url, error)) from error


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turn what the database raises into a message.

    Raises:
        StoreError: the database was lost, is full, or is locked.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StoreError(_unusable(url, error)) from error


def _unusable(url: str, error: Exception) -> str:
    cause = redact(str(error.__cause__ or error), url).strip().splitlines()[0]
    return (
        f"The search's database {redact(url)!r} cannot be used: {cause}. Mend it or set search.storage in params.yaml; trained points are "
        "in the trial store and are not trained again."
    )


def open_study(arm: ArmPlan, storage: RDBStorage) -> optuna.Study:
    """The Optuna study of an arm, made where it is missing.

    Raises:
        ConfigError: the sampler has no such option.
    """
    check_sampler(arm.spec, arm.resolver.file.locate(("search", "sampler")))
    study = optuna.create_study(storage=storage, study_name=arm.study_name, directions=arm.directions, load_if_exists=True)
    if ARM not in study.user_attrs:
        study.set_user_attr(ARM, arm.name)
        study.set_user_attr("epochs", arm.epochs)
        study.set_user_attr("optimises", arm.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(arm.columns)
    return study


def check_sampler(spec: SearchSpec, place: str) -> None:
    """Refuse options that the sampler does not have.

    Raises:
        ConfigError: names the nearest one.
    """
    name, options = spec.sampler_name, spec.sampler[spec.sampler_name]
    known = [key for key in inspect.signature(_CLASSES[name]).parameters if key not in _TAKEN]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"{place}: sampler {name!r} has no option {key!r}.{did_you_mean(key, known)} Known: {', '.join(known) or 'none'}."
            )
    try:
        make_sampler(spec, 0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error


def make_sampler(spec: SearchSpec, number: int) -> BaseSampler:
    """The sampler that proposes point `number`.

    Its generator is seeded anew for each point, as Optuna keeps no generator in its storage: a search that is continued would else
    propose its first points again. Arms share the draws of a number, so that their random points are paired.
    """
    name = spec.sampler_name
    seed = int(digest(["sampler", spec.seed, number])[:8], 16) % 2**31
    options = {**_FIXED.get(name, {}), **spec.sampler[name]}
    if name in ("gp", "cmaes", "qmc"):
        options |= {"warn_independent_sampling": False, "independent_sampler": RandomSampler(seed=seed)}
    # The points of a quasi-random sequence belong to one scrambling.
    options["seed"] = spec.seed if name == "qmc" else seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _CLASSES[name](**options)


def draw(trial: optuna.Trial, spec: SearchSpec, arm: str) -> dict[str, Any]:
    """The fields of a point, each after those its condition names."""
    fields: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name in spec.ordered():
            if spec.is_active(name, arm, fields):
                fields[name] = _draw_one(trial, name, spec.space[name])
    return fields


def _draw_one(trial: optuna.Trial, name: str, space: FieldSpace) -> Any:
    if space.choice is not None:
        words = choice_words(space.choice)
        return words[trial.suggest_categorical(name, list(words))]
    low, high = space.bounds
    if space.ints is not None:
        return trial.suggest_int(name, int(low), int(high), step=int(space.step or 1), log=space.log)
    return trial.suggest_float(name, low, high, step=space.step, log=space.log)


def choice_words(choice: list[Any]) -> Mapping[Any, Any]:
    """What Optuna is told -> the value: the value itself, or its label where some value is a list or a mapping."""
    if all(value is None or isinstance(value, bool | int | float | str) for value in choice):
        return {value: value for value in choice}
    return {f"{index}: {level_label(value)}": value for index, value in enumerate(choice)}


def decode(fields: Mapping[str, Any], spec: SearchSpec) -> dict[str, Any]:
    """The values behind the words that Optuna was told."""
    decoded = {}
    for name, value in fields.items():
        choice = spec.space[name].choice
        decoded[name] = value if choice is None else choice_words(choice)[value]
    return decoded
