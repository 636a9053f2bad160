"""What a report and a record say of the checkout: commit, changes, lock, versions and data."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.orchestration import provenance as module
from pipeline.orchestration.provenance import origin, provenance

MADE = "tables and report made at commit"
UNKNOWN = "not known: no git checkout, or one without commits"


def head() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


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
    assert facts[MADE] == f"{head()}, as committed"
    assert facts["requirements.lock"] == f"sha256 {hashlib.sha256(b'torch==2.15' + bytes([10])).hexdigest()}"
    assert facts["data digest"] == {"digits": "da7a"}
    assert facts["versions"]["torch"] == metadata.version("torch")


def test_changed_files_are_named_but_not_the_lock_of_dvc(checkout: Path) -> None:
    """A changed and a new file make the tree differ; dvc.lock, which a running pipeline writes, does not."""
    (checkout / "dvc.lock").write_text("a: 2\n")
    assert provenance()[MADE] == f"{head()}, as committed"
    (checkout / "requirements.lock").write_text("torch==2.16\n")
    for i in range(6):
        (checkout / f"new{i}.py").write_text("")
    assert provenance()[MADE] == (
        f"{head()}, with changes that were not committed: requirements.lock, new0.py, new1.py, new2.py, new3.py and 2 more"
    )


def test_no_checkout_no_lock_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without any of them says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    facts = provenance()
    assert (facts[MADE], facts["requirements.lock"], facts["data digest"]) == (UNKNOWN, "absent", {})
    assert origin("tiny") == {"env_study": "tiny"}


def test_git_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git on the machine the rest is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = provenance()
    assert facts[MADE] == UNKNOWN
    assert facts["versions"]
    assert origin("tiny") == {"env_study": "tiny"}


def test_records_get_commit_and_whether_files_differ(checkout: Path) -> None:
    """A clean checkout and one with a new file; what DVC writes into dvc.lock while it runs is no change."""
    at = {"env_study": "tiny", "env_git_commit": head()}
    (checkout / "dvc.lock").write_text("a: 2\n")
    assert origin("tiny") == {**at, "env_git_dirty": False}
    (checkout / "new.py").write_text("")
    assert origin("tiny") == {**at, "env_git_dirty": True}


def test_repository_without_a_commit_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git init` alone is no checkout of anything."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert origin("tiny") == {"env_study": "tiny"}
    assert provenance()[MADE] == UNKNOWN


def test_broken_index_leaves_the_commit(checkout: Path) -> None:
    """Where git knows the commit but not what changed, nothing is claimed of changes."""
    (checkout / ".git/index").write_bytes(b"broken")
    assert origin("tiny") == {"env_study": "tiny", "env_git_commit": head()}
    assert provenance()[MADE] == f"{head()}; whether files were changed is not known"


def test_git_that_hangs_is_given_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that does not answer costs the commit, not the run."""
    (checkout / "bin").mkdir()
    (checkout / "bin/git").write_text("#!/bin/sh\nexec sleep 30\n")
    (checkout / "bin/git").chmod(0o755)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    monkeypatch.setenv("PATH", str(checkout / "bin"), prepend=":")
    assert origin("tiny") == {"env_study": "tiny"}
