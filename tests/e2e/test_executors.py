"""Serial and Ray, one worker and two: equal metrics, trial by trial."""

from __future__ import annotations

import pytest

from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def train(project: Project, store: str, executor: str, workers: str) -> dict[str, Record]:
    text = (project.folder / "params.yaml").read_text(encoding="utf-8")
    changed = text.replace("url: store", f"url: {store}").replace("executor: serial", f"executor: {executor}")
    changed = changed.replace("max_concurrent: null", f"max_concurrent: {workers}").replace("uri: sqlite:///mlflow.db", "uri: null")
    (project.folder / "params.yaml").write_text(changed, encoding="utf-8")
    project.ablate("run")
    (project.folder / "params.yaml").write_text(text, encoding="utf-8")
    return TrialStore(project.folder / store).records()


@pytest.mark.cluster
def test_executor_and_number_of_workers_change_no_number(project: Project) -> None:
    """Weights, bit for bit, all metrics, what pictures are drawn from, and the commit are the same whoever ran the trials."""
    head = project.run("git", "rev-parse", "HEAD").stdout.strip()
    serial = train(project, "store-serial", "serial", "null")
    one = train(project, "store-one", "ray", "1")
    two = train(project, "store-two", "ray", "2")
    assert len(serial) == 4
    for other in (one, two):
        assert other.keys() == serial.keys()
        for trial_id, record in serial.items():
            metrics = {key: value for key, value in record.items() if key.startswith("metric_")}
            assert metrics == {key: value for key, value in other[trial_id].items() if key.startswith("metric_")}
            assert record["weights_sha256"] == other[trial_id]["weights_sha256"]
            assert other[trial_id]["env_git_commit"] == record["env_git_commit"] == head
    pictures = [
        TrialStore(project.folder / name).panels_table(serial).sort_by("trial_id") for name in ("store-serial", "store-one", "store-two")
    ]
    assert len(pictures[0]) == 4
    assert pictures[1].equals(pictures[0])
    assert pictures[2].equals(pictures[0])
