"""The typed study file and params.yaml: each error names file, line and field, what was given, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.study.config import Study, load_study
from pipeline.study.params import Params, load_params
from pipeline.study.validate import schema_of, validate

if TYPE_CHECKING:
    from .conftest import Declare, Write

GOOD = """\
study: toy
seeds: 2
defaults:
  dataset: digits
tables:
  t:
    rows: {backbone: [resnet8, vgg]}
    columns: {metric: [acc_top1]}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 2", "seed: 2", r"toy\.yaml:2: seed: unknown key 'seed'\. Did you mean 'seeds'\? Known: arms, datasets"),
        ("    rows:", "    row:", r"toy\.yaml:7: tables\.t\.row: unknown key 'row'\. Did you mean 'rows'\?"),
        ("seeds: 2", "seeds: 0", r"toy\.yaml:2: seeds: .*number of repetitions >= 1.*got 0"),
        ("seeds: 2", "seeds: -1", r"seeds: .*got -1"),
        ("seeds: 2", "seeds: true", r"seeds: .*got True"),
        ("seeds: 2", "seeds: 1.5", r"seeds: .*got 1\.5"),
        ("seeds: 2", "seeds: []", r"seeds: .*got \[\]"),
        ("seeds: 2", "seeds: [0, 0]", r"an index stands twice"),
        ("seeds: 2", "seeds: two", r"seeds: .*got 'two'"),
        ("[resnet8, vgg]", "[]", r"toy\.yaml:7: tables\.t\.rows\.backbone: the list of levels is empty"),
        ("[resnet8, vgg]", "[vgg, vgg]", r"tables\.t\.rows\.backbone: the level 'vgg' stands twice in \[vgg, vgg\]"),
        ("{backbone: [resnet8, vgg]}", "{optimizer.lr: [1, 1.0]}", r"the level '1\.0' stands twice"),
        ("{backbone: [resnet8, vgg]}", "{regularizers: [none, null]}", r"the level 'none' stands twice"),
        ("[resnet8, vgg]", "resnet8", r"levels are a list, or a mapping of label to level, got 'resnet8'"),
        ("{backbone: [resnet8, vgg]}", "{}", r"toy\.yaml:7: tables\.t\.rows: needs at least one field"),
        ("{backbone: [resnet8, vgg]}", "[backbone]", r"tables\.t\.rows: expected a mapping of keys to values, got \['backbone'\]"),
        ("study: toy", "study: to y", r"toy\.yaml:1: study: .*pattern.*got 'to y'"),
        ("study: toy", "study: 5", r"toy\.yaml:1: study: input should be a valid string, got 5"),
        ("study: toy", "", r"toy\.yaml: study: 'study' is missing"),
        ("defaults:\n  dataset: digits\n", "", r"toy\.yaml: defaults: 'defaults' is missing"),
        ("  dataset: digits", "", r"toy\.yaml:3: defaults: expected a mapping of keys to values, got None"),
        (
            "seeds: 2",
            "protocol: {selection: best}",
            r"toy\.yaml:2: protocol\.selection: got 'best'\.( Did you mean .*\?)? Allowed: 'last', 'best_val' or 'best_test'",
        ),
        ("seeds: 2", "protocol: {selecton: last}", r"protocol\.selecton: unknown key 'selecton'\. Did you mean 'selection'\?"),
        ("seeds: 2", "arms: [ce]", r"toy\.yaml:2: arms: expected a mapping of keys to values, got \[\'ce\'\]"),
        ("seeds: 2", "arms: {ce: 3}", r"toy\.yaml:2: arms\.ce: expected a mapping of keys to values, got 3"),
        ("seeds: 2", "datasets: {mine: digits}", r"toy\.yaml:2: datasets\.mine: expected a mapping of keys to values, got 'digits'"),
    ],
)
def test_located_errors(write: Write, old: str, new: str, message: str) -> None:
    """One slip in a sound study file is one error with its place and what is allowed."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        write(GOOD.replace(old, new, 1))


def test_good_file(write: Write) -> None:
    """The file that the slips were made in is sound by itself."""
    study = write(GOOD).study
    assert study.seed_indices() == [0, 1]
    assert study.protocol.selection == "last"


def test_no_table(write: Write) -> None:
    """A study without a table declares nothing."""
    with pytest.raises(ConfigError, match=r"tables: .*at least 1"):
        write("study: toy\ndefaults: {}\ntables: {}\n")


def test_every_problem_is_named(write: Write) -> None:
    """Two slips give two lines."""
    with pytest.raises(ConfigError) as caught:
        write(GOOD.replace("seeds: 2", "seeds: 0").replace("columns:", "colums:"))
    text = str(caught.value)
    assert "seeds:" in text
    assert "unknown key 'colums'" in text
    assert "'columns' is missing" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(("seeds", "override", "indices"), [(3, None, [0, 1, 2]), ([4, 2], None, [2, 4]), (3, 1, [0]), (3, [7], [7])])
def test_seed_indices(declare: Declare, seeds: Any, override: Any, indices: list[int]) -> None:
    """A number counts from 0, a list is taken as it is, and params.yaml overrides both."""
    assert declare(seeds=seeds).study.seed_indices(override) == indices


def test_load_study_by_name_and_path(tmp_path: Path) -> None:
    """A study is found by name or by path; unknown names get the nearest, and file and study share one name."""
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "toy.yaml").write_text(GOOD)
    assert load_study("toy", folder).study == load_study(str(folder / "toy.yaml")).study
    with pytest.raises(UnknownNameError, match=r"Unknown study 'toi'.*Did you mean 'toy'\? Known: toy\. Add a file"):
        load_study("toi", folder)
    (folder / "other.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"other\.yaml:1: study: the study calls itself 'toy' but its file is other\.yaml"):
        load_study("other", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stud: quick\n", r"params\.yaml:1: stud: unknown key 'stud'\. Did you mean 'study'\?"),
        ("resources:\n  executer: ray\n", r"params\.yaml:2: resources\.executer: unknown key.*Did you mean 'executor'\?"),
        (
            "resources:\n  executor: raay\n",
            r"params\.yaml:2: resources\.executor: got 'raay'\. Did you mean 'ray'\? Allowed: 'ray' or 'serial'",
        ),
        ("resources: {cpus_per_trial: 0}\n", r"params\.yaml:1: resources\.cpus_per_trial: .*greater than or equal to 1, got 0"),
        ("resources: {gpus_per_trial: .nan}\n", r"resources\.gpus_per_trial: .*got nan"),
        ("resources: {max_concurrent: '4'}\n", r"resources\.max_concurrent: .*valid integer, got '4'"),
        ("tracking: {flush_s: 0}\n", r"tracking\.flush_s: .*greater than 0, got 0"),
        ("tracking: {uri: 5}\n", r"tracking\.uri: input should be a valid string, got 5"),
        ("store: {url: ''}\n", r"store\.url: .*at least 1 character"),
        ("store: {weights: all}\n", r"store\.weights: got 'all'\. Allowed: 'none', 'last' or 'best'"),
        ("store: here\n", r"params\.yaml:1: store: expected a mapping of keys to values, got 'here'"),
        ("seeds: 0\n", r"params\.yaml:1: seeds: .*got 0"),
        ("- study\n", r"params\.yaml: a params file must be a mapping"),
    ],
)
def test_params_errors(tmp_path: Path, text: str, message: str) -> None:
    """params.yaml is held to the same rules as a study file."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params(path)


def test_params_defaults(tmp_path: Path) -> None:
    """Without a file, and with an override of one key, everything else has its default."""
    assert load_params(tmp_path / "absent.yaml") == Params()
    path = tmp_path / "params.yaml"
    path.write_text("resources: {executor: serial}\nstore: {url: elsewhere}\n")
    params = load_params(path)
    assert (params.resources.executor, params.store.url, params.tracking) == ("serial", "elsewhere", Params().tracking)


def test_params_in_the_repository() -> None:
    """The params.yaml that ships is sound and names a study that ships."""
    root = Path(__file__).parents[2]
    assert (root / "studies" / f"{load_params(root / 'params.yaml').study}.yaml").exists()


def test_schema_names_what_validation_knows() -> None:
    """The JSON Schema of a study forbids unknown keys, as the validation does."""
    schema = schema_of(Study)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"study", "defaults", "tables"}


def test_validate_places_a_class_own_check() -> None:
    """A message of a class's own check is located at the field that it speaks of."""
    from pipeline.study.trial_config import TrialConfig

    config = {"dataset": {"name": "d"}, "backbone": {"name": "b"}, "epochs": 0}
    with pytest.raises(ConfigError, match=r"^epochs: epochs must be >= 1, got 0\.$"):
        validate(TrialConfig, config)
    config |= {"epochs": 1, "optimizer": {"lr": 0}}
    with pytest.raises(ConfigError, match=re.escape("optimizer.lr: lr must be > 0, got 0.0.")):
        validate(TrialConfig, config)
