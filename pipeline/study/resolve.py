"""From a study's layers (defaults, table, arm, levels) to one canonical trial configuration, every default filled in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError, counted, did_you_mean
from pipeline.registry import Registry
from pipeline.study.config import StudyFile
from pipeline.study.place import Path_
from pipeline.study.trial_config import TrialConfig
from pipeline.study.validate import check_ranges, fill_options, validate

COMPONENTS = ("dataset", "backbone")  # fields with a name and options
TERM_DEFAULTS: dict[str, Any] = {"weight": 1.0, "start_epoch": 0, "ramp_epochs": 0}


@dataclass(frozen=True)
class Vocabulary:
    """The registered names that a study may use."""

    datasets: Registry[Any]
    backbones: Registry[Any]
    losses: Registry[Any]
    regularizers: Registry[Any]


@dataclass(frozen=True)
class Layer:
    """Fields that one place of the study file sets.

    Attributes:
        values: nested fields of the trial configuration.
        place: path of `values` in the study file.
        field: dotted field when `values` came from one level of a factor: then the whole of it stands at `place`.
    """

    values: dict[str, Any]
    place: Path_
    field: str = ""


class Resolver:
    """Turns layers into canonical configurations, and errors into places of the study file.

    Args:
        file: the study.
        vocabulary: registered names.
    """

    def __init__(self, file: StudyFile, vocabulary: Vocabulary) -> None:
        self.file, self.vocabulary = file, vocabulary

    def resolve(self, layers: list[Layer]) -> dict[str, Any]:
        """The canonical configuration of these layers, later ones on top.

        Canonical means: defaults filled in, numbers in the type of their field, loss terms of weight 0 left out (they are not
        computed, so weight 0 is the same trial as no such term).

        Raises:
            ConfigError: unknown key or name, wrong type or range; names the place in the study file.
        """
        merged, locate = self._merge(layers)
        merged["dataset"] = self._dataset(self._required(merged, "dataset"), locate)
        backbone = self._named(self._required(merged, "backbone"), self.vocabulary.backbones, locate, ("backbone",))
        merged["backbone"] = self._component(self.vocabulary.backbones, *backbone, locate, ("backbone",))
        # Arms add to `defaults.loss`, which is plain cross-entropy unless it says otherwise.
        terms = merged.get("loss") or {}
        merged["loss"] = self._loss(terms if "loss" in layers[0].values else merge({"ce": {}}, terms), locate)
        merged["regularizers"] = [
            self._component(self.vocabulary.regularizers, name, options or {}, locate, ("regularizers", name))
            for name, options in (merged.get("regularizers") or {}).items()
        ]
        for component in merged["regularizers"]:
            name, options = component["name"], {key: value for key, value in component.items() if key != "name"}
            check_ranges(self.vocabulary.regularizers, name, options, lambda _, n=name: locate(("regularizers", n)))  # type: ignore[misc]
        config = validate(TrialConfig, merged, locate)
        self._check_terms(config, locate)
        return config.to_dict()

    def resolve_dataset(self, layers: list[Layer]) -> dict[str, Any]:
        """Only the dataset component of these layers."""
        merged, locate = self._merge([Layer({k: v for k, v in x.values.items() if k == "dataset"}, x.place, x.field) for x in layers])
        return self._dataset(self._required(merged, "dataset"), locate)

    def _merge(self, layers: list[Layer]) -> tuple[dict[str, Any], Callable[[Path_], str]]:
        merged: dict[str, Any] = {}
        loose: dict[str, set[str]] = {}
        for layer in layers:
            if not isinstance(layer.values, dict):
                raise ConfigError(f"{self.file.locate(layer.place)}: expected a mapping of fields, got {layer.values!r}.")
            for key, value in layer.values.items():
                normal = self._normal(key, value, layer)
                if key in COMPONENTS:
                    merged[key] = _lay_component(merged.get(key, {}), normal, loose.setdefault(key, set()))
                else:
                    merged = merge(merged, {key: normal})
        return merged, lambda path: self._locate(layers, path)

    def _required(self, merged: dict[str, Any], key: str) -> dict[str, Any]:
        if not merged.get(key):
            place = self.file.locate(("defaults",))
            raise ConfigError(f"{place}: {key!r} is set neither in the defaults nor by the table. Add `{key}: <name>`.")
        return merged[key]  # type: ignore[no-any-return]

    # --- one field at a time -----------------------------------------------------------------------------------------------------

    def _normal(self, key: str, value: Any, layer: Layer) -> Any:
        """The long form of a shorthand: components as {"name": ...}, regularizers as an ordered mapping name -> options."""
        if key in COMPONENTS and isinstance(value, str):
            return {"name": value}
        if key in COMPONENTS and not isinstance(value, dict):
            raise ConfigError(f"{self._locate([layer], (key,))}: expected a name or a mapping with `name`, got {value!r}.")
        if key == "loss" and isinstance(value, str):
            return {value: {}}
        if key == "loss" and not isinstance(value, dict):
            place = self._locate([layer], (key,))
            raise ConfigError(f"{place}: expected a mapping of loss name to options, e.g. cam: {{weight: 1.0}}, got {value!r}.")
        if key == "regularizers":
            return self._regularizers(value, layer)
        return value

    def _regularizers(self, value: Any, layer: Layer) -> Any:
        if value is None or value == "none":
            return Replace({})
        if isinstance(value, str):
            return Replace({value: {}})
        if isinstance(value, list):
            chosen: dict[str, Any] = {}
            for item in value:
                name, options = (item, {}) if isinstance(item, str) else _single(item)
                if name is None:
                    raise ConfigError(
                        f"{self._locate([layer], ('regularizers',))}: a regularizer is a name or {{name: {{option: value}}}}, got {item!r}."
                    )
                if name in chosen:
                    raise ConfigError(f"{self._locate([layer], ('regularizers',))}: {name!r} stands twice; list each regularizer once.")
                chosen[name] = options
            return Replace({name: options for name, options in chosen.items() if name != "none"})
        if isinstance(value, dict):
            for name, options in value.items():
                if options is not None and not isinstance(options, dict):
                    place = self._locate([layer], ("regularizers", name))
                    raise ConfigError(f"{place}: expected a mapping of options of {name!r} such as {{option: value}}, got {options!r}.")
            return Replace(value) if layer.field == "regularizers" else value
        place = self._locate([layer], ("regularizers",))
        raise ConfigError(f"{place}: expected a name, a list or a mapping of regularizers, got {value!r}.")

    def _dataset(self, component: dict[str, Any], locate: Callable[[Path_], str]) -> dict[str, Any]:
        name, options = self._named(component, self.vocabulary.datasets, locate, ("dataset",))
        declared = self.file.study.datasets.get(str(name))
        if declared is not None:
            base = ("datasets", str(name))
            if "source" not in declared:
                raise ConfigError(f"{self.file.locate(base)}: 'source' is missing. Known: {', '.join(self.vocabulary.datasets.names())}.")
            source = declared["source"]
            own = set(declared) - {"source"} - set(options)
            options = {**{key: value for key, value in declared.items() if key != "source"}, **options}

            def place(path: Path_) -> str:
                if path and path[0] not in own:
                    return locate(("dataset", *path))
                return self.file.locate((*base, *path) if path else (*base, "source"))
        else:
            source = options.pop("source", name)

            def place(path: Path_) -> str:
                return locate(("dataset", *path))

            if source == name and name not in self.vocabulary.datasets and self.file.study.datasets:
                known = [*self.vocabulary.datasets.names(), *self.file.study.datasets]
                raise ConfigError(f"{place(())}: unknown dataset {name!r}.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}.")
        return {"name": str(name), "source": source, **fill_options(self.vocabulary.datasets, source, options, place)}

    def _named(
        self, component: dict[str, Any], registry: Registry[Any], locate: Callable[[Path_], str], base: Path_
    ) -> tuple[str, dict[str, Any]]:
        name = component.get("name")
        if name is None:
            raise ConfigError(f"{locate(base)}: 'name' is missing. Known: {', '.join(registry.names())}.")
        if not isinstance(name, str):
            raise ConfigError(f"{locate((*base, 'name'))}: a name is a word, got {name!r}. Known: {', '.join(registry.names())}.")
        return name, {key: value for key, value in component.items() if key != "name"}

    def _component(
        self, registry: Registry[Any], name: str, options: dict[str, Any], locate: Callable[[Path_], str], base: Path_
    ) -> dict[str, Any]:
        return {"name": name, **fill_options(registry, name, options, lambda path: locate((*base, *path)))}

    def _loss(self, terms: dict[str, Any], locate: Callable[[Path_], str]) -> dict[str, Any]:
        resolved = {}
        for name, given in terms.items():
            if given is None:
                continue  # `ce: null` in an arm takes the term of the defaults away
            if not isinstance(given, dict):
                raise ConfigError(f"{locate(('loss', name))}: expected a mapping of options such as {{weight: 1.0}}, got {given!r}.")
            common = {**TERM_DEFAULTS, **{key: value for key, value in given.items() if key in TERM_DEFAULTS}}
            self._check_common(name, common, locate)
            own = {key: value for key, value in given.items() if key not in TERM_DEFAULTS}
            here = ("loss", name)
            for key in own:
                known = [*self.vocabulary.losses.get(name, where=locate(here)).options, *TERM_DEFAULTS]
                if key not in known:
                    hint = f"{did_you_mean(key, known)} Known: {', '.join(sorted(known))}."
                    raise ConfigError(f"{locate((*here, key))}: loss {name!r} has no option {key!r}.{hint}")
            options = fill_options(self.vocabulary.losses, name, own, lambda path, h=here: locate((*h, *path)))  # type: ignore[misc]
            check_ranges(self.vocabulary.losses, name, options, lambda _, h=here: locate(h))  # type: ignore[misc]
            if common["weight"] != 0:
                resolved[name] = {**common, "weight": float(common["weight"]), **options}
        # Terms are added up in this order: canonical, since a sum of floats depends on it.
        return dict(sorted(resolved.items()))

    def _check_common(self, name: str, common: dict[str, Any], locate: Callable[[Path_], str]) -> None:
        weight = common["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"{locate(('loss', name, 'weight'))}: weight must be a number >= 0, got {weight!r}.")
        for key in ("start_epoch", "ramp_epochs"):
            if isinstance(common[key], bool) or not isinstance(common[key], int) or common[key] < 0:
                raise ConfigError(f"{locate(('loss', name, key))}: {key} must be a whole number >= 0, got {common[key]!r}.")

    def _check_terms(self, config: TrialConfig, locate: Callable[[Path_], str]) -> None:
        if not any(term["start_epoch"] == 0 for term in config.loss.values()):
            raise ConfigError(
                f"{locate(('loss',))}: no loss term is active at epoch 0, so there is nothing to train. "
                "Give one term start_epoch: 0 and weight > 0."
            )
        factories = {name: self.vocabulary.losses.get(name).factory for name in config.loss}
        if not any(getattr(factory, "trains_classifier", True) for factory in factories.values()):
            raise ConfigError(
                f"{locate(('loss',))}: {' and '.join(config.loss)} would not train the classifier, so accuracy would stay at chance. "
                "Keep a term that does, for example ce."
            )
        for name, term in config.loss.items():
            if term["start_epoch"] >= config.epochs:
                raise ConfigError(
                    f"{locate(('loss', name, 'start_epoch'))}: {name!r} starts at epoch {term['start_epoch']} (counted from 0) "
                    f"but the trial has {counted(config.epochs, 'epoch')}, so it would never act. Lower start_epoch or raise epochs."
                )

    def _locate(self, layers: list[Layer], path: Path_) -> str:
        """The place in the study file of a field: the last layer that sets it, or sets the longest part of it."""
        best, depth = layers[0].place if layers else (), -1
        missing: Path_ = path
        for layer in layers:
            got = _depth(layer.values, path)
            if got and got >= depth:
                depth = got
                field = tuple(layer.field.split(".")) if layer.field else ()
                best = (*layer.place, *path[len(field) : got])
                # A level of `optimizer.momentum` is named as it stands when it clashes with another part of the optimizer.
                missing = path[got:] if path[: len(field)] == field else ()
        return ".".join([self.file.locate(best), *map(str, missing)])


class Replace(dict[str, Any]):
    """A mapping that takes the place of what it is merged onto."""


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`: mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in top.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not isinstance(value, Replace):
            result[key] = merge(old, value)
        else:
            result[key] = copy.deepcopy(dict(value)) if isinstance(value, dict) else value
    return result


def _lay_component(old: dict[str, Any], top: dict[str, Any], loose: set[str]) -> dict[str, Any]:
    """A dataset or backbone over another: one that is named anew drops the options that came with the old name.

    Options given without a name (`backbone.dropout: 0.1`) are meant for whatever is named there, and stay; `loose` keeps track of them.
    """
    if "name" not in top:
        loose |= set(top)
    elif old.get("name") != top["name"]:
        old = {key: value for key, value in old.items() if key in loose}
        loose -= set(top)
    return merge(old, top)


def nested(field: str, value: Any) -> dict[str, Any]:
    """{'loss': {'cam': {'weight': 1}}} from 'loss.cam.weight' and 1."""
    for part in reversed(field.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _single(item: Any) -> tuple[str | None, Any]:
    if isinstance(item, dict) and len(item) == 1:
        name, options = next(iter(item.items()))
        if options is None or isinstance(options, dict):
            return name, options or {}
    return None, None


def _depth(values: Any, path: Path_) -> int:
    """How many leading parts of `path` exist in `values`."""
    depth = 0
    for part in path:
        if isinstance(values, dict) and part in values:
            values, depth = values[part], depth + 1
        elif isinstance(values, list) and part in values:  # a regularizer given by its bare name
            return depth + 1
        else:
            return depth
    return depth
