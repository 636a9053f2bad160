"""DVC stage: prepare the datasets of the active study."""

import json

from pipeline.orchestration.preparing import prepare_study, write_images
from pipeline.stage import stage
from pipeline.study.config import load_study
from pipeline.study.params import load_params
from pipeline.study.project import DATASETS, IMAGES

with stage():
    params = load_params()
    file = load_study(params.study)
    summary = prepare_study(file, params, log=print)
    DATASETS.parent.mkdir(parents=True, exist_ok=True)
    DATASETS.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_images(file, params, IMAGES)
