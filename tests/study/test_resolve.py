"""From layers to one canonical configuration: what is laid over what, short forms, and errors with their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import ConfigError
from pipeline.study.identity import canonical_json
from pipeline.study.resolve import merge, nested
from pipeline.study.trial_config import TrialConfig

if TYPE_CHECKING:
    from pipeline.study.config import StudyFile

    from .conftest import Declare, Expand, Write


@pytest.fixture(name="configs")
def configs_fixture(declare: Declare, expand_file: Expand) -> Any:
    """Resolved configurations of the cells of a study, in order."""

    def configs(**changes: Any) -> list[dict[str, Any]]:
        return [cell.config for cell in expand_file(declare(**changes))[0].cells]

    return configs


def test_every_default_is_filled_in(configs: Any) -> None:
    """A resolved configuration states every field, every option and every common setting of a loss term."""
    (config,) = configs()
    assert config["dataset"] == {"name": "digits", "source": "digits", "canvas": 24, "noise": 0.5}
    assert config["backbone"] == {"name": "resnet8", "dropout": 0.0}
    assert config["loss"] == {"ce": {"weight": 1.0, "start_epoch": 0, "ramp_epochs": 0}}
    assert config["regularizers"] == []
    assert TrialConfig.from_dict(config).to_dict() == config


def test_layers(configs: Any) -> None:
    """Defaults are overlaid by the table's settings, these by the arm, and that by the levels."""
    defaults = {"dataset": "digits", "backbone": "vgg", "epochs": 1, "batch_size": 10, "grad_clip": 1.0, "ema": 0.5}
    (config,) = configs(
        defaults=defaults,
        set={"batch_size": 20, "grad_clip": 2.0, "ema": 0.6},
        arms={"a": {"grad_clip": 3.0, "ema": 0.7}},
        rows={"arm": ["a"]},
        columns={"ema": [0.8]},
    )
    assert (config["epochs"], config["batch_size"], config["grad_clip"], config["ema"]) == (1, 20, 3.0, 0.8)


def test_parts_of_a_mapping_are_merged(configs: Any) -> None:
    """Two layers that set different fields of the optimizer both act."""
    defaults = {"dataset": "digits", "epochs": 8, "optimizer": {"lr": 0.3, "momentum": 0.5}}
    (config,) = configs(defaults=defaults, set={"optimizer.weight_decay": 0}, arms={"ce": {"optimizer": {"momentum": 0.8}}})
    assert {key: config["optimizer"][key] for key in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.3,
        "momentum": 0.8,
        "weight_decay": 0.0,
    }


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"backbone": "vgg"}, {"backbone": {"name": "vgg"}}),
        ({"dataset": "digits"}, {"dataset": {"name": "digits", "source": "digits"}}),
        ({"loss": "cam"}, {"loss": {"cam": {}}}),
        ({}, {"loss": "ce"}),
        ({"loss": {"ce": {}}}, {"loss": {"ce": {"weight": 1, "start_epoch": 0}}}),
        ({"regularizers": "cutout"}, {"regularizers": {"cutout": {"size": 8}}}),
        ({"regularizers": "cutout"}, {"regularizers": {"cutout": None}}),
        ({"regularizers": ["cutout", "mixup"]}, {"regularizers": [{"cutout": {"size": 8}}, {"mixup": {"alpha": 1}}]}),
        ({"regularizers": "none"}, {"regularizers": []}),
        ({"regularizers": None}, {"regularizers": ["none"]}),
        ({"optimizer": {"lr": 1}}, {"optimizer": {"lr": 1.0, "name": "sgd"}}),
        ({"loss": {"cam": {"power": 2}, "ce": {}}}, {"loss": {"ce": {}, "cam": {"weight": 1.0, "power": 2.0}}}),
    ],
)
def test_short_and_long_forms_are_one_trial(configs: Any, short: dict[str, Any], long: dict[str, Any]) -> None:
    """Two ways to write the same thing resolve to the same canonical text."""
    base = {"dataset": "digits", "backbone": "resnet8", "epochs": 8}
    texts = [canonical_json(configs(defaults=base | way, arms={"ce": {}}, rows={"epochs": [8]})[0]) for way in (short, long)]
    assert texts[0] == texts[1]


def test_regularizers_of_a_level_replace(configs: Any) -> None:
    """A level of `regularizers` takes the place of the defaults' regularizers, in any form."""
    levels = ["none", "mixup", ["mixup", "cutout"], {"mixup": {"alpha": 0.2}}]
    defaults = {"dataset": "digits", "epochs": 8, "regularizers": ["cutout"]}
    resolved = configs(defaults=defaults, rows={"regularizers": levels}, set={"backbone": "vgg"})
    names = [[component["name"] for component in config["regularizers"]] for config in resolved]
    assert names == [[], ["mixup"], ["mixup", "cutout"], ["mixup"]]


def test_regularizers_of_an_arm_merge_or_replace(configs: Any) -> None:
    """A mapping in an arm adds to the defaults' regularizers, a list takes their place."""
    defaults = {"dataset": "digits", "epochs": 8, "regularizers": {"cutout": {"size": 4}}}
    arms = {
        "adds": {"regularizers": {"mixup": {}}},
        "replaces": {"regularizers": ["mixup"]},
        "changes": {"regularizers": {"cutout": {"size": 5}}},
    }
    resolved = [config["regularizers"] for config in configs(defaults=defaults, arms=arms, columns={"arm": list(arms)})]
    cutout, mixup = {"name": "cutout", "size": 4}, {"name": "mixup", "alpha": 1.0}
    assert resolved == [[cutout, mixup], [mixup], [{"name": "cutout", "size": 5}]]


def test_order_of_regularizers_counts(configs: Any) -> None:
    """Regularizers act in the order they are listed in, so another order is another trial."""
    first, second = configs(rows={"regularizers": [["cutout", "mixup"], ["mixup", "cutout"]]}, set={"backbone": "vgg"})
    assert canonical_json(first) != canonical_json(second)


def test_null_takes_a_loss_term_away(configs: Any) -> None:
    """`ce: null` in an arm removes the term that the defaults have."""
    arms = {"cam_only": {"loss": {"ce": None, "cam": {}}}}
    (config,) = configs(arms=arms, columns={"arm": ["cam_only"]})
    assert list(config["loss"]) == ["cam"]


def test_cross_entropy_is_the_default_that_arms_add_to(configs: Any) -> None:
    """Without `loss` in the defaults an arm's term joins cross-entropy; a loss that the defaults name stands alone."""
    base = {"dataset": "digits", "epochs": 8}
    assert list(configs(defaults=base, columns={"arm": ["cam"]})[0]["loss"]) == ["cam", "ce"]
    assert list(configs(defaults=base | {"loss": "cam"}, arms={"ce": {}})[0]["loss"]) == ["cam"]


def test_weight_zero_is_no_term(configs: Any) -> None:
    """`loss.cam.weight: 0` resolves to plain ce, whatever the other options of the term."""
    (plain,) = configs()
    for extra in ({}, {"loss.cam.start_epoch": 3}, {"loss.cam.distance": "l2"}):
        (zero,) = configs(rows={"loss.cam.weight": [0]}, set={"backbone": "resnet8", **extra})
        assert zero == plain


def test_terms_have_one_order(configs: Any) -> None:
    """A sum of floats depends on its order, so terms are ordered by name and not as they were written."""
    base = {"dataset": "digits", "epochs": 8}
    written = ({"ce": {}, "cam": {}}, {"cam": {}, "ce": {}})
    orders = [list(configs(defaults=base | {"loss": loss})[0]["loss"]) for loss in written]
    assert orders == [["cam", "ce"], ["cam", "ce"]]


def test_own_dataset(configs: Any) -> None:
    """A declared dataset is its source with its options; a cell may change one of them, and the alias is only a name."""
    datasets = {"small": {"source": "digits", "canvas": 16}}
    first, second = configs(datasets=datasets, rows={"dataset": ["small", {"name": "small", "noise": 1}]}, set={"backbone": "vgg"})
    assert first["dataset"] == {"name": "small", "source": "digits", "canvas": 16, "noise": 0.5}
    assert second["dataset"] == {"name": "small", "source": "digits", "canvas": 16, "noise": 1.0}


def test_another_name_drops_the_options_that_came_with_the_old_one(configs: Any) -> None:
    """A backbone that a level names anew does not inherit options of the default backbone; the same name keeps them."""
    defaults = {"dataset": "digits", "epochs": 8, "backbone": {"name": "resnet8", "dropout": 0.2}}
    same, other, without = configs(defaults=defaults, rows={"backbone": ["resnet8", "resnet20", "vgg"]})
    assert (same["backbone"]["dropout"], other["backbone"]["dropout"], without["backbone"]) == (0.2, 0.0, {"name": "vgg"})


@pytest.mark.parametrize(
    "changes",
    [
        {"set": {"backbone.dropout": 0.3}, "rows": {"backbone": ["resnet8", "resnet20"]}},
        {"rows": {"backbone.dropout": [0.3], "backbone": ["resnet8", "resnet20"]}},
        {"rows": {"backbone": ["resnet8", "resnet20"], "backbone.dropout": [0.3]}},
        {"arms": {"ce": {"backbone": {"dropout": 0.3}}}, "rows": {"backbone": ["resnet8", "resnet20"]}},
        {"defaults": {"dataset": "digits", "epochs": 8, "backbone": {"dropout": 0.3}}, "rows": {"backbone": ["resnet8", "resnet20"]}},
    ],
)
def test_an_option_without_a_name_is_meant_for_every_name(configs: Any, changes: dict[str, Any]) -> None:
    """`backbone.dropout` acts on whatever backbone a level names; no level may silently undo it."""
    assert [config["backbone"] for config in configs(**changes)] == [{"name": name, "dropout": 0.3} for name in ("resnet8", "resnet20")]


def test_numbers_take_the_type_of_their_field(configs: Any) -> None:
    """1 and 1.0 are the same value of a float field, an option and a weight; a whole number stays one."""
    texts = set()
    for one, two in ((1, 2), (1.0, 2.0)):
        (config,) = configs(
            defaults={"dataset": {"name": "digits", "noise": one}, "epochs": 8, "optimizer": {"lr": one}, "grad_clip": two},
            arms={"ce": {"loss": {"cam": {"weight": two, "power": two}}}},
            set={"regularizers": {"mixup": {"alpha": two}}},
        )
        texts.add(canonical_json(config))
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"epoch": 3}}, r"tables\.t\.set\.epoch: unknown key 'epoch'\. Did you mean 'epochs'\? Known: augment, backbone"),
        ({"set": {"optimizer.lrate": 3}}, r"tables\.t\.set\.optimizer\.lrate: unknown key 'lrate'\. .*Known: .*lr"),
        ({"set": {"optimizer": "sgd"}}, r"tables\.t\.set\.optimizer: expected a mapping of keys to values, got 'sgd'"),
        ({"set": {"optimizer.name": "sgdd"}}, r"set\.optimizer\.name: got 'sgdd'\. Did you mean 'sgd'\? Allowed: 'sgd' or 'adamw'"),
        ({"set": {"optimizer.lr": 0}}, r"set\.optimizer\.lr: lr must be > 0, got 0"),
        ({"set": {"optimizer.lr": float("nan")}}, r"set\.optimizer\.lr: input should be a finite number, got nan"),
        ({"set": {"optimizer.lr": float("inf")}}, r"set\.optimizer\.lr: .*finite number, got inf"),
        ({"set": {"optimizer.lr": True}}, r"set\.optimizer\.lr: .*valid number, got True"),
        ({"rows": {"epochs": [2, -1]}, "set": {"backbone": "vgg"}}, r"rows\.epochs\[1\]: epochs must be >= 1, got -1"),
        ({"set": {"epochs": "8"}}, r"set\.epochs: input should be a valid integer, got '8'"),
        ({"set": {"epochs": 8.5}}, r"set\.epochs: .*got 8\.5"),
        ({"set": {"batch_size": 1}}, r"set\.batch_size: batch_size must be >= 2 \(batch norm needs two images\), got 1"),
        (
            {"set": {"schedule.warmup_epochs": 9}},
            r"set\.schedule\.warmup_epochs: schedule\.warmup_epochs \(9\.0\) must not exceed epochs \(8\)",
        ),
        ({"set": {"schedule.milestones": [0.8, 0.5]}}, r"set\.schedule\.milestones: milestones must rise within \(0, 1\)"),
        ({"set": {"optimizer.momentum": 0}}, r"set\.optimizer\.momentum: nesterov needs momentum > 0; set nesterov: false"),
        ({"set": {"ema": 1}}, r"set\.ema: ema must be in \(0, 1\) or null, got 1\.0"),
        ({"set": {"precision": "fp16"}}, r"set\.precision: got 'fp16'\..*Allowed: 'auto', 'float32' or 'bfloat16'"),
        (
            {"rows": {"backbone": ["resnet9"]}},
            r"Unknown backbone 'resnet9' in .*rows\.backbone\[0\]\. Did you mean 'resnet8'\? Known: resnet20, resnet8, vgg",
        ),
        (
            {"rows": {"backbone": [{"name": "vgg", "dropout": 0.1}]}},
            r"rows\.backbone\[0\]\.dropout: backbone 'vgg' has no option 'dropout'\. Known: none",
        ),
        ({"rows": {"backbone": [{"name": "resnet8", "drop": 0.1}]}}, r"backbone 'resnet8' has no option 'drop'\. Did you mean 'dropout'\?"),
        ({"rows": {"backbone": [{"name": "resnet8", "num_classes": 3}]}}, r"has no option 'num_classes'; it is filled in by the pipeline"),
        ({"rows": {"backbone": [{"dropout": 0.1}]}}, r"rows\.backbone\[0\]: 'name' is missing\. Known: resnet20"),
        ({"rows": {"backbone": [3]}}, r"rows\.backbone\[0\]: expected a name or a mapping with `name`, got 3"),
        ({"rows": {"backbone": [{"name": 3}]}}, r"rows\.backbone\[0\]\.name: a name is a word, got 3\. Known: resnet20"),
        (
            {"rows": {"backbone.dropout": ["much"]}, "set": {"backbone": "resnet8"}},
            r"rows\.backbone\.dropout\[0\]: .*valid number, got 'much'",
        ),
        ({"set": {"dataset": "digit"}}, r"Unknown dataset 'digit' in .*set\.dataset\. Did you mean 'digits'\?"),
        (
            {"set": {"dataset": {"canvas": 3, "source": "digits"}}, "defaults": {}},
            r"set\.dataset: 'name' is missing\. Known: digits, folder",
        ),
        ({"set": {"dataset": "folder"}}, r"set\.dataset\.root: 'root' is missing; it has no default"),
        ({"set": {"dataset.canvas": "wide"}}, r"set\.dataset\.canvas: .*valid integer, got 'wide'"),
        ({"set": {"dataset": {"name": "digits", "raw_root": "x"}}}, r"dataset 'digits' has no option 'raw_root'; it is filled in"),
        ({"set": {"dataset": {"name": "mine", "source": []}}}, r"Unknown dataset \[\] in .*set\.dataset"),
        ({"set": {"dataset": {"name": "mine", "source": "digit"}}}, r"Unknown dataset 'digit' in .*set\.dataset.*Did you mean 'digits'"),
        ({"datasets": {"mine": {"canvas": 3}}, "set": {"dataset": "mine"}}, r"datasets\.mine: 'source' is missing\. Known: digits, folder"),
        ({"datasets": {"mine": {"source": "digit"}}, "set": {"dataset": "mine"}}, r"Unknown dataset 'digit' in .*datasets\.mine\.source"),
        (
            {"datasets": {"mine": {"source": "digits", "canvs": 3}}},
            r"datasets\.mine\.canvs: dataset 'digits' has no option 'canvs'\. Did you mean 'canvas'\?",
        ),
        (
            {"datasets": {"mine": {"source": "digits"}}, "set": {"dataset": "mien"}},
            r"set\.dataset: unknown dataset 'mien'\. Did you mean 'mine'\?",
        ),
        ({"defaults": {"backbone": "vgg"}}, r"defaults: 'dataset' is set neither in the defaults nor by the table\. Add `dataset: <name>`"),
        ({"rows": {"epochs": [3]}}, r"'backbone' is set neither in the defaults nor by the table"),
        ({"set": {"loss": 3}}, r"set\.loss: expected a mapping of loss name to options.*got 3"),
        ({"set": {"loss": {"ce": 1.0}}}, r"set\.loss\.ce: expected a mapping of options such as \{weight: 1\.0\}, got 1\.0"),
        ({"set": {"loss.cma.weight": 1}}, r"Unknown loss 'cma' in .*set\.loss\.cma.*Did you mean 'cam'\?"),
        (
            {"set": {"loss.cam.wieght": 1}},
            r"loss 'cam' has no option 'wieght'\. Did you mean 'weight'\? Known: distance, power, ramp_epochs, start_epoch, weight",
        ),
        ({"set": {"loss.cam.weight": -1}}, r"set\.loss\.cam\.weight: weight must be a number >= 0, got -1"),
        ({"set": {"loss.cam.weight": "1"}}, r"weight must be a number >= 0, got '1'"),
        ({"set": {"loss.cam.weight": float("nan")}}, r"weight must be a number >= 0, got nan"),
        ({"set": {"loss.cam.weight": float("inf")}}, r"weight must be a number >= 0, got inf"),
        ({"set": {"loss.cam.start_epoch": 1.5}}, r"start_epoch must be a whole number >= 0, got 1\.5"),
        ({"set": {"loss.cam.start_epoch": 8}}, r"set\.loss\.cam\.start_epoch: 'cam' starts at epoch 8 .*but the trial has 8 epochs"),
        ({"set": {"loss.cam.distance": "l3"}}, r"set\.loss\.cam\.distance: got 'l3'\..*Allowed: 'l1' or 'l2'"),
        ({"set": {"loss.ce.start_epoch": 1}}, r"set\.loss\.ce\.start_epoch: no loss term is active at epoch 0"),
        ({"set": {"loss.ce.weight": 0}}, r"set\.loss\.ce\.weight: no loss term is active at epoch 0"),
        ({"arms": {"ce": {"loss": {"ce": None}}}}, r"loss: no loss term is active at epoch 0"),
        ({"set": {"regularizers": ["cutot"]}}, r"Unknown regularizer 'cutot' in .*set\.regularizers.*Did you mean 'cutout'\?"),
        ({"set": {"regularizers": ["cutout", "cutout"]}}, r"set\.regularizers: 'cutout' stands twice"),
        ({"set": {"regularizers": [{"cutout": 3}]}}, r"set\.regularizers: a regularizer is a name or"),
        ({"set": {"regularizers": {"cutout": 3}}}, r"set\.regularizers\.cutout: expected a mapping of options of 'cutout'.*got 3"),
        ({"set": {"regularizers": 3}}, r"set\.regularizers: expected a name, a list or a mapping of regularizers, got 3"),
        ({"set": {"regularizers": {"cutout": {"name": "mixup"}}}}, r"regularizer 'cutout' has no option 'name'"),
        ({"set": {"regularizers.cutout.size": 0}}, r"regularizer 'cutout': size must be >= 1 pixel, got 0"),
        ({"set": {"regularizers.cutout.size": 2.5}}, r"regularizers\.cutout\.size: .*got 2\.5"),
    ],
)
def test_located_errors(declare: Declare, expand_file: Expand, changes: dict[str, Any], message: str) -> None:
    """Every slip in a field is named with its place, what was given, and what is allowed or nearest."""
    file = declare(**changes)
    with pytest.raises(ConfigError, match=message) as caught:
        expand_file(file)
    assert f"{file.path}:" in str(caught.value)


def _where(file: StudyFile, expand_file: Expand) -> str:
    with pytest.raises(ConfigError) as caught:
        expand_file(file)
    return str(caught.value).split("toy.yaml:", 1)[1].split(" ")[0]


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("defaults: {dataset: digits, backbone: vgg, optimizer: {lr: -1}}", "2"),
        ("arms: {a: {optimizer: {lr: -1}}}", "3"),
        ("set: {optimizer.lr: -1}", "6"),
        ("rows: {optimizer.lr: [-1]}", "7"),
    ],
)
def test_the_line_is_that_of_the_layer_at_fault(write: Write, expand_file: Expand, layer: str, line: str) -> None:
    """The same wrong value is reported in the line of the layer that sets it last."""
    lines = [
        "study: toy",
        "defaults: {dataset: digits, backbone: vgg}",
        "arms: {a: {}}",
        "tables:",
        "  t:",
        "    set: {epochs: 3}",
        "    rows: {batch_size: [8]}",
        "    columns: {arm: [a]}",
    ]
    key = layer.split(":", 1)[0]
    text = "\n".join(old if not old.strip().startswith(f"{key}:") else old[: len(old) - len(old.lstrip())] + layer for old in lines)
    assert _where(write(text), expand_file).startswith(f"{line}:")


def test_merge_and_nested() -> None:
    """Mappings merge in depth, anything else is replaced, and the inputs stay as they were."""
    base = {"a": {"x": 1, "y": [1]}, "b": 1}
    assert merge(base, {"a": {"y": [2]}, "c": {"z": 3}}) == {"a": {"x": 1, "y": [2]}, "b": 1, "c": {"z": 3}}
    assert base == {"a": {"x": 1, "y": [1]}, "b": 1}
    assert nested("a.b.c", 3) == {"a": {"b": {"c": 3}}}
