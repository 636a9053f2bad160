"""Plans: identities of their trials, and how they are counted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import data
from pipeline.errors import ConfigError
from pipeline.orchestration.planning import Plan, check_identified, count, make_plan, missing, read_plan, write_plan
from pipeline.study import identity
from pipeline.study.config import load_study
from pipeline.study.design import expand_datasets
from pipeline.study.params import DataParams, Params

STUDIES = Path(__file__).parents[2] / "studies"
STUDY = """\
study: many
seeds: {seeds}
defaults: {{dataset: cluttered_digits, backbone: resnet8, epochs: 8, batch_size: 32}}
tables:
  weights: {{rows: {{loss.cam.weight: {weights}}}, columns: {{metric: [acc_top1, loss]}}}}
"""


def plan_of(study: str, studies: Path, prepared: Path) -> Plan:
    """The plan of a study whose datasets have manifests, but no images."""
    file = load_study(study, studies)
    for number, component in enumerate(expand_datasets(file, data.registry)):
        manifest: dict[str, Any] = {
            "schema_version": 1,
            "name": component["name"],
            "component": component,
            "shape": [24, 24, 1],
            "masks": True,
            "classes": list("0123456789"),
            "digest": f"digest-{number}",
            "ranges": {"train": [0, 1500], "val": [1500, 1800], "test": [1800, 2800]},
            "class_counts": {},
            "mean": [0.1],
            "std": [0.3],
            "bytes": 1,
            "source_index": {},
        }
        folder = data.folder(component, prepared)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return make_plan(file, Params(data=DataParams(prepared=str(prepared))))


def sha(value: Any) -> str:
    """The identity of a value, written out once more."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()[:16]


def test_identities_are_what_the_definition_says(tmp_path: Path) -> None:
    """Every trial of the quick study: a hash of version, configuration without dataset, data, code, upstream and seed."""
    plan = plan_of("quick", STUDIES, tmp_path)
    assert len(plan.trials) > 50
    for trial_id, trial in plan.trials.items():
        spec = trial.spec
        config = {key: value for key, value in spec.config.items() if key != "dataset"}
        parts = {"version": identity.IDENTITY_VERSION, "config": config, "data": spec.data_digest, "code": spec.code_key, "upstream": []}
        assert spec.cell_id == sha(parts)
        assert trial_id == spec.trial_id == sha({**parts, "seed": spec.seed})


def test_seeds_of_a_cell_share_what_does_not_depend_on_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is held once a cell and hashed once a trial and once a cell, so that thousands of seeds take no time."""
    (tmp_path / "many.yaml").write_text(STUDY.format(seeds=20, weights=[0.5, 1.0, 2.0]))
    hashed: list[Any] = []
    real = identity.digest
    monkeypatch.setattr(identity, "digest", lambda value: (hashed.append(value), real(value))[1])
    plan = plan_of("many", tmp_path, tmp_path / "prepared")
    assert len(plan.trials) == 60
    assert len({id(trial.spec.config) for trial in plan.trials.values()}) <= 6  # two columns of metrics
    assert len(hashed) == 2 * (60 + 3)


def test_cells_that_differ_in_the_metric_are_the_same_trials(tmp_path: Path) -> None:
    """They are counted once, and all are missing from an empty store."""
    (tmp_path / "many.yaml").write_text(STUDY.format(seeds=4, weights=[0.5, 1.0]))
    plan = plan_of("many", tmp_path, tmp_path / "prepared")
    assert count(plan, {})["totals"] == {"new": 8, "stored": 0, "shared": 0, "blocked": 0, "failed": 0}
    assert len(missing(plan, {})) == 8
    assert [entry["seed"] for entry in plan.tables[0]["cells"][0]["trials"]] == [0, 1, 2, 3]


def levels(plan: Plan, name: str) -> dict[str, str | None]:
    """What the plan says of the levels of the first seed of a cell."""
    (trial,) = (trial for trial in plan.trials.values() if trial.name == f"{name} · seed 0")
    return trial.factors


def test_levels_are_called_as_the_tables_call_them(tmp_path: Path) -> None:
    """Of a trial that tables share, each field by the table that varies it; else off the configuration, numbers as people write them."""
    plan = plan_of("quick", STUDIES, tmp_path)
    assert levels(plan, "resnet8 · cutout(size=6) · cam")["regularizers"] == "cutout(size=6)"
    assert levels(plan, "resnet8 · cutmix · ce")["loss.cam.weight"] is None
    weights = ("resnet8 · ce", "resnet8 · loss.cam.weight=0.3", "resnet8 · cam", "resnet8 · loss.cam.weight=3", "wrn_10_1 · cam")
    assert [levels(plan, name)["loss.cam.weight"] for name in weights] == ["0", "0.3", "1", "3", "1"]
    rows = {cell["row"] for table in plan.tables if table["name"] == "loss_weight" for cell in table["cells"]}
    assert rows == {"0", "0.3", "1", "3"}
    write_plan(plan, tmp_path / "plan")
    assert read_plan(tmp_path / "plan").trials == plan.trials


@pytest.mark.parametrize(("active", "command"), [("many", "`ablate prepare`"), ("quick", "`ablate prepare --study many`")])
def test_a_plan_without_any_known_trial_says_what_prepares_its_data(tmp_path: Path, active: str, command: str) -> None:
    """Nothing is written of it; a plan of which one trial is known is not refused."""
    (tmp_path / "many.yaml").write_text(STUDY.format(seeds=4, weights=[0.5, 1.0]))
    params = Params(study=active, data=DataParams(prepared=str(tmp_path / "nothing")))
    blocked = make_plan(load_study("many", tmp_path), params)
    ((reason, number),) = blocked.why_blocked().items()
    assert (number, reason.endswith(f"run {command}")) == (8, True)
    with pytest.raises(ConfigError, match=r"Study many: .*'cluttered_digits' is not prepared in .*nothing; run " + command):
        write_plan(blocked, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
    known = plan_of("many", tmp_path, tmp_path / "prepared")
    check_identified(Plan("many", known.trials, known.tables, known.datasets, blocked.blocked))
