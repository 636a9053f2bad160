"""DVC stage: figures and the report, and the tables in MLflow."""

from pipeline.orchestration.publish import publish
from pipeline.stage import stage
from pipeline.study.params import load_params

with stage():
    publish(load_params())
