"""Adoption: what may be re-keyed, what must be re-run, and that nothing is adopted where one bit differs. With real training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.orchestration.adopt import draw, rekey, survey, whole
from pipeline.orchestration.bit_equal import differences, other_environment
from pipeline.orchestration.planning import PlannedTrial, code_of
from pipeline.orchestration.twins import CodeChange, Twin
from pipeline.store.records import Record
from pipeline.store.repair import HISTORY_LOST, examine
from pipeline.study.spec import TrialSpec
from tests.orchestration.aged import LOOP, Project, copy_of, make_trained, older, shifted

Ablate = Callable[..., tuple[int, str, str]]


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


def adopted_json(ablate: Ablate, *arguments: str, code: int = 0) -> dict[str, Any]:
    status, out, err = ablate("adopt", "--json", *arguments)
    assert status == code, err
    return json.loads(out)


def test_the_rest_is_rekeyed_after_one_equal_rerun(project: Project, ablate: Ablate) -> None:
    """One trial is trained anew; the other three are copies of their twins in all but identity, and nothing stored before changed."""
    project.age()
    files = project.files()
    before = whole(project.store.records(), project.store)
    answer = adopted_json(ablate, "--check", "1", "--seed", "3")
    assert not answer["refused"]
    (checked,) = answer["checked"]
    assert checked["equal"]
    assert checked["code"]["changed"] == [LOOP]
    assert len(answer["adopted"]) == 3
    assert checked["trial_id"] not in answer["adopted"]
    assert {name: content for name, content in project.files().items() if name in files} == files

    plan, store = project.plan(), project.store
    after = whole(store.records(), store)
    assert plan.trials.keys() | before.keys() == after.keys()
    fresh = after[checked["trial_id"]]
    assert "adopted_from" not in fresh
    twins = {entry["trial_id"]: entry["twin"] for entry in answer["candidates"]}
    assert twins.keys() == plan.trials.keys()
    identity = {"trial_id", "cell_id", "spec", "code", "name", "time_finished_ns", "adopted_from", "adopted_checked"}
    for trial_id in answer["adopted"]:
        copy, old, spec = after[trial_id], before[twins[trial_id]], plan.trials[trial_id].spec
        assert {k: v for k, v in copy.items() if k not in identity} == {k: v for k, v in old.items() if k not in identity}
        assert copy.history == old.history
        assert len(copy.history) == 2
        assert copy.panel == old.panel
        assert copy.panel
        assert (copy["trial_id"], copy["cell_id"]) == (spec.trial_id, spec.cell_id)
        assert TrialSpec.from_dict(json.loads(copy["spec"])) == spec
        assert json.loads(copy["code"])[LOOP] != "0" * 12
        assert (copy["adopted_from"], json.loads(copy["adopted_checked"])) == (old["trial_id"], [checked["trial_id"]])
        assert store.load_weights(trial_id) == store.load_weights(old["trial_id"])

    shown = {entry["trial_id"]: entry for entry in json.loads(ablate("trials", "--json")[1])}
    assert {i: e["adopted_from"] for i, e in shown.items()} == {i: None if i == checked["trial_id"] else twins[i] for i in twins}
    told = ablate("why", answer["adopted"][0])[1]
    assert f"adopted from: {twins[answer['adopted'][0]]}, after re-running {checked['trial_id']}" in told
    assert json.loads(ablate("plan", "--json")[1])["totals"]["new"] == 0
    assert "(0 trained now)" in ablate("run")[1]
    assert examine(project.store) == []
    status, out, _ = ablate("adopt")
    assert (status, out.splitlines()[-1].startswith("Nothing to adopt")) == (0, True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (shifted("metric_test_acc_top1_last"), "metric_test_acc_top1_last was "),
        (lambda record: record.update(weights_sha256="ab"), "weights_sha256 was ab, is "),
        (lambda record: record.history[0].update(metric_train_loss=1.0), "metric_train_loss at epoch 1 was 1.0, is "),
        (lambda record: record.history.pop(), "metric_lr at epoch 2 was absent, is "),
        (lambda record: record.panel.update(panel_cam=b"no"), "panel_cam was 2 bytes of digest "),
        (lambda record: record.pop("metric_test_loss_last"), "metric_test_loss_last was absent, is "),
    ],
    ids=["metric", "weights", "history", "shorter history", "pictures", "metric that is new"],
)
def test_one_value_that_differs_is_enough_to_refuse(project: Project, ablate: Ablate, change: Callable[[Record], Any], field: str) -> None:
    """Nothing is re-keyed, the message names the trial and the value then and now, and the re-run trial is stored as a fresh one."""
    project.age(change)
    before = project.store.records()
    status, out, err = ablate("adopt", "--check", "1", "--seed", "1")
    assert status == 1
    assert "Nothing was adopted: of 1 trial trained with the present code, 1 is not equal to its twin." in err
    assert field in err
    assert "likely cause" not in err
    assert "stored under their new ids as freshly trained trials" in err
    assert "Traceback" not in out + err
    added = project.store.records().keys() - before.keys()
    assert len(added) == 1
    assert "adopted_from" not in project.store.records()[added.pop()]


def test_another_environment_is_named_as_the_likely_cause(project: Project, ablate: Ablate) -> None:
    """Other numbers under another torch and another number of threads are refused all the same, and both are said."""

    def change(record: Record) -> None:
        shifted("metric_test_acc_top1_last")(record)
        record |= {"env_torch": "1.0", "env_threads": 64}

    project.age(change)
    status, _, err = ablate("adopt", "--check", "1")
    assert status == 1
    assert "likely cause: torch was 1.0, is 2." in err
    assert "threads was 64, is 1" in err
    # What differs for that reason proves nothing about the code, so the next call trains again instead of refusing at once.
    before = len(project.store.records())
    assert ablate("adopt", "--check", "1")[0] == 1
    assert len(project.store.records()) == before + 1


def test_a_refusal_is_not_forgotten(project: Project, ablate: Ablate) -> None:
    """After one refusal another draw trains nothing: the trial that was re-run is stored and still differs."""
    project.age(shifted("metric_test_loss_last"))
    first = adopted_json(ablate, "--check", "1", "--seed", "1", code=1)
    files = project.files()
    again = adopted_json(ablate, "--check", "1", "--seed", "2", code=1)
    assert [entry["trial_id"] for entry in again["checked"]] == [first["checked"][0]["trial_id"]]
    assert [d["field"] for d in again["checked"][0]["differences"]] == ["metric_test_loss_last"]
    status, out, err = ablate("adopt", "--check", "1", "--dry-run")
    assert status == 1
    assert "3 new trials with a stored twin" in out
    assert "To be re-run" not in out
    assert "1 is not equal to its twin" in err
    assert project.files() == files


def test_all_are_checked_where_there_are_no_more(project: Project, ablate: Ablate) -> None:
    """As many as there are is enough; one unequal among equal ones stops the adoption."""
    names: list[str] = []

    def change(record: Record) -> None:
        names.append(record["trial_id"])
        if len(names) == 1:
            shifted("metric_test_loss_last")(record)

    project.age(change)
    answer = adopted_json(ablate, "--check", "99", code=1)
    assert len(answer["checked"]) == 4
    assert [entry["equal"] for entry in answer["checked"]].count(False) == 1
    assert answer["adopted"] == []


def test_a_dry_run_only_tells(project: Project, ablate: Ablate) -> None:
    """The candidates by what changed, and what would be re-run; the store stays as it is, to the byte."""
    project.age()
    files = project.files()
    status, out, _ = ablate("adopt", "--dry-run", "--check", "2", "--seed", "5")
    assert status == 0
    assert "4 new trials with a stored twin that differs in nothing but the code:" in out
    assert f"  4: 1 module changed: {LOOP}" in out
    assert "To be re-run (2, drawn with --seed 5" in out
    assert project.files() == files
    assert ablate("adopt", "--dry-run", "--check", "2", "--seed", "5")[1] == out
    assert ablate("adopt", "--check", "0")[0] == 2


def test_a_chain_keeps_its_origin(project: Project, ablate: Ablate) -> None:
    """What is adopted from an adopted trial names the trial that was really trained."""
    project.age()
    trained = project.store.records().keys()
    adopted_json(ablate, "--check", "1")
    project.age(key="1" * 16)
    stored = project.store.records()
    origin = {trial_id: record["adopted_from"] for trial_id, record in stored.items() if "adopted_from" in record}
    assert len(stored) == 4
    assert len(origin) == 3
    assert set(origin.values()) < trained
    answer = adopted_json(ablate, "--check", "1")
    assert not answer["refused"]
    twins = {entry["trial_id"]: entry["twin"] for entry in answer["candidates"]}
    records = project.store.records()
    for trial_id in answer["adopted"]:
        assert records[trial_id]["adopted_from"] == origin.get(twins[trial_id], twins[trial_id])
    assert {records[trial_id]["adopted_from"] for trial_id in answer["adopted"]} & trained  # at most one of the three was trained since


def test_who_is_no_candidate(project: Project) -> None:
    """A trial with another seed, a failed twin, a twin without a digest of its weights or without its history; the last two are counted."""
    plan = project.plan(seeds=3)
    missing = [trial for trial in plan.trials.values() if trial.spec.seed == 2]
    states = iter(["failed", "no digest", "no history", "complete"])

    def change(record: Record) -> None:
        state = next(states)
        if state == "failed":
            record |= {"state": "failed", "failure": "diverged", "reason": "loss became nan"}
        elif state == "no digest":
            del record["weights_sha256"]
        elif state == "no history":
            record[HISTORY_LOST] = True

    project.age(change)
    found = survey(plan, project.store.records())
    assert len(found.candidates) == 1
    assert len(found.incomparable) == 2
    ids = {twin.trial.spec.trial_id for twin in (*found.candidates, *found.incomparable)}
    assert not ids & {trial.spec.trial_id for trial in missing}


def test_a_twin_must_be_what_its_id_says(project: Project) -> None:
    """A record whose id is not that of its specification is no twin: nobody can tell what was trained."""
    project.age()
    records = project.store.records()
    for record in records.values():
        spec = json.loads(record["spec"])
        record["spec"] = json.dumps({**spec, "config": {**spec["config"], "epochs": 2}, "code_key": "f" * 16}, sort_keys=True)
    assert survey(project.plan(), records).candidates == []


def test_of_several_twins_the_version_that_serves_all_counts(project: Project) -> None:
    """One trial of a version that was refused is no yardstick for the others, though it is nearer; of two whole versions the later is."""
    project.age(key="a" * 16, recorded=False)
    old = list(whole(project.store.records(), project.store).values())
    now = code_of(next(iter(project.plan().trials.values())).spec.config)

    def store_as(key: str, records: list[Record], code: dict[str, str] | None) -> None:
        for record in records:
            spec = older(TrialSpec.from_dict(json.loads(record["spec"])), key)
            text = None if code is None else json.dumps(code)
            ids = {"trial_id": spec.trial_id, "cell_id": spec.cell_id, "spec": json.dumps(spec.to_dict()), "code": text}
            project.store.append([Record({**record, **ids}, record.history, record.panel)])

    store_as("b" * 16, old[:1], {**now, LOOP: "0" * 12})
    assert {twin.code_key for twin in survey(project.plan(), project.store.records()).candidates} == {"a" * 16}
    store_as("c" * 16, old, None)
    assert {twin.code_key for twin in survey(project.plan(), project.store.records()).candidates} == {"c" * 16}


def test_what_was_stored_in_the_meantime_is_left_alone(project: Project) -> None:
    """A trial that somebody stored after the survey is not re-keyed over."""
    project.age()
    twins = survey(project.plan(), project.store.records()).candidates
    assert len(rekey(twins[:1], ["x"], project.store)) == 1
    written = rekey(twins, ["y"], project.store)
    assert written == [twin.trial.spec.trial_id for twin in twins[1:]]
    records = project.store.records()
    assert [json.loads(records[twin.trial.spec.trial_id]["adopted_checked"]) for twin in twins] == [["x"], ["y"], ["y"], ["y"]]


def test_groups_of_any_size(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-keyed one segment at a time, each trial still gets its own history and pictures."""
    from pipeline.orchestration import adopt

    project.age()
    monkeypatch.setattr(adopt, "AT_A_TIME", 3)
    before = whole(project.store.records(), project.store)
    twins = survey(project.plan(), project.store.records()).candidates
    assert len(rekey(twins, ["x"], project.store)) == 4
    after = whole(project.store.records(), project.store)
    for twin in twins:
        old, new = before[twin.record["trial_id"]], after[twin.trial.spec.trial_id]
        assert new.history == old.history
        assert new.panel == old.panel


def test_pictures_that_the_older_version_did_not_draw(project: Project, ablate: Ablate) -> None:
    """Trials that were stored without accuracies by class are adopted; the one that is trained anew has them, the copies do not."""

    def forget(record: Record) -> None:
        del record.panel["panel_class_correct"], record.panel["panel_class_count"]

    project.age(forget)
    answer = adopted_json(ablate, "--check", "1", "--seed", "3")
    (checked,) = answer["checked"]
    after = whole(project.store.records(), project.store)
    assert sum(after[checked["trial_id"]].panel["panel_class_count"]) == 12
    assert len(answer["adopted"]) == 3
    for trial_id in answer["adopted"]:
        assert "panel_cam" in after[trial_id].panel
        assert "panel_class_count" not in after[trial_id].panel


def test_weights_that_were_not_kept(project: Project) -> None:
    """Where no weights are stored there are none to copy."""
    project.age(weights=False)
    twins = survey(project.plan(), project.store.records()).candidates
    assert len(rekey(twins, ["x"], project.store)) == 4
    assert not (project.root / "store/weights").exists()


@st.composite
def candidates_strategy(draw_from: st.DrawFn) -> list[Twin]:
    """Trials of a few backbones, losses, code keys and sets of changed modules."""
    found = []
    for i in range(draw_from(st.integers(0, 12))):
        backbone, loss = draw_from(st.sampled_from(["resnet8", "vgg"])), draw_from(st.sampled_from(["ce", "cam"]))
        modules = draw_from(st.sampled_from([("a",), ("a", "b"), ("c",), None]))
        config = {"backbone": {"name": backbone}, "loss": {loss: {}}, "regularizers": []}
        spec = TrialSpec(f"t{i}", "cell", config, i, "data", draw_from(st.sampled_from(["n1", "n2"])))
        change = CodeChange(recorded=False) if modules is None else CodeChange(recorded=True, changed=modules)
        trial = PlannedTrial(spec, f"trial {i}", ("main",), None, {})
        found.append(Twin(trial, Record({"trial_id": f"old{i}"}), draw_from(st.sampled_from(["o1", "o2"])), change))
    return found


@settings(max_examples=200, deadline=None)
@given(candidates_strategy(), st.integers(1, 6), st.integers(0, 99), st.randoms(use_true_random=False))
def test_draws(candidates: list[Twin], number: int, seed: int, order: Any) -> None:
    """As many as asked for or as there are kinds of change, each kind among them, none twice, whatever the order of the candidates."""
    drawn = draw(candidates, number, seed)
    ids = [twin.trial.spec.trial_id for twin in drawn]
    kinds = {twin.kind for twin in candidates}
    assert len(ids) == len(set(ids)) == min(len(candidates), max(number, len(kinds)))
    assert {twin.kind for twin in drawn} == kinds
    shuffled = list(candidates)
    order.shuffle(shuffled)
    assert [twin.trial.spec.trial_id for twin in draw(shuffled, number, seed)] == ids


def test_draws_prefer_other_methods_and_depend_on_the_seed() -> None:
    """Two of ten trials of one kind have both losses, and over many seeds every trial is drawn."""
    twins = []
    for i in range(10):
        config = {"backbone": {"name": "x"}, "loss": {"cam" if i == 0 else "ce": {}}, "regularizers": []}
        spec = TrialSpec(f"t{i}", "c", config, i, "d", "n")
        twins.append(Twin(PlannedTrial(spec, "", (), None, {}), Record({}), "o", CodeChange(recorded=True, changed=("a",))))
    draws = [{twin.trial.spec.trial_id for twin in draw(twins, 2, seed)} for seed in range(100)]
    assert all("t0" in ids for ids in draws)
    assert set.union(*draws) == {f"t{i}" for i in range(10)}


def test_equal_means_every_bit() -> None:
    """nan equals itself, 0.0 is not -0.0, the last bit counts, a missing column is a difference; times and load are not compared."""
    row = {"trial_id": "a", "metric_x": math.nan, "metric_y": 0.1, "time_total_s": 1.0, "weights_sha256": "w"}
    epochs = [{"epoch": 1, "metric_z": 0.5, "time_s": 1.0, "system_cpu_percent": 99.5}]
    other_epochs = [{**epochs[0], "time_s": 2.0, "system_cpu_percent": 50.0, "system_memory_bytes": 3}]
    then = Record(row, epochs, {"panel_share": [0.25, 0.5], "panel_cam": b"x"})
    assert differences(then, Record({**row, "trial_id": "b", "time_total_s": 2.0}, other_epochs, then.panel)) == []
    assert differences(then, Record(row, epochs, {**then.panel, "panel_class_correct": [1]})) == []  # the older version knew no such
    for changes, history, panel, field in [
        ({"metric_y": math.nextafter(0.1, 1)}, epochs, then.panel, "metric_y"),
        ({"metric_x": 0.0}, epochs, then.panel, "metric_x"),
        ({"metric_new": 1.0}, epochs, then.panel, "metric_new"),
        ({"weights_sha256": "v"}, epochs, then.panel, "weights_sha256"),
        ({}, [{"epoch": 1, "metric_z": 0.25}], then.panel, "metric_z at epoch 1"),
        ({}, [*epochs, {"epoch": 2, "metric_z": 0.5}], then.panel, "metric_z at epoch 2"),
        ({}, epochs, {**then.panel, "panel_share": [0.25, 0.75]}, "panel_share"),
        ({}, epochs, {"panel_share": [0.25, 0.5]}, "panel_cam"),
    ]:
        assert [d.field for d in differences(then, Record({**row, **changes}, history, panel))] == [field]
    assert [d.field for d in differences(Record({"metric_a": 0.0}), Record({"metric_a": -0.0}))] == ["metric_a"]
    assert other_environment({"env_torch": "1", "env_host": "a"}, {"env_torch": "1", "env_host": "a"}) == []
