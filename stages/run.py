"""DVC stage: train what is missing. Fails while an outcome is not final, so that DVC caches nothing and the next repro continues."""

from pipeline.orchestration.outcome import write_outcomes
from pipeline.orchestration.planning import read_plan
from pipeline.orchestration.run import run_plan
from pipeline.stage import stage
from pipeline.study.params import load_params
from pipeline.study.project import OUTCOMES, PLAN

with stage():
    outcome = run_plan(read_plan(PLAN), load_params(), die_with_parent=True)
    print(outcome.line())
    outcome.raise_unless_final()
    write_outcomes(outcome, OUTCOMES)
