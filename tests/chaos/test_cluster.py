"""A cluster whose nodes do not see the driver's files: data goes through Ray's object store, a store that is not shared is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store.trial_store import TrialStore
from tests.chaos.nodes import RayNodes
from tests.e2e.project import Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(600)]


class Blindfolded(RayNodes):
    """Nodes on which some folders of the driver's machine are empty: a mount namespace each, as root."""

    def __init__(self, *hidden: Path) -> None:
        super().__init__(workers=1, cpus=2)
        self.hidden = hidden
        self.environment |= {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def prefix(self, index: int | None) -> list[str]:
        """Covers the folders before `ray start`."""
        if index is None:
            return []
        cover = " && ".join(f"mount -t tmpfs tmpfs {path}" for path in self.hidden)
        return ["unshare", "--mount", "sh", "-c", f'{cover} && exec "$@"', "sh"]


@pytest.fixture
def clustered(tmp_path: Path) -> Project:
    """The tiny study, prepared, for the cluster."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces need root")
    project = make_project(tmp_path / "project")
    project.ablate("prepare")
    project.set_param("executor: serial", "executor: ray")
    project.set_param("uri: sqlite:///mlflow.db", "uri: null")
    (project.folder / "store").mkdir()
    return project


def run_on(nodes: RayNodes, project: Project) -> subprocess.CompletedProcess[str]:
    """`ablate run` with the driver on the head."""
    environment = {**project.environment, **nodes.environment, "PYTHONPATH": str(project.folder), "RAY_ADDRESS": nodes.address}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "--cluster"], cwd=project.folder, env=environment,
        capture_output=True, text=True, timeout=400, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_data_that_a_node_does_not_see_is_sent_to_it(clustered: Project) -> None:
    """Code and data reach a node that sees neither; its trials equal those of the driver's machine."""
    clustered.set_param("executor: ray", "executor: serial")
    clustered.set_param("url: store", "url: store-here")
    clustered.ablate("run")
    clustered.set_param("url: store-here", "url: store")
    clustered.set_param("executor: serial", "executor: ray")
    with Blindfolded(clustered.folder / "data", clustered.folder / "pipeline") as nodes:
        done = run_on(nodes, clustered)
        assert done.returncode == 0, done.stderr
        assert len(list((nodes.folder / "cache/cam-ablate/prepared").glob("cluttered_digits-*/data.arrow"))) == 1
    here, there = (TrialStore(clustered.folder / name).records() for name in ("store-here", "store"))
    assert {t: r["weights_sha256"] for t, r in here.items()} == {t: r["weights_sha256"] for t, r in there.items()}
    assert len(there) == 4


def test_a_node_that_does_not_see_the_store_is_refused_by_name(clustered: Project) -> None:
    """Exit status 2 before anything is trained; the message says what a store must be."""
    with Blindfolded(clustered.folder / "store") as nodes:
        done = run_on(nodes, clustered)
    assert done.returncode == 2, done.stderr
    assert f"Node {os.uname().nodename} does not see the store {clustered.folder}/store" in done.stderr
    assert "Traceback" not in done.stderr
    assert TrialStore(clustered.folder / "store").records() == {}
