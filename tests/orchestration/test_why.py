"""`ablate why`: the nearest stored trial, which modules changed, and trials that the plan does not ask for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.orchestration.planning import PlannedTrial, code_of
from pipeline.orchestration.twins import code_change
from pipeline.orchestration.why import explain
from pipeline.store.records import Record
from pipeline.study.identity import make_spec
from pipeline.study.spec import TrialSpec
from pipeline.study.trial_config import TrialConfig
from tests.orchestration.aged import LOOP, Project, copy_of, make_trained

Ablate = Callable[..., tuple[int, str, str]]
NOW = code_of(TrialConfig(dataset={"name": "d"}, backbone={"name": "resnet8"}).to_dict())


def trial(seed: int = 0, code: str = "now", **changes: object) -> PlannedTrial:
    config = TrialConfig(**({"dataset": {"name": "d"}, "backbone": {"name": "resnet8"}} | changes)).to_dict()
    return PlannedTrial(make_spec(config, seed, "data", code), "planned", ("main",), None, {})


def stored(seed: int = 0, code: str = "now", *, finished: int = 1, modules: dict[str, str] | None = None, **changes: object) -> Record:
    spec = trial(seed, code, **changes).spec
    row = {"trial_id": spec.trial_id, "state": "complete", "spec": json.dumps(spec.to_dict()), "time_finished_ns": finished}
    return Record(row if modules is None else {**row, "code": json.dumps(modules)})


def nearest(planned: PlannedTrial, *records: Record) -> tuple[Record, list[str]]:
    answer = explain(planned, {record["trial_id"]: record for record in records})["nearest"]
    return next(record for record in records if record["trial_id"] == answer["trial_id"]), list(answer["differs"])


def test_a_trial_that_differs_in_the_code_only_is_nearest() -> None:
    """Before one with a single other field; among several the fewest modules, then the latest, whatever the order of the records."""
    twin, other = stored(code="then"), stored(epochs=3)
    assert nearest(trial(), other, twin) == (twin, ["code"])
    assert nearest(trial(), stored(code="then", epochs=3), other, stored(seed=4, epochs=3)) == (other, ["config.epochs"])
    one = stored(code="one", modules={**NOW, LOOP: "x"})
    two = stored(code="two", modules={**NOW, LOOP: "x", "pipeline.trial": "y"}, finished=9)
    late = stored(code="late", modules={**NOW, LOOP: "z"}, finished=8)
    for records in ([one, two, twin], [twin, two, one]):
        assert nearest(trial(), *records)[0] is one
    for records in ([one, two, late], [late, two, one]):
        assert nearest(trial(), *records)[0] is late


def test_another_seed_of_the_same_cell_comes_before_another_cell() -> None:
    """Both differ in one field; the seed says more."""
    seed, field = stored(seed=3), stored(batch_size=64)
    assert nearest(trial(), field, seed) == (seed, ["seed"])


@given(
    st.lists(
        st.builds(
            stored,
            st.integers(0, 2),
            st.sampled_from(["now", "then"]),
            epochs=st.integers(1, 3),
            batch_size=st.sampled_from([8, 16]),
            grad_clip=st.sampled_from([None, 1.0]),
            regularizers=st.sampled_from([[], [{"name": "cutout", "size": 3}], [{"name": "cutout", "size": 4}, {"name": "dropout"}]]),
        ),
        min_size=1,
    )
)
def test_the_short_way_finds_what_comparing_all_finds(records: list[Record]) -> None:
    """No stored trial differs in fewer fields than the nearest, but for those that differ in the code only."""
    planned = trial(seed=5, epochs=2, batch_size=32)
    known = {record["trial_id"]: record for record in records}
    answer = explain(planned, known)
    each = [list(explain(planned, {trial_id: record})["nearest"]["differs"]) for trial_id, record in known.items()]
    assert len(answer["nearest"]["differs"]) == min(map(len, each))
    assert explain(planned, dict(reversed(known.items()))) == answer


def test_records_that_cannot_be_compared_are_passed_over() -> None:
    """Records without a specification, or with a broken one, are no neighbours, and no error."""
    strange = [Record({"trial_id": str(i), "state": "complete", "spec": spec}) for i, spec in enumerate(("", "[]", "null", '{"seed": 1}'))]
    bare = Record({"trial_id": "bare", "state": "complete"})
    known = {record["trial_id"]: record for record in (*strange, bare)}
    assert explain(trial(), known)["nearest"] is None
    assert nearest(trial(), *strange, stored(seed=1), bare)[1] == ["seed"]


def test_which_modules_changed() -> None:
    """Changed, appeared and gone are told apart; an old record says nothing about it."""
    record = Record({"code": json.dumps({"a": "1", "b": "1", "c": "1"})})
    change = code_change({"b": "1", "c": "2", "d": "1"}, record)
    assert (change.changed, change.appeared, change.went) == (("c",), ("d",), ("a",))
    assert change.line() == "1 module changed: c; 1 module appeared: d; 1 module went: a"
    assert code_change({"a": "1"}, Record({})).line() == "which modules changed was not recorded"


@pytest.fixture(name="trained", scope="module")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with four trained trials; not to be changed."""
    return make_trained(tmp_path_factory.mktemp("trained") / "project")


@pytest.fixture(name="project")
def project_fixture(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, entered."""
    project = copy_of(trained, tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture(name="ablate")
def ablate_fixture(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ablate:
    """Runs `ablate` in the project; gives exit status and both streams."""
    from pipeline.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code if isinstance(caught.value.code, int) else 0, out, err

    return run


def test_a_new_trial_whose_code_changed(project: Project, ablate: Ablate) -> None:
    """The module is named, and the way to keep the stored trials; in JSON as well."""
    project.age()
    trial_id = next(iter(project.plan().trials))
    status, out, _ = ablate("why", trial_id[:10], "--study", "tiny")
    assert status == 0
    assert f"  code: 1 module changed: {LOOP}\n" in out
    assert "`ablate adopt --study tiny`" in out
    answer = json.loads(ablate("why", trial_id, "--json")[1])
    assert answer["code"] == {"recorded": True, "changed": [LOOP], "appeared": [], "went": []}
    assert list(answer["nearest"]["differs"]) == ["code"]
    assert answer["identity"]["seed"] == 0
    assert (answer["state"], answer["tables"], answer["adopted_from"]) == ("planned", ["main"], None)


def test_an_old_record_does_not_tell_its_modules(project: Project, ablate: Ablate) -> None:
    """Stored without the code of its modules, only the key can be compared, and that is said."""
    project.age(recorded=False)
    out = ablate("why", next(iter(project.plan().trials)))[1]
    assert "  code: which modules changed was not recorded\n" in out
    assert "`ablate adopt`" in out


def test_a_field_that_differs_is_no_case_for_adoption(project: Project, ablate: Ablate) -> None:
    """Both values are shown; `ablate adopt` is not named."""
    project.age()
    file = project.root / "studies/tiny.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    trial_id = json.loads(ablate("trials", "--json")[1])[0]["trial_id"]
    out = ablate("why", trial_id)[1]
    assert "  config.epochs: 3 here, 2 there\n" in out
    assert "ablate adopt" not in out


def test_a_stored_trial_and_one_outside_the_plan(project: Project, ablate: Ablate) -> None:
    """A stored trial has nothing to be compared with; one of another plan is explained from its record."""
    trial_id = next(iter(project.plan().trials))
    out = ablate("why", trial_id)[1]
    assert "  state: complete\n" in out
    assert "Nearest" not in out
    project.age()
    outside = next(iter(project.store.records().values()))
    status, out, _ = ablate("why", outside["trial_id"])
    assert status == 0
    assert outside["name"] in out
    assert "tables: none, the plan does not ask for it" in out
    assert "  config.epochs: 2\n" in out
    answer = json.loads(ablate("why", outside["trial_id"], "--json")[1])
    spec = TrialSpec.from_dict(json.loads(outside["spec"]))
    assert answer["planned"] is False
    assert (answer["identity"]["code"], answer["identity"]["seed"]) == (spec.code_key, spec.seed)


def test_beginnings_of_ids(project: Project, ablate: Ablate) -> None:
    """An ambiguous beginning names the trials it fits, an unknown one where was looked; both with status 2."""
    project.age()
    status, _, err = ablate("why", "")
    assert status == 2
    assert "'' is the beginning of 8 trial ids: " in err
    status, _, err = ablate("why", "zzz")
    assert status == 2
    assert "Unknown trial 'zzz' in the plan or the store." in err
