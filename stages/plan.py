"""DVC stage: expand the active study into trials with their identities."""

from pipeline.orchestration.planning import make_plan, write_plan
from pipeline.stage import stage
from pipeline.study.config import load_study
from pipeline.study.params import load_params
from pipeline.study.project import PLAN

with stage():
    params = load_params()
    plan = make_plan(load_study(params.study), params)
    write_plan(plan, PLAN)
    print(f"{plan.study}: {len(plan.trials)} trials in {len(plan.tables)} tables")
