"""The study file: everything a study declares, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.study.place import Path_
from pipeline.study.plugins import import_plugins, plugin_folders
from pipeline.study.presentation import ReferenceSpec, StatisticsSpec, Style, check_names
from pipeline.study.search import SearchSpec, check_search
from pipeline.study.strict import Strict
from pipeline.study.validate import validate
from pipeline.study.yaml_file import locate, read_yaml

Selection = Literal["last", "best_val", "best_test"]
Level = Any  # a name, a number, a list or a mapping, as the field that varies wants it


def _levels(value: Any) -> Any:
    if not isinstance(value, list | dict):
        raise ValueError(f"levels are a list, or a mapping of label to level, got {value!r}")
    if not value:
        raise ValueError("the list of levels is empty; a factor needs at least one level")
    names = [level_label(level) for level in value]
    for index, level in enumerate(value):
        # 1 and 1.0 are the same level, and two levels must not read the same in a table.
        if isinstance(value, list) and (level in value[:index] or names[index] in names[:index]):
            raise ValueError(f"the level {names[index]!r} stands twice in [{', '.join(names)}]. Keep one")
    return value


def _seeds(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if len(set(map(str, numbers))) < len(numbers):
        raise ValueError(f"seeds: an index stands twice in {value}. Keep one")
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers) or value == 0:
        raise ValueError(f"seeds is a number of repetitions >= 1, or a list of indices >= 0, got {value!r}")
    return value


def _plugin(value: Any) -> Any:
    if not isinstance(value, str) or not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(f"a plugin is the dotted name of a module, e.g. my_package.my_loss, got {value!r}")
    return value


def _plugins(value: list[str]) -> list[str]:
    twice = [name for name in value if value.count(name) > 1]
    if twice:
        raise ValueError(f"plugins: {twice[0]!r} stands twice in [{', '.join(value)}]. Keep one")
    return value


def _metrics(value: Any) -> Any:
    return check_names(value, "metric", "the name of a metric, or a list of names")


Metrics = Annotated[str | list[str], BeforeValidator(_metrics)]
Levels = Annotated[list[Level] | dict[str, Level], BeforeValidator(_levels)]
Seeds = Annotated[int | list[int], BeforeValidator(_seeds)]
Plugins = Annotated[list[Annotated[str, BeforeValidator(_plugin)]], AfterValidator(_plugins)]


def level_label(value: Any) -> str:
    """How a level reads in a table: 'resnet8', '0.3', 'cutmix + label_smoothing', 'cutout(size=8)'."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " + ".join(level_label(item) for item in value) or "none"
    if isinstance(value, dict):
        if "name" in value:
            value = {str(value["name"]): {k: v for k, v in value.items() if k != "name"}}
        parts = []
        for name, options in value.items():
            if isinstance(options, dict):
                inside = ", ".join(f"{k}={level_label(v)}" for k, v in options.items())
                parts.append(f"{name}({inside})" if inside else str(name))
            else:
                parts.append(f"{name}={level_label(options)}")
        return " + ".join(parts)
    return str(value)


class Protocol(Strict):
    """How a trial is boiled down to one number."""

    selection: Selection = Field(
        default="last", description="Which epoch is reported: the last, the best on validation, or (leaks) the best on test."
    )
    metric: Metrics = Field(
        default="acc_top1", description="Test metric in the cells of a table, or a list of several, unless its columns are metrics."
    )


class TableSpec(Strict):
    """One factorial design, one table of the paper."""

    title: str = Field(default="", description="Caption title; the name of the table if empty.")
    rows: dict[str, Levels] = Field(
        description="Dotted field of the trial configuration (or `arm`) -> its levels; several fields are crossed."
    )
    columns: dict[str, Levels] = Field(description="As rows; or `metric` -> names of metrics, one column each.")
    baseline: str | None = Field(default=None, description="Arm that the others are compared with.")
    set: dict[str, Any] = Field(default_factory=dict, description="Fields that differ from the defaults throughout this table.")
    selection: Selection | None = Field(default=None, description="Overrides protocol.selection.")
    metric: Metrics | None = Field(default=None, description="Overrides protocol.metric; several metrics are columns side by side.")
    style: Style | None = Field(default=None, description="What this table prints; keys it leaves out are as the study has them.")
    reference: dict[str, ReferenceSpec] = Field(
        default_factory=dict, description="Columns of published numbers: header -> which; `ablate published` lists what there is."
    )
    tuned: bool = Field(default=False, description="Each arm carries the best point that the search found for it.")

    @field_validator("rows", "columns")
    @classmethod
    def _some_field(cls, value: dict[str, Levels]) -> dict[str, Levels]:
        if not value:
            raise ValueError("needs at least one field with its levels, e.g. backbone: [resnet8, resnet20]")
        return value


class Study(Strict):
    """One study file."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Name of the study; letters, digits, _ and -.")
    description: str = Field(default="", description="What it asks, in a sentence.")
    plugins: Plugins = Field(
        default_factory=list, description="Modules from elsewhere that register methods, e.g. my_package.my_loss; imported in this order."
    )
    protocol: Protocol = Protocol()
    seeds: Seeds = Field(default=3, description="Number of repetitions (indices 0..n-1), or the list of indices.")
    datasets: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Own names for datasets: name -> {source: ..., option: value}."
    )
    defaults: dict[str, Any] = Field(description="Trial configuration that every cell starts from.")
    arms: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Named treatments: name -> fields that differ from the defaults."
    )
    statistics: StatisticsSpec = StatisticsSpec()
    style: Style = Style()
    search: SearchSpec | None = Field(default=None, description="Hyperparameter search, at the same budget for every arm.")
    tables: dict[str, TableSpec] = Field(min_length=1, description="The tables of the study.")

    def seed_indices(self, override: int | list[int] | None = None) -> list[int]:
        """The repetition indices, from the study file or overridden by params.yaml."""
        seeds = self.seeds if override is None else override
        return list(range(seeds)) if isinstance(seeds, int) else sorted(set(seeds))


class StudyFile:
    """A study and where each of its keys stands; its plugins are imported.

    Attributes:
        study: the typed content.
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        raw, self._lines = read_yaml(path, "study file")
        self.study = validate(Study, raw, self.locate)
        if self.study.search is not None:
            check_search(self.study.search, self.study.arms, self.locate)
        import_plugins(self.study.plugins, plugin_folders(), self.locate)

    def locate(self, path: Path_) -> str:
        """'studies/quick.yaml:17: tables.backbones.rows' for a path of keys; the line of its nearest known parent."""
        return locate(self.path, self._lines, path)


def load_study(name: str, folder: Path = Path("studies")) -> StudyFile:
    """Read the study called `name`, or the file at the path `name`.

    Raises:
        ConfigError: no such study, or its file is wrong; every problem is named with its line.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists() and not name.endswith((".yaml", ".yml")):
        known = [p.stem for p in folder.glob("*.yaml")]
        raise UnknownNameError("study", name, known, where=str(folder), next_step=f"Add a file {folder}/{name}.yaml to declare one.")
    file = StudyFile(path)
    if path.parent == folder and file.study.study != path.stem:
        raise ConfigError(
            f"{file.locate(('study',))}: the study calls itself {file.study.study!r} but its file is {path.name}. Make the two equal."
        )
    return file
