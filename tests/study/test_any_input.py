"""Whatever stands in a study file, the answer is a table or an error written for people, never another exception."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PipelineError
from pipeline.study.identity import canonical_json
from pipeline.study.yaml_file import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Expand, Write

STUDY: dict[str, Any] = {
    "study": "toy",
    "protocol": {"selection": "last", "metric": "acc_top1"},
    "seeds": [0, 1],
    "datasets": {"small": {"source": "digits", "canvas": 16}},
    "defaults": {
        "dataset": {"name": "small", "noise": 0.25},
        "backbone": {"name": "resnet8", "dropout": 0.1},
        "epochs": 8,
        "optimizer": {"lr": 0.1},
    },
    "arms": {"ce": {}, "cam": {"loss": {"cam": {"weight": 1.0, "start_epoch": 2}}, "regularizers": [{"cutout": {"size": 4}}]}},
    "tables": {
        "t": {
            "set": {"loss.cam.power": 2.0, "regularizers.mixup.alpha": 0.5},
            "rows": {"backbone": ["resnet8", "vgg"], "schedule.milestones": [[0.5], [0.5, 0.75]]},
            "columns": {"arm": ["ce", "cam"]},
            "baseline": "ce",
        }
    },
}
WORDS = [
    "ce",
    "cam",
    "none",
    "arm",
    "metric",
    "name",
    "source",
    "resnet8",
    "digits",
    "cutout",
    "regularizers",
    "loss.cam.weight",
    "",
    "é",
    "1e400",
]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.sampled_from(WORDS), st.dates(), st.binary(max_size=3))
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.integers(0, 3), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def test_the_study_is_sound(write: Write, expand_file: Expand) -> None:
    """Without junk the study expands, so that the next test starts from something that works."""
    file = write(yaml.safe_dump(STUDY).replace("regularizers.mixup.alpha: 0.5", ""))
    assert len(expand_file(file)[0].cells) == 8


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_junk_anywhere(data: st.DataObject, write: Write, expand_file: Expand) -> None:
    """Any value in any one place, under its key or under another, gives a canonical study or a PipelineError with the file named."""
    study = copy.deepcopy(STUDY)
    place = data.draw(st.sampled_from(_places(STUDY)[1:]))
    holder: Any = study
    for key in place[:-1]:
        holder = holder[key]
    junk = data.draw(JUNK)
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder[data.draw(st.sampled_from(WORDS) | st.integers(0, 3))] = junk
    else:
        holder[place[-1]] = junk
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True)
    complaint = "toy.yaml"
    try:
        for table in expand_file(write(text)):
            for cell in table.cells:
                canonical_json(cell.config)
            assert len({(cell.row, cell.column) for cell in table.cells}) == len(table.cells)
    except PipelineError as error:
        complaint = str(error)
    assert "toy.yaml" in complaint


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.sampled_from("ab:{}[]-&*!|>#%@`'\",? \n\t<01.~é\x07"), max_size=25))
def test_any_text(text: str, tmp_path: Path) -> None:
    """Any text is either a mapping or a ConfigError."""
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8")
    complaint, content, lines = "any.yaml", {}, {}
    try:
        content, lines = read_yaml(path, "study file")
    except ConfigError as error:
        complaint = str(error)
    assert "any.yaml" in complaint
    assert set(content) <= {path[-1] for path in lines}
