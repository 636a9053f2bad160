"""DVC stage: search hyperparameters where the study declares it. Fails while the search has not ended, so that DVC caches nothing."""

from pipeline.orchestration.search.winners import write_no_search
from pipeline.stage import stage
from pipeline.study.config import load_study
from pipeline.study.params import load_params

with stage():
    params = load_params()
    file = load_study(params.study)
    if file.study.search is None:
        write_no_search(file.study.study)
        print(f"{file.study.study} declares no search")
    else:
        from pipeline.orchestration.search.run import run_search

        outcome = run_search(file, params, die_with_parent=True)
        outcome.raise_unless_done()
        for row in outcome.rows:
            print(f"{row.arm}: {row.points} points, {row.epochs} of {row.budget_epochs} epochs, best [{row.best_trial_id}]")
