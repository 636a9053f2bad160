"""Identity of trials: what changes an id, and what must not."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.study.identity import canonical_json, digest, identity_parts, make_spec
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import TrialConfig

if TYPE_CHECKING:
    from .conftest import Declare, Expand

CONFIG: dict[str, Any] = TrialConfig(
    dataset={"name": "digits", "source": "digits", "canvas": 24},
    backbone={"name": "resnet8", "dropout": 0.0},
    loss={"cam": {"weight": 1.0, "start_epoch": 2, "distance": "l1"}, "ce": {"weight": 1.0, "start_epoch": 0}},
    regularizers=[{"name": "cutout", "size": 8}],
    grad_clip=1.0,
    ema=0.9,
).to_dict()


def _id(config: dict[str, Any] = CONFIG, seed: int = 0, data: str = "data", code: str = "code", upstream: tuple[str, ...] = ()) -> str:
    return make_spec(config, seed, data, code, upstream).trial_id


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, inner in enumerate(value) for leaf in _leaves(inner, (*path, index))]
    return [path]


def _changed(path: tuple[str | int, ...]) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    holder: Any = config
    for part in path[:-1]:
        holder = holder[part]
    old = holder[path[-1]]
    holder[path[-1]] = (not old) if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old}x"
    return config


SCIENCE = [path for path in _leaves(CONFIG) if path[0] != "dataset"]


def test_the_fields_are_all_there() -> None:
    """The list of fields that the next test walks covers every field of a trial configuration but its dataset."""
    assert {path[0] for path in SCIENCE} == {field.name for field in dataclasses.fields(TrialConfig)} - {"dataset"}


@pytest.mark.parametrize("path", SCIENCE, ids=lambda path: ".".join(map(str, path)))
def test_each_field_counts(path: tuple[str | int, ...]) -> None:
    """A change of any single scientific field is another trial."""
    assert _id(_changed(path)) != _id()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"data": "other"}, {"code": "other"}, {"upstream": ("teacher",)}])
def test_each_part_counts(changes: dict[str, Any]) -> None:
    """Seed, content of the data, code, and upstream trials are part of a trial."""
    assert _id(**changes) != _id()


def test_upstream_trials_are_ordered() -> None:
    """Two teachers in another order are another trial."""
    assert _id(upstream=("a", "b")) != _id(upstream=("b", "a"))


@pytest.mark.parametrize(
    "dataset", [{"name": "alias", "source": "digits", "canvas": 24}, {"name": "digits", "source": "parquet", "train": "/elsewhere"}]
)
def test_the_dataset_counts_by_content_only(dataset: dict[str, Any]) -> None:
    """Alias, source, path and options of a dataset do not count: its digest does."""
    assert _id(CONFIG | {"dataset": dataset}) == _id()


def _shuffled(value: Any, order: st.DrawFn) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key], order) for key in order(st.permutations(list(value)))}
    return [_shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(data=st.data())
def test_the_order_of_keys_does_not_count(data: st.DataObject) -> None:
    """Any order of the keys at any level gives the same id."""
    assert _id(_shuffled(CONFIG, data.draw)) == _id()


@given(seeds=st.sets(st.integers(0, 10**6), min_size=2, max_size=20))
def test_the_cell_ignores_the_seed(seeds: set[int]) -> None:
    """Repetitions share their cell and have an id each."""
    specs = [make_spec(CONFIG, seed, "data", "code") for seed in seeds]
    assert len({spec.cell_id for spec in specs}) == 1
    assert len({spec.trial_id for spec in specs}) == len(seeds)
    assert specs[0].cell_id not in {spec.trial_id for spec in specs}


def _ids(expand_file: Expand, file: Any) -> list[str]:
    return [_id(cell.config) for table in expand_file(file) for cell in table.cells]


def test_names_of_studies_tables_arms_and_labels_do_not_count(declare: Declare, expand_file: Expand) -> None:
    """The same cells under other names are the same trials."""
    columns = {"arm": ["ce", "cam"]}
    before = declare(columns=columns, rows={"backbone": ["resnet8", "vgg"]})
    ids = _ids(expand_file, before)
    arms = {"plain": before.study.arms["ce"], "ours": before.study.arms["cam"]}
    table = {"title": "Renamed", "rows": {"backbone": {"small": "resnet8", "old": "vgg"}}, "columns": {"arm": ["plain", "ours"]}}
    after = declare(study="other", description="words", arms=arms, tables={"renamed": table}, seeds=5, protocol={"selection": "best_val"})
    assert _ids(expand_file, after) == ids


def test_ways_to_write_a_number_do_not_count(declare: Declare, expand_file: Expand) -> None:
    """Levels 1, 1.0 and 1e0 of a float field are one trial; 3 is another."""
    levels = {"whole": 1, "float": 1.0, "exponent": 1e0, "other": 3}
    ids = _ids(expand_file, declare(rows={"loss.cam.weight": levels}, set={"backbone": "vgg"}))
    assert len(set(ids[:3])) == 1
    assert len(set(ids)) == 2


def test_a_default_written_out_does_not_count(declare: Declare, expand_file: Expand) -> None:
    """Stating a default value in a study file is the same trial as leaving it out."""
    plain = _ids(expand_file, declare())
    defaults = {"dataset": {"name": "digits", "canvas": 24}, "epochs": 8, "batch_size": 128, "optimizer": {"lr": 0.1}, "regularizers": []}
    assert _ids(expand_file, declare(defaults=defaults)) == plain


def test_weight_zero_is_the_trial_of_plain_cross_entropy(declare: Declare, expand_file: Expand) -> None:
    """`loss.cam.weight: 0` has the id of the arm `ce`, so it is not trained twice."""
    (plain,) = _ids(expand_file, declare())
    zero, one = _ids(expand_file, declare(rows={"loss.cam.weight": [0, 1]}, set={"backbone": "resnet8", "loss.cam.start_epoch": 3}))
    assert (zero == plain, one == plain) == (True, False)


def test_canonical_json() -> None:
    """One text for one value: sorted keys, no spaces, letters as they are, and no NaN."""
    assert canonical_json({"b": 1, "a": ["é", None, 0.1]}) == '{"a":["é",null,0.1],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_digest_is_fixed() -> None:
    """Ids do not depend on the process or the version: this one was computed once, and a stored trial must be found again."""
    assert digest({"a": 1}) == "015abd7f5cc57a2d"
    assert list(identity_parts(CONFIG, "d", "c")) == ["version", "config", "data", "code", "upstream"]


def test_a_spec_survives_json() -> None:
    """A specification goes through JSON to a worker and comes back equal, settings and all."""
    spec = make_spec(CONFIG, 3, "data", "code", ("teacher",))
    back = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert back.settings == spec.settings
    assert back.settings.optimizer.lr == 0.1
    again = make_spec(back.settings.to_dict(), back.seed, back.data_digest, back.code_key, back.upstream)
    assert again.trial_id == spec.trial_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"batch_size": 1}, "batch_size must be >= 2"),
        ({"grad_clip": 0.0}, "grad_clip must be > 0 or null"),
        ({"ema": 1.0}, "ema must be in"),
        ({"optimizer": {"lr": 0.0}}, "lr must be > 0"),
        ({"optimizer": {"weight_decay": -1.0}}, "weight_decay must be >= 0"),
        ({"optimizer": {"beta1": 1.0}}, "beta1 must be in"),
        ({"schedule": {"gamma": 0.0}}, "gamma must be in"),
        ({"schedule": {"warmup_epochs": 300.0}}, "must not exceed epochs"),
        ({"augment": {"crop_padding": -1}}, "crop_padding must be >= 0"),
    ],
)
def test_a_configuration_checks_itself_without_pydantic(changes: dict[str, Any], message: str) -> None:
    """A machine that only runs trials refuses wrong values too."""
    with pytest.raises(ValueError, match=message):
        TrialConfig.from_dict({"dataset": {"name": "d"}, "backbone": {"name": "b"}} | changes)
