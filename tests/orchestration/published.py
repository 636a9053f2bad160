"""A study that is published without anything having been trained: its plan and files are real, its records are made up."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.analysis.report.page import write_report
from pipeline.analysis.study import aggregate
from pipeline.analysis.tables import build_tables, load_tables
from pipeline.orchestration.mirror.mirrored import remembered_runs
from pipeline.orchestration.mirror.rebuild import Rebuilt, rebuild
from pipeline.orchestration.outcome import Outcome, write_outcomes
from pipeline.orchestration.planning import Plan, make_plan, read_plan, write_plan
from pipeline.orchestration.preparing import prepare_study
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.params import DataParams, Params, Tracking
from pipeline.study.project import OUTCOMES, PLAN, REPORT, RESULTS

STUDY = """\
study: tiny
seeds: 3
datasets:
  digits: {source: cluttered_digits, canvas: 16, num_train: 40, num_val: 10, num_test: 10}
defaults:
  dataset: digits
  backbone: resnet8
  epochs: 4
  batch_size: 20
  optimizer: {name: sgd, lr: 0.05}
arms:
  ce: {}
  cam: {loss: {cam: {weight: 1.0}}}
  cam_strong: {loss: {cam: {weight: 3.0}}}
style: {p_values: true, ranks: true}
tables:
  methods:
    rows: {regularizers: [none, cutout, mixup]}
    columns: {arm: [ce, cam, cam_strong]}
    baseline: ce
    metric: [acc_top1, nll]
  loss_weight:
    rows: {loss.cam.weight: [0, 1, 3]}
    columns: {metric: [acc_top1, caam_energy]}
"""
PARAMS = Params(study="tiny", store={"url": "store"}, tracking=Tracking(uri=None), data=DataParams(prepared="data/prepared"))
DIVERGED = ("cutout", "cam_strong", 2)  # regularizer, arm and seed of a trial without a number


def make_published(root: Path) -> None:
    """Write plan, store, results, tables, curves, metrics and report below `root`, the working directory."""
    (root / "studies").mkdir()
    (root / "studies/tiny.yaml").write_text(STUDY, encoding="utf-8")
    file = load_study("tiny")
    prepare_study(file, PARAMS)
    plan = make_plan(file, PARAMS)
    write_plan(plan, PLAN)
    store = TrialStore("store")
    trials = list(plan.trials)
    for part in (trials[::2], trials[1::2]):  # two segments
        store.append([_record(plan, trial_id) for trial_id in part])
    (root / "figures").mkdir()
    publish_again({trial_id: hashlib.md5(trial_id.encode(), usedforsecurity=False).hexdigest() for trial_id in trials})


def mirror_published(params: Params) -> Rebuilt:
    """Put trials and tables into MLflow, with nothing to complain about, and publish with the runs that there are then."""
    lines: list[str] = []
    plan, records = read_plan(PLAN), TrialStore("store").records()
    done = rebuild(plan, records, params, lines.append)
    assert lines == []
    run_ids = remembered_runs(params.tracking, plan.study, records)
    assert run_ids is not None
    publish_again(run_ids)
    return done


def publish_again(run_ids: dict[str, str]) -> None:
    """Write results, tables, curves, metrics and report with these runs of the trials."""
    outcome = Outcome.of(read_plan(PLAN), TrialStore("store").records(), 0)
    outcome.run_ids = run_ids
    write_outcomes(outcome, OUTCOMES)
    aggregate("store", say=lambda line: None)
    _write_report()


def _write_report() -> None:
    document, trials = load_tables(PLAN / "tables.json"), pq.read_table(RESULTS / "trials.parquet")
    write_report(
        REPORT,
        study=document["study"],
        results=build_tables(document, trials),
        figure_paths=[],
        trials=trials,
        provenance={"commit": "0123456789abcdef", "versions": {"torch": "2.15.0"}},
        history=pq.read_table(RESULTS / "history.parquet"),
        planned=pq.read_table(PLAN / "trials.parquet"),
        run_links={run_id: f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}" for run_id in trials["run_id"].to_pylist() if run_id},
    )


def _record(plan: Plan, trial_id: str) -> Record:
    """Numbers that depend on what the trial is, not on its id, which every change of the code changes."""
    trial = plan.trials[trial_id]
    factors, draw = trial.factors, random.Random(f"{trial.name} {trial.spec.config['loss']}")
    row = {
        "trial_id": trial_id,
        "seed": trial.spec.seed,
        "attempt": 1,
        "failure": "",
        "reason": "",
        "time_train_s": draw.uniform(10, 20),
        "env_torch": "2.15.0",
        "env_device": "cpu",
    }
    if (factors["regularizers"], factors["arm"], trial.spec.seed) == DIVERGED:
        return Record({**row, "state": "failed", "failure": "diverged", "reason": "loss became nan at step 12 (epoch 1)"})
    metrics = {
        "metric_test_acc_top1_last": draw.uniform(0.9, 0.95),
        "metric_test_nll_last": draw.uniform(0.2, 0.3),
        "metric_test_caam_energy_last": draw.uniform(0.3, 0.5),
    }
    history = [{"epoch": epoch, "metric_test_acc_top1": draw.uniform(0.5, 0.95)} for epoch in range(1, 5)]
    return Record({**row, "state": "complete", **metrics}, history)


def edit_json(path: Path, change: object) -> None:
    """Let `change` alter a JSON document, and write it back as it was laid out."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)  # type: ignore[operator]
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
