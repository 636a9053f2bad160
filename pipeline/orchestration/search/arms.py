"""What a search will search: each arm with the identity of everything that makes its points comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.errors import ConfigError, DataError
from pipeline.metric_names import METRICS
from pipeline.orchestration.fitting import Fits
from pipeline.orchestration.planning import PlannedTrial, check_batch_size, code_key_of, vocabulary, why_skipped
from pipeline.orchestration.plugin_data import is_stale
from pipeline.study.config import StudyFile, level_label
from pipeline.study.identity import digest, make_spec
from pipeline.study.params import Params
from pipeline.study.resolve import Resolver
from pipeline.study.search import COSTS, SearchSpec
from pipeline.study.search_points import resolve_corners, resolve_point

VERSION = 1  # of what a digest is made of


@dataclass(frozen=True)
class ArmPlan:
    """One arm of a search.

    Attributes:
        study, name: of the study and the arm.
        spec: the `search` section.
        resolver: makes configurations of points.
        dataset: its resolved dataset component.
        data_digest: of that, prepared.
        epochs: of a point.
        selection: 'last' or 'best_val': which epoch's validation metric is the value of a point.
        digest: of everything that makes points comparable; the budget is none of it, so that it can be raised later.
    """

    study: str
    name: str
    spec: SearchSpec
    resolver: Resolver
    dataset: dict[str, Any]
    data_digest: str
    epochs: int
    selection: str
    digest: str

    @property
    def study_name(self) -> str:
        """How Optuna calls the search of this arm."""
        return f"{self.study}/{self.name}/{self.digest}"

    @property
    def budget(self) -> int:
        """Epochs of training that the arm is given."""
        return self.spec.trials * self.epochs

    @property
    def columns(self) -> list[str]:
        """Columns of a record that are optimised, the first one deciding the winner."""
        return [goal if goal in COSTS else f"metric_val_{goal}_{self.selection}" for goal in self.spec.goals]

    @property
    def epoch_column(self) -> str:
        """Column of a history that tells how well a running point does."""
        return f"metric_val_{self.spec.goals[0]}"

    @property
    def directions(self) -> list[str]:
        """'maximize' or 'minimize' for each of `columns`."""
        return ["maximize" if goal in METRICS and METRICS[goal].higher_is_better else "minimize" for goal in self.spec.goals]

    def trial(self, fields: Mapping[str, Any]) -> PlannedTrial:
        """The point as a trial: the same as that of a table's cell with these fields.

        Raises:
            ConfigError: the fields do not go together.
        """
        config = resolve_point(self.resolver, self.spec, self.name, fields)
        plugins = self.resolver.file.study.plugins
        spec = make_spec(config, self.spec.seed_index, self.data_digest, code_key_of(config), plugins=plugins)
        return PlannedTrial(spec, point_name(self.name, fields), (), self.name, {"arm": self.name, **fields})


@dataclass(frozen=True)
class SearchPlan:
    """A whole search.

    Attributes:
        study: name of the study.
        arms: what is searched, in the order of the study file.
        datasets: resolved dataset components.
        digest: of all arms and their budget; winners with another digest are those of another search.
    """

    study: str
    arms: list[ArmPlan]
    datasets: list[dict[str, Any]]
    digest: str


def point_name(arm: str, fields: Mapping[str, Any]) -> str:
    """'search · cam · optimizer.lr=0.05 · loss.cam.start_epoch=2'."""
    shown = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={level_label(value)}" for name, value in fields.items())
    return " · ".join(["search", arm, *shown])


def plan_search(file: StudyFile, params: Params) -> SearchPlan:
    """Resolve every corner of the space of every arm, with the datasets that are prepared.

    Raises:
        ConfigError: the study declares no search, a corner of its space is impossible, or a dataset has no validation split.
        DataError: a dataset is not prepared.
    """
    spec = file.study.search
    if spec is None:
        raise ConfigError(
            f"{file.path}: the study declares no search. Add a `search:` section (docs/search.md), or name a study that has one."
        )
    resolver = Resolver(file, vocabulary())
    prepared = Path(params.data.prepared)
    fits = Fits(prepared)
    selection = "last" if file.study.protocol.selection == "last" else "best_val"
    arms, datasets = [], {}
    for name, corners in resolve_corners(resolver, spec).items():
        component = corners[0]["dataset"]
        manifest = None if is_stale(component, prepared) else data.read_manifest(component, prepared)
        if manifest is None:
            raise DataError(f"Dataset {component['name']!r} is not prepared in {prepared}. Run `ablate prepare`.")
        _check_validation(file, component, manifest)
        datasets[manifest["digest"]] = component
        codes = _check_corners(file, name, corners, manifest, fits)
        parts = {
            "version": VERSION,
            "configs": [_science(corners[0]), _science(corners[-1])],
            "data": manifest["digest"],
            "code": codes,
            "goals": spec.goals,
            "selection": selection,
            "seed_index": spec.seed_index,
            "space": {key: space.model_dump(by_alias=True) for key, space in spec.space.items() if _concerns(space.when, name)},
            "sampler": spec.sampler,
            "pruner": spec.pruner,
            "seed": spec.seed,
        }
        epochs = corners[0]["epochs"]
        arms.append(ArmPlan(file.study.study, name, spec, resolver, component, manifest["digest"], epochs, selection, digest(parts)))
    fits.save()
    whole = digest({"arms": {arm.name: arm.digest for arm in arms}, "trials": spec.trials})
    return SearchPlan(file.study.study, arms, list(datasets.values()), whole)


def _science(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "dataset"}


def _concerns(when: dict[str, Any], arm: str) -> bool:
    wanted = when.get("arm", arm)
    return arm in (wanted if isinstance(wanted, list) else [wanted])


def _check_validation(file: StudyFile, component: dict[str, Any], manifest: dict[str, Any]) -> None:
    start, stop = manifest["ranges"]["val"]
    if start == stop:
        raise ConfigError(
            f"{file.locate(('search',))}: dataset {component['name']!r} has no validation split, and a search reads nothing else. "
            "Give it one, e.g. val_fraction: 0.1."
        )


def _check_corners(file: StudyFile, arm: str, corners: list[dict[str, Any]], manifest: dict[str, Any], fits: Fits) -> list[str]:
    """The code keys of the corners; refuses corners whose methods exclude each other or do not fit the data."""
    codes: dict[str, None] = {}
    seen = set()
    for config in corners:
        key = code_key_of(config)
        codes[key] = None
        parts = digest([config["backbone"], config["loss"], config["regularizers"], config["batch_size"]])
        if parts in seen:
            continue
        seen.add(parts)
        check_batch_size(config, manifest)
        if reason := why_skipped(config, manifest, key, fits):
            place = file.locate(("search", "space"))
            raise ConfigError(f"{place}: in arm {arm!r} some points cannot be trained: {reason}. Take one of the choices out.")
    return sorted(codes)
