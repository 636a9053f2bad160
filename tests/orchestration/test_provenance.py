"""What a report says of the checkout: commit, changes, lock, versions and data."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.orchestration.provenance import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git checkout as the working directory, with a lock, a dvc.lock and a prepared dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.lock").write_text("torch==2.15\n")
    (tmp_path / "dvc.lock").write_text("a: 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datasets.json").write_text(json.dumps({"x": {"name": "digits", "digest": "da7a"}}))
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True, capture_output=True)
    return tmp_path


def test_clean_checkout(checkout: Path) -> None:
    """Commit, lock hash, data digest and versions are those that git, sha256 and the package metadata give."""
    facts = provenance()
    assert facts["commit"] == subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert facts["working tree"] == "clean: as committed"
    assert facts["requirements.lock"] == f"sha256 {hashlib.sha256(b'torch==2.15' + bytes([10])).hexdigest()}"
    assert facts["data digest"] == {"digits": "da7a"}
    assert facts["versions"]["torch"] == metadata.version("torch")


def test_changed_files_are_named_but_not_the_lock_of_dvc(checkout: Path) -> None:
    """A changed and a new file make the tree differ; dvc.lock, which a running pipeline writes, does not."""
    (checkout / "dvc.lock").write_text("a: 2\n")
    assert provenance()["working tree"] == "clean: as committed"
    (checkout / "requirements.lock").write_text("torch==2.16\n")
    for i in range(6):
        (checkout / f"new{i}.py").write_text("")
    assert provenance()["working tree"] == ("changed since the commit: requirements.lock, new0.py, new1.py, new2.py, new3.py and 2 more")


def test_no_checkout_no_lock_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without any of them says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    facts = provenance()
    assert (facts["commit"], facts["working tree"], facts["requirements.lock"], facts["data digest"]) == (
        "not a git checkout",
        "unknown",
        "absent",
        {},
    )


def test_git_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git on the machine the rest is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = provenance()
    assert facts["commit"] == "not a git checkout"
    assert facts["versions"]
