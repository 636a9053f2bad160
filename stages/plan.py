"""DVC stage: expand the active study into trials with their identities."""

from pipeline.orchestration.planning import count, make_plan, write_plan
from pipeline.orchestration.preparing import prepare_study
from pipeline.stage import stage
from pipeline.study.config import load_study
from pipeline.study.params import load_params
from pipeline.study.project import PLAN

with stage():
    params = load_params()
    file = load_study(params.study)
    prepare_study(file, params, log=print)  # what `prepare` left outside DVC is not in a fresh clone after `dvc pull`
    plan = make_plan(file, params)
    write_plan(plan, PLAN)
    for table, counts in count(plan, {})["tables"].items():  # without the store, so that the stage is a function of its deps
        print(f"{table}: {counts['new'] + counts['shared']} trials, {counts['shared']} of them shared with earlier tables")
    skipped = sum(bool(trial.reason) for trial in plan.trials.values())
    print(f"{plan.study}: {len(plan.trials) - skipped} trials in {len(plan.tables)} tables, {skipped} more skipped")
