"""The `search` section of a study file: which fields are searched, by what, at which budget."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError, UnknownNameError, did_you_mean
from pipeline.metric_names import METRICS
from pipeline.study.place import Path_
from pipeline.study.strict import Strict

COSTS = ("time_train_s", "mem_peak_bytes")  # what an objective may be besides a metric; less is better
SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "qmc", "brute_force", "random")
PRUNERS = ("none", "asha", "hyperband")
PRUNER_OPTIONS: dict[str, dict[str, int]] = {
    "none": {},
    "asha": {"grace_epochs": 1, "reduction": 3},
    "hyperband": {"grace_epochs": 1, "reduction": 3, "brackets": 3},
}
# Fields that decide what is compared, not how well it does.
NOT_SEARCHED = {
    "arm": "every arm is searched by itself; name them under search.arms",
    "seed": "all points are trained with search.seed_index",
    "seeds": "all points are trained with search.seed_index",
    "epochs": "it is the budget of a point; set search.epochs",
    "dataset": "points on other data cannot be compared; set it under search.set",
    "task": "points of other tasks cannot be compared",
    "evaluate_test": "it changes no validation metric",
}


def _named(names: Iterable[str], what: str) -> Callable[[Any], Any]:
    """A validator: a name, or a name with options {name: {option: value}}; null means 'none' where there is such a name."""
    known = tuple(names)

    def check(value: Any) -> Any:
        value = "none" if value is None and "none" in known else value
        name, options = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, {})
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"unknown {what} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
        if not isinstance(options, dict | None):
            raise ValueError(f"expected a mapping of options of {name!r}, got {options!r}")
        return {name: options or {}}

    return check


def _pruner(value: Any) -> Any:
    value = _named(PRUNERS, "pruner")(value)
    (name, given), known = next(iter(value.items())), PRUNER_OPTIONS[next(iter(value))]
    for key, number in given.items():
        if key not in known:
            raise ValueError(f"pruner {name!r} has no option {key!r}.{did_you_mean(key, known)} Known: {', '.join(known) or 'none'}")
        least = 2 if key == "reduction" else 1
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{key} must be a whole number >= {least}, got {number!r}")
    return {name: {**known, **given}}


Named = dict[str, dict[str, Any]]


class FieldSpace(Strict):
    """The values that one field may take: exactly one of float, int and choice."""

    model_config = ConfigDict(populate_by_name=False)

    floats: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        default=None, alias="float", description="[low, high], both included."
    )
    ints: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, alias="int", description="[low, high], both included."
    )
    choice: list[Any] | None = Field(default=None, description="The values, in any order: names, numbers, lists or mappings.")
    log: bool = Field(default=False, description="Search the logarithm; for float and int.")
    step: float | None = Field(default=None, gt=0, description="Distance of two values, from low on; for float and int.")
    when: dict[str, Any] = Field(
        default_factory=dict, description="Only then: {arm: name}, or {searched choice field: value}; a list of values means any of them."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        given = [name for name, value in (("float", self.floats), ("int", self.ints), ("choice", self.choice)) if value is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of float, int and choice, got {' and '.join(given) or 'none of them'}")
        if self.choice is not None:
            self._sound_choice(self.choice)
        else:
            self._sound_range(given[0])
        return self

    def _sound_choice(self, values: list[Any]) -> None:
        if not values:
            raise ValueError("choice is empty; list the values, e.g. [32, 64]")
        if self.log or self.step is not None:
            raise ValueError(f"{'log' if self.log else 'step'} is for float and int; a choice lists its values")
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"choice has {value!r} twice. Keep one")

    def _sound_range(self, kind: str) -> None:
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{kind} must be [low, high] with low < high, got [{low:g}, {high:g}]")
        if self.log and low <= 0:
            raise ValueError(f"{kind} must begin above 0 to be searched on a log scale, got [{low:g}, {high:g}]")
        if self.step is None:
            return
        if self.log:
            raise ValueError("step and log exclude each other: on a log scale values are not evenly spaced")
        if kind == "int" and self.step != int(self.step):
            raise ValueError(f"step must be a whole number for int, got {self.step:g}")
        if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(self.step)) != 0:
            raise ValueError(f"step must divide the range [{low:g}, {high:g}] evenly, got {self.step:g}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        low, high = self.floats if self.floats is not None else self.ints or (0, 0)
        return low, high

    @property
    def is_finite(self) -> bool:
        """Whether all values can be tried."""
        return self.floats is None or self.step is not None

    def extremes(self) -> list[Any]:
        """The values that may be impossible if any is: both ends of a range, every choice."""
        return list(self.choice) if self.choice is not None else list(self.floats or self.ints or ())

    def allows(self, value: Any) -> bool:
        """Whether a value belongs to the space."""
        if self.choice is not None:
            return value in self.choice
        if isinstance(value, bool) or not isinstance(value, int if self.ints is not None else int | float):
            return False
        low, high = self.bounds
        return low <= value <= high


class SearchSpec(Strict):
    """A hyperparameter search: the same budget for every arm, on the validation split."""

    trials: int = Field(default=15, ge=1, description="Points an arm gets; its budget is trials x epochs epochs of training.")
    epochs: int | None = Field(default=None, ge=1, description="Epochs of a point; null: those of the defaults.")
    metric: str = Field(default="acc_top1", description="What is optimised, on the validation split.")
    objectives: Annotated[list[str], Field(min_length=2, max_length=3)] | None = Field(
        default=None, description="Several at once, e.g. [acc_top1, time_train_s]: the front between accuracy and cost."
    )
    sampler: Annotated[Named, BeforeValidator(_named(SAMPLERS, "sampler"))] = Field(
        default={"tpe": {}}, description=f"Who proposes points: {', '.join(SAMPLERS)}; or {{tpe: {{option: value}}}}, options as in Optuna."
    )
    pruner: Annotated[Named, BeforeValidator(_pruner)] = Field(
        default={"none": {}}, description="Who gives points up early: none, asha, hyperband; or {asha: {grace_epochs: 2, reduction: 3}}."
    )
    seed: int = Field(default=0, ge=0, description="Of the sampler.")
    seed_index: int = Field(default=0, ge=0, description="Repetition that points are trained with.")
    arms: list[str] | None = Field(default=None, min_length=1, description="Arms that are searched; null: all.")
    set: dict[str, Any] = Field(default_factory=dict, description="Fields that differ from the defaults throughout the search.")
    space: dict[str, FieldSpace] = Field(min_length=1, description="Dotted field of the trial configuration -> its values.")

    @property
    def sampler_name(self) -> str:
        """Name of the sampler without its options."""
        return next(iter(self.sampler))

    @property
    def pruner_name(self) -> str:
        """Name of the pruner without its options."""
        return next(iter(self.pruner))

    @property
    def goals(self) -> list[str]:
        """What is optimised, the first one deciding the winner; without a split in front."""
        return [name.removeprefix("val/") for name in self.objectives or [self.metric]]

    def ordered(self) -> list[str]:
        """The fields, each after those that its condition names."""
        order: list[str] = []

        def visit(name: str) -> None:
            if name not in order:
                for other in self.space[name].when:
                    if other in self.space:
                        visit(other)
                order.append(name)

        for name in self.space:
            visit(name)
        return order

    def is_active(self, name: str, arm: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a field is searched in `arm` once the fields it depends on are `chosen`."""
        facts = {"arm": arm, **chosen}
        return all(key in facts and facts[key] in _listed(wanted) for key, wanted in self.space[name].when.items())

    def some_corners(self, arm: str, most: int) -> list[dict[str, Any]]:
        """All corners, or that many drawn at random (the same ones each time) where there are more."""
        found = list(itertools.islice(self.corners(arm), most + 1))
        if len(found) <= most:
            return found
        rng, drawn = random.Random(0), [found[0]]  # noqa: S311 - nothing secret is drawn
        for _ in range(most - 1):
            point: dict[str, Any] = {}
            for name in self.ordered():
                if self.is_active(name, arm, point):
                    point[name] = rng.choice(self.space[name].extremes())
            drawn.append(point)
        return drawn

    def corners(self, arm: str) -> Iterator[dict[str, Any]]:
        """Points at the ends of every range with every choice: every combination of them."""
        names = self.ordered()

        def walk(index: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if index == len(names):
                yield chosen
                return
            name = names[index]
            if not self.is_active(name, arm, chosen):
                yield from walk(index + 1, chosen)
                return
            for value in self.space[name].extremes():
                yield from walk(index + 1, {**chosen, name: value})

        return walk(0, {})

    def arm_names(self, declared: Iterable[str]) -> list[str]:
        """The searched arms, in the order of the study file."""
        return [arm for arm in declared if self.arms is None or arm in self.arms]


def check_search(spec: SearchSpec, arms: Mapping[str, Any], locate: Callable[[Path_], str]) -> None:
    """What can be said of a search without knowing any method.

    Raises:
        ConfigError: with the place in the study file.
    """
    if not arms:
        raise ConfigError(f"{locate(('search',))}: a search is for arms, and the study declares none. Add `arms: {{plain: {{}}}}`.")
    for index, arm in enumerate(spec.arms or ()):
        if arm not in arms:
            raise UnknownNameError("arm", arm, arms, where=locate(("search", "arms", index)), next_step="Declare it under `arms:`.")
        if arm in (spec.arms or ())[:index]:
            raise ConfigError(f"{locate(('search', 'arms', index))}: {arm!r} stands twice. Keep one.")
    _check_goals(spec, locate)
    for name in spec.set:
        if name.split(".")[0] in ("arm", "seed", "seeds", "epochs"):
            raise ConfigError(f"{locate(('search', 'set', name))}: {NOT_SEARCHED[name.split('.')[0]]}.")
        if name in spec.space:
            raise ConfigError(f"{locate(('search', 'set', name))}: {name!r} is searched (search.space), so setting it would never act.")
    searched = spec.arm_names(arms)
    for name, space in spec.space.items():
        _check_field(spec, name, space, searched, locate)
    _check_cycles(spec, locate)
    for arm in searched:
        if not next(spec.corners(arm)):
            raise ConfigError(f"{locate(('search', 'space'))}: no field is searched in arm {arm!r}. Leave it out of search.arms.")


def _check_goals(spec: SearchSpec, locate: Callable[[Path_], str]) -> None:
    for index, name in enumerate(spec.objectives or [spec.metric]):
        place = locate(("search", "objectives", index) if spec.objectives else ("search", "metric"))
        split, _, bare = name.rpartition("/")
        if split == "test":
            raise ConfigError(f"{place}: a search never reads the test split. Write {bare!r}: it is taken from the validation split.")
        known = [metric for metric, entry in METRICS.items() if entry.when == "epoch"] + (list(COSTS) if spec.objectives else [])
        if bare not in known or split not in ("", "val"):
            raise UnknownNameError("metric of the validation split", name, known, where=place)
        if bare in [other.removeprefix("val/") for other in (spec.objectives or [])[:index]]:
            raise ConfigError(f"{place}: {name!r} stands twice. Keep one.")
    if spec.objectives is None:
        return
    place = locate(("search", "objectives"))
    if "metric" in spec.model_fields_set and spec.metric.removeprefix("val/") != spec.goals[0]:
        raise ConfigError(f"{place}: metric says {spec.metric!r} but the first objective is {spec.goals[0]!r}. Leave `metric` out.")
    if spec.pruner_name != "none":
        raise ConfigError(f"{place}: with several objectives nobody can say early which point is worse. Set pruner: none.")
    if spec.sampler_name == "cmaes":
        raise ConfigError(f"{place}: cmaes optimises one thing only. Set sampler: nsga2 or tpe.")


def _check_field(spec: SearchSpec, name: str, space: FieldSpace, searched: list[str], locate: Callable[[Path_], str]) -> None:
    place = locate(("search", "space", name))
    head = name.split(".")[0]
    if head in NOT_SEARCHED:
        raise ConfigError(f"{place}: {head!r} is not searched: {NOT_SEARCHED[head]}.")
    if spec.sampler_name == "brute_force" and not space.is_finite:
        raise ConfigError(f"{place}: brute_force tries every value, so a float needs a `step`, or make it a choice.")
    for key, wanted in space.when.items():
        where = locate(("search", "space", name, "when", key))
        values = _listed(wanted)
        if not values:
            raise ConfigError(f"{where}: the list is empty, so the field would never be searched.")
        if key == "arm":
            for value in values:
                if value not in searched:
                    raise UnknownNameError("searched arm", value, searched, where=where)
            continue
        if key not in spec.space:
            choices = [other for other, entry in spec.space.items() if entry.choice is not None]
            step = "A condition names `arm` or another searched field with a choice."
            raise UnknownNameError("searched field", key, ["arm", *choices], where=where, next_step=step)
        choice = spec.space[key].choice
        if choice is None:
            raise ConfigError(f"{where}: a condition is on a choice, and {key!r} is a range. Make it a choice.")
        for value in values:
            if value not in choice:
                raise ConfigError(f"{where}: {key!r} is never {value!r}.{did_you_mean(value, map(str, choice))} Its choice: {choice}.")


def _check_cycles(spec: SearchSpec, locate: Callable[[Path_], str]) -> None:
    for start in spec.space:
        seen, waiting = [start], [start]
        while waiting:
            for other in spec.space[waiting.pop()].when:
                if other == start:
                    chain = " and ".join(repr(name) for name in dict.fromkeys(seen))
                    raise ConfigError(f"{locate(('search', 'space', start, 'when'))}: the conditions of {chain} wait for each other.")
                if other in spec.space and other not in seen:
                    seen.append(other)
                    waiting.append(other)


def _listed(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]
