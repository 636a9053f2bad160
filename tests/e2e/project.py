"""A small project in a folder of its own: the same code, stages and pipeline, a study of seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUDY = """\
study: tiny
seeds: {seeds}
defaults:
  dataset: {{name: cluttered_digits, canvas: 16, num_train: 96, num_val: 40, num_test: 60, clutter: 1}}
  backbone: resnet8
  epochs: 2
  batch_size: 32
  optimizer: {{lr: 0.05}}
arms:
  ce: {{}}
  cam: {{loss: {{cam: {{weight: 1.0}}}}}}
tables:
  backbones:
    rows: {{backbone: [{backbones}]}}
    columns: {{arm: [ce, cam]}}
    baseline: ce
  loss_weight:
    rows: {{loss.cam.weight: [0, 1]}}
    columns: {{metric: [acc_top1, caam_energy]}}
"""


@dataclass(frozen=True)
class Project:
    """A project folder and the ways to run things in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The folder's own copy of the code comes first; nothing of the user's configuration is seen."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_", "MLFLOW_", "DVC_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(self.folder.parent)}

    def run(self, *command: str, check: int | None = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder; `check` is the exit status it must have."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert check is None or done.returncode == check, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        with (self.folder / "started.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )

    def ablate(self, *arguments: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `ablate` with this project's code."""
        return self.run(sys.executable, "-m", "pipeline", *arguments, check=check)

    def write_study(self, *, seeds: int = 2, backbones: str = "resnet8") -> None:
        """Declare the tiny study."""
        (self.folder / "studies/tiny.yaml").write_text(STUDY.format(seeds=seeds, backbones=backbones), encoding="utf-8")

    def set_param(self, old: str, new: str) -> None:
        """Replace a line of params.yaml."""
        file = self.folder / "params.yaml"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def copy_to(self, folder: Path) -> Project:
        """The same project elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def make_project(folder: Path) -> Project:
    """A fresh checkout with the tiny study active, trained one after the other."""
    folder.mkdir()
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    (folder / "studies").mkdir()
    (folder / "plugins").mkdir()
    shutil.copy(ROOT / "plugins/README.md", folder / "plugins")
    project = Project(folder)
    project.write_study()
    project.set_param("study: quick", "study: tiny")
    project.set_param("executor: ray", "executor: serial")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", *identity, "commit", "-qm", "tiny study")
    return project
