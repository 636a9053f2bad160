"""A study on three nodes whose driver, workers and nodes are killed: nothing lost, nothing twice, every number the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.store.trial_store import TrialStore
from tests.chaos.nodes import RayNodes
from tests.chaos.storm import Storm, chaos_project, compare, undisturbed

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_storm_leaves_no_trace(tmp_path: Path) -> None:
    """Five injections, a driver, a worker and a node among them; the large storm is run by hand, see storm.py."""
    project = chaos_project(tmp_path / "project", seeds=2, epochs=40)
    calm = undisturbed(project)
    told: list[str] = []
    with RayNodes() as nodes:
        storm = Storm(project, nodes, random.Random(4), told.append)
        assert storm.run(5, timeout=600, pause_s=(0.2, 1.5), kinds=("worker", "driver", "node", "worker", "driver")), told
    assert compare(project, calm) == []
    assert len(calm) == 8
    assert not list((project.folder / "store").glob("checkpoints/*/*"))
    assert sum(record["resumed"] > 0 for record in TrialStore(project.folder / "store").records().values()) >= 1, told
