"""`search/best.yaml`: the best point of each arm, from which tables with `tuned: true` are made. Neither Optuna nor torch in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from pipeline.errors import ConfigError, DataError
from pipeline.study.config import StudyFile
from pipeline.study.design import Winners
from pipeline.study.params import Params
from pipeline.study.project import SEARCH
from pipeline.study.strict import Strict
from pipeline.study.validate import validate
from pipeline.study.yaml_file import read_yaml

BEST = "best.yaml"


class Winner(Strict):
    """The best complete point of an arm."""

    trial_id: str
    metric: str = Field(description="Column of its record by which it was the best.")
    value: float
    fields: dict[str, Any]


class Best(Strict):
    """The file.

    Attributes:
        study: the study that was searched.
        digest: of that search with its budget; null for a study that declares none.
        arms: arm -> its winner.
    """

    study: str
    digest: str | None
    arms: dict[str, Winner]


def write_best(best: Best, folder: Path) -> None:
    """Write `best.yaml` as a whole or not at all."""
    head = "# The best point of each arm, by the validation split. Made by `ablate search`.\n"
    if best.digest is None:
        head = f"# The study {best.study} declares no search.\n"
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{BEST}.tmp"
    scratch.write_text(head + yaml.safe_dump(best.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    scratch.replace(folder / BEST)


def write_no_search(study: str, folder: Path = SEARCH) -> None:
    """The file of a study that declares no search."""
    write_best(Best(study=study, digest=None, arms={}), folder)


def read_best(folder: Path) -> Best | None:
    """The file, or None when there is none.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / BEST
    if not path.exists():
        return None
    try:
        return validate(Best, read_yaml(path, "file of winners")[0])
    except ConfigError as error:
        raise ConfigError(f"{path} cannot be used: {error} Run `ablate search` to make it anew.") from error


def winners_of(file: StudyFile, params: Params, folder: Path = SEARCH) -> Winners | None:
    """The winners of the search that this study declares, each a point of its space; None when that search has not ended yet.

    Raises:
        ConfigError: the search is wrong, or the file is damaged.
    """
    best = read_best(folder)
    if best is None or best.study != file.study.study or best.digest is None:
        return None
    from pipeline.orchestration.search.arms import plan_search

    try:
        plan = plan_search(file, params)
    except DataError:  # not prepared: nobody knows yet what the search is about
        return None
    return {name: winner.fields for name, winner in best.arms.items()} if plan.digest == best.digest else None
