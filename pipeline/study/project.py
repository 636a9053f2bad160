"""Where a project keeps its files: the contract between the stages of the pipeline."""

from __future__ import annotations

import os
from pathlib import Path

DATASETS = Path("data/datasets.json")
IMAGES = Path("data/images.parquet")
PLAN = Path("plan")
RESULTS = Path("results")
OUTCOMES = RESULTS / "outcomes.json"
TABLES = Path("tables")
FIGURES = Path("figures")
CURVES = Path("curves")
REPORT = Path("report")
SEARCH = Path("search")
METRICS = Path("metrics.json")


def absolute_url(url: str) -> str:
    """A folder as an absolute path, since workers have their own working directory; a URL as it is."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def find_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that holds params.yaml and studies/, else `start` itself."""
    start = start or Path.cwd()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").exists() and (folder / "studies").is_dir():
            return folder
    return start


def enter_root() -> None:
    """Make the project's root the working directory: every path in params.yaml and studies is relative to it."""
    os.chdir(find_root())
