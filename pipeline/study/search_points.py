"""From points of a search to trial configurations: which layers a point is made of, and whether every corner of the space is sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.study.config import StudyFile
from pipeline.study.resolve import Layer, Resolver, nested
from pipeline.study.search import SearchSpec

MOST_CORNERS = 1024  # an arm; what is wrong only at another one of a larger space is met when it is tried

Fields = Mapping[str, Any]  # dotted field -> value


def base_layers(file: StudyFile, spec: SearchSpec, arm: str) -> list[Layer]:
    """What every point of an arm starts from: defaults, `search.set`, the arm, `search.epochs`."""
    layers = [Layer(file.study.defaults, ("defaults",))]
    layers += [Layer(nested(name, value), ("search", "set", name), name) for name, value in spec.set.items()]
    layers.append(Layer(file.study.arms[arm], ("arms", arm)))
    if spec.epochs is not None:
        layers.append(Layer({"epochs": spec.epochs}, ("search", "epochs"), "epochs"))
    return layers


def field_layers(fields: Fields) -> list[Layer]:
    """One layer a searched field; a field before its parts, so that `optimizer` never undoes `optimizer.lr`."""
    names = sorted(fields, key=lambda name: name.count("."))
    return [Layer(nested(name, fields[name]), ("search", "space", name), name) for name in names]


def resolve_point(resolver: Resolver, spec: SearchSpec, arm: str, fields: Fields) -> dict[str, Any]:
    """The canonical configuration of a point.

    Raises:
        ConfigError: with the place in the study file.
    """
    return resolver.resolve([*base_layers(resolver.file, spec, arm), *field_layers(fields)])


def resolve_corners(resolver: Resolver, spec: SearchSpec) -> dict[str, list[dict[str, Any]]]:
    """Arm -> configurations of the corners of its space, the first being that of all lowest values and first choices.

    Raises:
        ConfigError: a corner is impossible, a field would turn an arm into another, arms have different epochs, or a table that wants
            the winners has no use for them; with the place in the study file.
    """
    file = resolver.file
    arms = spec.arm_names(file.study.arms)
    epochs = {}
    corners = {}
    for arm in arms:
        base = resolver.resolve(base_layers(file, spec, arm))
        epochs[arm] = base["epochs"]
        _check_terms(file, spec, arm, base)
        corners[arm] = [resolve_point(resolver, spec, arm, point) for point in spec.some_corners(arm, MOST_CORNERS)]
    if len(set(epochs.values())) > 1:
        said = ", ".join(f"{arm} has {number}" for arm, number in epochs.items())
        raise ConfigError(f"{file.locate(('search',))}: budgets would differ: of the epochs, {said}. Set search.epochs.")
    grace = spec.pruner[spec.pruner_name].get("grace_epochs", 0)
    if grace >= next(iter(epochs.values())):
        raise ConfigError(
            f"{file.locate(('search', 'pruner'))}: no point would ever be given up: grace_epochs is {grace} and a point has "
            f"{next(iter(epochs.values()))} epochs. Lower grace_epochs, raise epochs, or set pruner: none."
        )
    return corners


def _check_terms(file: StudyFile, spec: SearchSpec, arm: str, base: dict[str, Any]) -> None:
    """Refuse a field that would add a loss or a regularizer to an arm that has none."""
    has = {"loss": list(base["loss"]), "regularizers": [component["name"] for component in base["regularizers"]]}
    for name, space in spec.space.items():
        head, _, rest = name.partition(".")
        if head in has and rest and "arm" not in space.when and rest.split(".")[0] not in has[head]:
            raise ConfigError(
                f"{file.locate(('search', 'space', name))}: this would add {rest.split('.')[0]!r} to the arm {arm!r}, which is without it. "
                "Say which arms it belongs to, e.g. `when: {arm: cam}`."
            )


def check_tuned(file: StudyFile, name: str, arms: list[str]) -> None:
    """Refuse a table that wants winners where there are none.

    Args:
        name: a table with `tuned: true`.
        arms: the arms that it shows.

    Raises:
        ConfigError: no search, no arms, or an arm that is not searched.
    """
    place = file.locate(("tables", name, "tuned"))
    spec = file.study.search
    if spec is None:
        raise ConfigError(f"{place}: there is no search whose winners it could use. Add a `search:` section or set tuned: false.")
    if not arms:
        raise ConfigError(f"{place}: winners belong to arms, and the table has none. Add `arm` to its rows or columns.")
    searched = spec.arm_names(file.study.arms)
    for arm in arms:
        if arm not in searched:
            raise UnknownNameError("searched arm", arm, searched, where=place, next_step="Add it to search.arms.")
