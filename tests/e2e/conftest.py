"""Projects to run things in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose `dvc repro` has ended; not to be changed."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    project.run("dvc", "repro")
    return project


@pytest.fixture
def finished(finished_once: Project, tmp_path: Path) -> Project:
    """A copy, at another path, of a project whose `dvc repro` has ended."""
    return finished_once.copy_to(tmp_path / "moved")
