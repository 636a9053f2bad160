"""DVC stage: prepare the datasets of the active study."""

import json

from pipeline.orchestration.preparing import prepare_study
from pipeline.stage import stage
from pipeline.study.config import load_study
from pipeline.study.params import load_params
from pipeline.study.project import DATASETS

with stage():
    params = load_params()
    summary = prepare_study(load_study(params.study), params, log=print)
    DATASETS.parent.mkdir(parents=True, exist_ok=True)
    DATASETS.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
