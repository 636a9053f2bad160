"""The search section: what it means, and that everything wrong in it is said with its place before anything runs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PipelineError
from pipeline.study.resolve import Resolver
from pipeline.study.search import SearchSpec
from pipeline.study.search_points import resolve_corners, resolve_point

if TYPE_CHECKING:
    from pipeline.study.config import StudyFile
    from pipeline.study.resolve import Vocabulary

    from .conftest import Declare, Expand, Write

SPACE: dict[str, Any] = {
    "optimizer.lr": {"float": [0.01, 0.3], "log": True},
    "loss.cam.weight": {"float": [0.1, 5], "log": True, "when": {"arm": "cam"}},
    "loss.cam.start_epoch": {"int": [0, 4], "when": {"arm": "cam"}},
    "optimizer.name": {"choice": ["sgd", "adamw"]},
    "optimizer.momentum": {"float": [0.5, 0.9], "step": 0.1, "when": {"optimizer.name": "sgd"}},
}
WITH_BACKBONE = {"dataset": "digits", "backbone": "resnet8", "epochs": 8, "loss": {"ce": {}}}


@pytest.fixture(name="searching")
def searching_fixture(declare: Declare) -> Any:
    """Declare a study with a search; keywords replace parts of the section."""

    def searching(space: dict[str, Any] | None = None, **changes: Any) -> StudyFile:
        study = changes.pop("study", {})
        return declare(**({"defaults": WITH_BACKBONE} | study), search={"space": space or SPACE} | changes)

    return searching


def spec_of(file: StudyFile) -> SearchSpec:
    assert file.study.search is not None
    return file.study.search


def test_conditions_decide_what_is_searched(searching: Any) -> None:
    """A field on an arm is searched there only, one on a choice only with that choice; corners are all ends of what is active."""
    spec = spec_of(searching())
    plain = list(spec.corners("ce"))
    assert {tuple(sorted(point)) for point in plain} == {
        ("optimizer.lr", "optimizer.momentum", "optimizer.name"),
        ("optimizer.lr", "optimizer.name"),
    }
    assert len(plain) == 2 * (2 + 1)
    assert len(list(spec.corners("cam"))) == 2 * 2 * 2 * (2 + 1)
    order = spec.ordered()
    assert order.index("optimizer.name") < order.index("optimizer.momentum")


def test_a_point_is_the_cell_of_a_table_with_the_same_fields(searching: Any, vocabulary: Vocabulary, expand_file: Expand) -> None:
    """Defaults, arm and searched fields give the configuration that a table gives whose cell has these levels."""
    study = {"rows": {"optimizer.lr": [0.02], "loss.cam.weight": [0.5]}, "columns": {"arm": ["cam"]}}
    file = searching(study=study)
    point = resolve_point(Resolver(file, vocabulary), spec_of(file), "cam", {"optimizer.lr": 0.02, "loss.cam.weight": 0.5})
    (cell,) = expand_file(file)[0].cells
    assert point == {**cell.config, "backbone": point["backbone"]}
    assert point["loss"]["cam"] == {"weight": 0.5, "start_epoch": 2, "ramp_epochs": 0, "distance": "l1", "power": 1.0}


def test_set_and_epochs_hold_throughout(searching: Any, vocabulary: Vocabulary) -> None:
    """`set` differs from the defaults, and `epochs` wins over those of an arm."""
    file = searching(set={"batch_size": 16}, epochs=6, study={"arms": {"ce": {}, "cam": {"epochs": 12, "loss": {"cam": {}}}}})
    corners = resolve_corners(Resolver(file, vocabulary), spec_of(file))
    assert {config["epochs"] for configs in corners.values() for config in configs} == {6}
    assert {config["batch_size"] for configs in corners.values() for config in configs} == {16}


def test_a_space_with_very_many_corners_is_sampled(searching: Any) -> None:
    """Beyond the limit corners are drawn, the same ones each time, and each end of each range is among them."""
    space = {f"schedule.f{n}": {"float": [0, 1]} for n in range(20)}
    spec = spec_of(searching(space))
    drawn = spec.some_corners("ce", 100)
    assert len(drawn) == 100
    assert drawn == spec.some_corners("ce", 100)
    assert {(name, value) for point in drawn for name, value in point.items()} == {(name, end) for name in space for end in (0.0, 1.0)}


LR = {"float": [0.01, 0.3]}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"optimizer.lrr": LR}, ("search.space.optimizer.lrr", "unknown key 'lrr'", "'lr'")),
        ({"optimizer.lr": {"float": [0.3, 0.01]}}, ("low < high", "[0.3, 0.01]")),
        ({"optimizer.lr": {"float": [0.1, 0.1]}}, ("low < high",)),
        ({"optimizer.lr": {"float": [0.0, 0.1], "log": True}}, ("above 0", "log scale")),
        ({"optimizer.lr": {"float": [0.01]}}, ("search.space.optimizer.lr.float",)),
        ({"optimizer.lr": {"float": ["a", 1]}}, ("search.space.optimizer.lr.float[0]", "got 'a'")),
        ({"optimizer.lr": {"float": [0.1, 0.3], "step": 0.07}}, ("step must divide",)),
        ({"optimizer.lr": {"float": [0.1, 0.3], "step": 0.1, "log": True}}, ("exclude each other",)),
        ({"optimizer.lr": {"flot": [0.1, 0.3]}}, ("unknown key 'flot'", "'float'")),
        ({"optimizer.lr": {"float": [0.1, 0.3], "choice": [1]}}, ("exactly one of float, int and choice", "float and choice")),
        ({"optimizer.lr": {}}, ("none of them",)),
        ({"batch_size": {"choice": []}}, ("choice is empty",)),
        ({"batch_size": {"choice": [32, 32]}}, ("twice",)),
        ({"batch_size": {"int": [16, 64], "step": 1.5}}, ("whole number",)),
        ({"batch_size": {"int": [1.5, 64]}}, ("search.space.batch_size.int[0]",)),
        ({"epochs": {"int": [1, 4]}}, ("search.space.epochs", "budget of a point")),
        ({"dataset.canvas": {"int": [16, 24]}}, ("search.space.dataset.canvas", "cannot be compared")),
        ({"arm": {"choice": ["ce", "cam"]}}, ("search.space.arm", "searched by itself")),
        ({"optimizer.lr": {**LR, "when": {"arm": "can"}}}, ("search.space.optimizer.lr.when.arm", "Did you mean 'cam'?")),
        ({"optimizer.lr": {**LR, "when": {"batch_sise": 32}}, "batch_size": {"choice": [32]}}, ("Did you mean 'batch_size'?",)),
        ({"optimizer.lr": {**LR, "when": {"batch_size": 33}}, "batch_size": {"choice": [32]}}, ("is never 33",)),
        ({"optimizer.lr": {**LR, "when": {"batch_size": 32}}, "batch_size": {"int": [16, 32]}}, ("on a choice",)),
        (
            {
                "batch_size": {"choice": [16, 32], "when": {"optimizer.name": "sgd"}},
                "optimizer.name": {"choice": ["sgd"], "when": {"batch_size": 16}},
            },
            ("wait for each other",),
        ),
        ({"optimizer.lr": {**LR, "when": {"optimizer.lr": 0.1}}}, ("search.space.optimizer.lr.when",)),
        ({"loss.cam.weight": {"float": [0.1, 1]}}, ("search.space.loss.cam.weight", "would add 'cam' to the arm 'ce'", "when: {arm: cam}")),
        ({"regularizers.cutout.size": {"int": [2, 4]}}, ("would add 'cutout'",)),
        ({"loss.cam.start_epoch": {"int": [0, 8], "when": {"arm": "cam"}}, "optimizer.lr": LR}, ("start_epoch", "8 epochs")),
        ({"optimizer.lr": {"float": [-0.1, 0.3]}}, ("search.space.optimizer.lr", "lr must be > 0")),
        ({"optimizer.name": {"choice": ["sgd", "adam"]}}, ("search.space.optimizer.name", "'adamw'")),
        ({"backbone": {"choice": ["resnet8", "resnet9"]}}, ("search.space.backbone", "'resnet8'")),
        ({"loss.cam.weight": {"float": [0.1, 1], "when": {"arm": "cam"}}}, ("no field is searched in arm 'ce'",)),
    ],
)
def test_wrong_spaces_are_refused(searching: Any, expand_file: Expand, space: dict[str, Any], words: tuple[str, ...]) -> None:
    """Each mistake in the space is named with its place in the file before anything runs."""
    with pytest.raises(ConfigError) as caught:
        expand_file(searching(space))
    for word in ("toy.yaml:", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"sampler": "tpee"}, ("search.sampler", "Did you mean 'tpe'?")),
        ({"pruner": "ahsa"}, ("search.pruner", "Did you mean 'asha'?")),
        ({"pruner": {"asha": {"grace": 2}}}, ("no option 'grace'", "grace_epochs")),
        ({"pruner": {"asha": {"reduction": 1}}}, ("reduction must be a whole number >= 2",)),
        ({"pruner": {"asha": {"grace_epochs": 8}}}, ("search.pruner", "grace_epochs is 8")),
        ({"trials": 0}, ("search.trials",)),
        ({"trails": 3}, ("unknown key 'trails'", "'trials'")),
        ({"metric": "acc_top"}, ("search.metric", "Did you mean")),
        ({"metric": "test/acc_top1"}, ("search.metric", "never reads the test split")),
        ({"metric": "nll"}, ("search.metric", "validation split")),
        ({"metric": "time_train_s"}, ("search.metric",)),
        ({"objectives": ["acc_top1", "time"]}, ("search.objectives[1]", "time_train_s")),
        ({"objectives": ["acc_top1", "acc_top1"]}, ("twice",)),
        ({"objectives": ["acc_top1", "time_train_s"], "pruner": "asha"}, ("pruner: none",)),
        ({"objectives": ["acc_top1", "time_train_s"], "metric": "loss"}, ("Leave `metric` out",)),
        ({"objectives": ["acc_top1", "time_train_s"], "sampler": "cmaes"}, ("one thing only",)),
        ({"sampler": "brute_force"}, ("search.space.optimizer.lr", "`step`")),
        ({"arms": ["ce", "camm"]}, ("search.arms[1]", "Did you mean 'cam'?")),
        ({"arms": []}, ("search.arms",)),
        ({"arms": ["ce", "ce"]}, ("twice",)),
        ({"set": {"optimizer.lr": 0.1}}, ("search.set.optimizer.lr", "is searched")),
        ({"set": {"epochs": 3}}, ("search.set.epochs", "search.epochs")),
        ({"set": {"optimizer.lrr": 0.1}}, ("search.set.optimizer.lrr", "'lr'")),
        ({"study": {"arms": {"ce": {}, "cam": {"epochs": 6, "loss": {"cam": {}}}}}}, ("budgets would differ", "search.epochs")),
        ({"study": {"arms": {}, "columns": {"backbone": ["resnet8"]}, "rows": {"batch_size": [8]}}}, ("declares none",)),
    ],
)
def test_wrong_sections_are_refused(searching: Any, expand_file: Expand, section: dict[str, Any], words: tuple[str, ...]) -> None:
    """Each other mistake in the section is named with its place in the file as well."""
    with pytest.raises(ConfigError) as caught:
        expand_file(searching(**section))
    for word in ("toy.yaml", *words):
        assert word in str(caught.value)


def test_tuned_tables_carry_winners_between_arm_and_levels(declare: Declare, vocabulary: Vocabulary) -> None:
    """A winner's field wins over the arm's own and loses to a level of the row; an untuned table knows nothing of it."""
    from pipeline.study.design import expand

    tables = {
        name: {"tuned": name == "tuned", "rows": {"loss.cam.weight": [3.0]}, "columns": {"arm": ["cam"]}} for name in ("tuned", "plain")
    }
    file = declare(defaults=WITH_BACKBONE, search={"space": SPACE}, tables=tables)
    tuned, plain = expand(file, vocabulary, {"cam": {"optimizer.lr": 0.07, "loss.cam.weight": 0.2, "loss.cam.start_epoch": 4}})
    assert tuned.cells[0].config["optimizer"]["lr"] == 0.07
    assert tuned.cells[0].config["loss"]["cam"]["weight"] == 3.0
    assert tuned.cells[0].config["loss"]["cam"]["start_epoch"] == 4
    assert plain.cells[0].config["optimizer"]["lr"] == 0.1
    assert plain.cells[0].config["loss"]["cam"]["start_epoch"] == 2
    assert tuned.fixed["arms"] == "each with the best point of its search"
    assert "arms" not in plain.fixed


@pytest.mark.parametrize(
    ("search", "columns", "words"),
    [
        (None, ["ce"], "no search"),
        ({"space": {"optimizer.lr": LR}, "arms": ["ce"]}, ["ce", "cam"], "searched arm 'cam'"),
    ],
)
def test_tuned_tables_without_winners_to_come_are_refused(
    declare: Declare, expand_file: Expand, search: Any, columns: list[str], words: str
) -> None:
    """`tuned` without a search, or with an arm that is not searched, is an error at the place of `tuned`."""
    tables = {"t": {"tuned": True, "rows": {"backbone": ["resnet8"]}, "columns": {"arm": columns}}}
    with pytest.raises(ConfigError, match=r"tables\.t\.tuned") as caught:
        expand_file(declare(tables=tables, **({"search": search, "defaults": WITH_BACKBONE} if search else {})))
    assert words in str(caught.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["ce", "cam", "arm", "optimizer.lr", "none", "", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["float", "int", "arm", "when", "x"]), inner, max_size=3),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_junk_anywhere_in_a_search(data: st.DataObject, write: Write, expand_file: Expand) -> None:
    """Any value in any one place of the section gives a study that expands, or an error that names the file."""
    study: dict[str, Any] = {
        "study": "toy",
        "defaults": WITH_BACKBONE,
        "arms": {"ce": {}, "cam": {"loss": {"cam": {}}}},
        "search": {"trials": 3, "metric": "acc_top1", "sampler": "tpe", "pruner": {"asha": {}}, "arms": ["ce", "cam"], "space": SPACE},
        "tables": {"t": {"tuned": True, "rows": {"backbone": ["resnet8"]}, "columns": {"arm": ["ce", "cam"]}}},
    }
    study = copy.deepcopy(study)
    place = data.draw(st.sampled_from(_places(study["search"])[1:]))
    holder: Any = study["search"]
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(JUNK)
    complaint = "toy.yaml"
    try:
        expand_file(write(yaml.safe_dump(study, sort_keys=False, allow_unicode=True)))
    except PipelineError as error:
        complaint = str(error)
    assert "toy.yaml" in complaint
