"""DVC stage: results, tables and metrics from plan and store."""

from pipeline.analysis.study import aggregate
from pipeline.stage import stage
from pipeline.study.params import load_params

with stage():
    aggregate(load_params().store.url)
