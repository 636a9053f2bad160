"""The plan: every trial of a study with its identity, before anything is trained."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import data, losses, models, regularizers
from pipeline.analysis.published import published_columns
from pipeline.errors import ConfigError, DataError
from pipeline.orchestration.fitting import Fits
from pipeline.orchestration.plugin_data import is_stale
from pipeline.store.records import Record
from pipeline.study.code_key import code_key, code_parts
from pipeline.study.config import StudyFile
from pipeline.study.design import Cell, TableDesign, expand, expand_datasets, level_label, loss_label, regularizers_label
from pipeline.study.identity import canonical_json, make_specs
from pipeline.study.params import Params
from pipeline.study.plugins import import_plugins, plugin_folders
from pipeline.study.resolve import Vocabulary
from pipeline.study.spec import TrialSpec

COUNTS = ("new", "stored", "shared", "blocked", "failed")
WAITS_FOR_SEARCH = "the table waits for the search; run `ablate search` (`dvc repro` does it before it plans)"


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the plan.

    Attributes:
        spec: what to run.
        name: how people call it: its cell and seed.
        tables: tables that it serves.
        arm: name of its arm, or None.
        factors: field -> level in words, for every field that varies somewhere in the study; None: the trial has no such field. The words
            are those of the first table that varies the field over this trial, else they are read off the configuration.
        reason: why it is skipped; '' for a trial to be run.
        attempt: 1, and one more for each earlier failure that is stored.
    """

    spec: TrialSpec
    name: str
    tables: tuple[str, ...]
    arm: str | None
    factors: dict[str, str | None]
    reason: str = ""
    attempt: int = 1

    @property
    def state(self) -> str:
        """'planned' or 'skipped'."""
        return "skipped" if self.reason else "planned"

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps({**asdict(self), "spec": self.spec.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PlannedTrial:
        """The inverse of `to_json`."""
        content = json.loads(text)
        return cls(**{**content, "spec": TrialSpec.from_dict(content["spec"]), "tables": tuple(content["tables"])})


@dataclass(frozen=True)
class Plan:
    """All trials of a study.

    Attributes:
        study: its name.
        trials: by trial id, in the order of the tables.
        tables: what `plan/tables.json` holds, ready for `pipeline.analysis`.
        blocked: table -> number of trials whose identity is not known yet, and why.
        datasets: resolved dataset components.
        description: what the study file says that it is about.
    """

    study: str
    trials: dict[str, PlannedTrial]
    tables: list[dict[str, Any]]
    datasets: list[dict[str, Any]]
    blocked: dict[str, list[str]] = field(default_factory=dict)
    description: str = ""

    def to_run(self) -> list[PlannedTrial]:
        """Trials that are not skipped."""
        return [trial for trial in self.trials.values() if not trial.reason]

    def why_blocked(self) -> dict[str, int]:
        """Each reason why trials have no identity yet -> number of these trials."""
        return dict(Counter(reason for reasons in self.blocked.values() for reason in reasons))


def _prepare_command(file: StudyFile, params: Params) -> str:
    """What prepares the datasets of a study. Not `dvc repro`: what is prepared is none of its outs, so it would see nothing to do."""
    return "ablate prepare" + (f" --study {file.study.study}" if file.study.study != params.study else "")


def vocabulary() -> Vocabulary:
    """The names registered in this installation."""
    return Vocabulary(data.registry, models.registry, losses.registry, regularizers.registry)


def make_plan(file: StudyFile, params: Params) -> Plan:
    """Expand a study into trials. Reads the manifests of prepared datasets; writes nothing but the answers that `fitting` remembers.

    A trial of a dataset that is not prepared has no identity yet, nor has one of a table that waits for the winners of a search: these
    are counted as blocked, and nothing else is said of them.

    Raises:
        ConfigError: the study file is wrong, names published numbers that there are not, or a batch is larger than a prepared dataset's
            training split.
        DataError: a prepared dataset is damaged.
    """
    from pipeline.orchestration.search.winners import winners_of  # it plans the search by means of this module

    tuned = any(table.tuned for table in file.study.tables.values())
    winners = winners_of(file, params) if tuned else None
    designs = expand(file, vocabulary(), winners)
    check_references(file, designs)
    seeds = file.study.seed_indices(params.seeds)
    datasets = expand_datasets(file, data.registry)
    prepared = Path(params.data.prepared)
    manifests = {canonical_json(c): None if is_stale(c, prepared) else data.read_manifest(c, prepared) for c in datasets}
    varied = [f for design in designs for f in (*design.row_fields, *design.column_fields) if f not in ("arm", "metric")]
    arms = _arms_by_config(designs)
    fits = Fits(prepared)
    trials: dict[str, PlannedTrial] = {}
    declared: dict[str, dict[str, str]] = {}
    tables, blocked, unidentified = [], {}, set()
    for design in designs:
        cells = []
        if design.tuned and winners is None:
            blocked[design.name] = [WAITS_FOR_SEARCH] * (len(design.cells) * len(seeds))
            tables.append(_table_entry(design, cells, seeds))
            continue
        for cell in design.cells:
            manifest = manifests[canonical_json(cell.config["dataset"])]
            if manifest is None:
                reason = f"dataset {cell.config['dataset']['name']!r} is not prepared in {prepared}; run `{_prepare_command(file, params)}`"
                if (config := canonical_json(cell.config)) not in unidentified:  # the same cell in two tables is the same trials
                    blocked.setdefault(design.name, []).extend([reason] * len(seeds))
                    unidentified.add(config)
                continue
            check_batch_size(cell.config, manifest)
            key = code_key_of(cell.config)
            reason = why_skipped(cell.config, manifest, key, fits)
            arm = cell.arm or arms.get(canonical_json(cell.config))
            factors, levels = _factors(cell.config, varied, arm), _declared(cell)
            entries = []
            for spec in make_specs(cell.config, seeds, manifest["digest"], key, plugins=file.study.plugins):
                known = trials.get(spec.trial_id)
                levels_of = declared[spec.trial_id] = levels | declared.get(spec.trial_id, {})
                if known is None:
                    trial = PlannedTrial(spec, _name(cell, spec.seed), (design.name,), arm, factors | levels_of, reason)
                else:
                    tables_of = known.tables if design.name in known.tables else (*known.tables, design.name)
                    trial = replace(known, tables=tables_of, factors=known.factors | levels_of)
                trials[spec.trial_id] = trial
                entries.append({"seed": spec.seed, "trial_id": spec.trial_id, "state": trial.state, "reason": reason})
            cells += [_cell_entry(cell, metric, spec.cell_id, entries) for metric in cell.metrics]
        tables.append(_table_entry(design, cells, seeds))
    fits.save()
    return Plan(file.study.study, trials, tables, datasets, blocked, file.study.description)


def check_references(file: StudyFile, designs: Iterable[TableDesign]) -> None:
    """Look up the published numbers that tables are to show, so that a wrong name is said before anything is trained.

    Raises:
        ConfigError: with the place in the study file.
    """
    for design in designs:
        metrics = dict.fromkeys(metric for cell in design.cells for metric in cell.metrics)
        parts = dict(zip(design.rows, design.row_parts, strict=True))
        base = ("tables", design.name, "reference")
        published_columns(design.reference, design.row_fields, parts, list(metrics), lambda path, base=base: file.locate((*base, *path)))


def count(plan: Plan, records: Mapping[str, Record]) -> dict[str, Any]:
    """Trials by table and in all: new, stored, shared, blocked, failed.

    A trial is counted in the first table that needs it and is 'shared' in later ones, so the totals count each trial once but for
    'shared'. Skipped trials count nowhere: there is nothing to do for them.
    """
    tables: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    for table in plan.tables:
        counts = dict.fromkeys(COUNTS, 0)
        counts["blocked"] = len(plan.blocked.get(table["name"], ()))
        # Cells that differ only in the metric they show are the same trials.
        for trial_id in dict.fromkeys(entry["trial_id"] for cell in table["cells"] for entry in cell["trials"]):
            record = records.get(trial_id)
            if plan.trials[trial_id].reason:
                continue
            if trial_id in seen:
                counts["shared"] += 1
            elif record is None or record["state"] == "pruned":
                counts["new"] += 1
            else:
                counts["stored" if record["state"] == "complete" else "failed"] += 1
            seen.add(trial_id)
        tables[table["name"]] = counts
    return {"totals": {name: sum(c[name] for c in tables.values()) for name in COUNTS}, "tables": tables}


def missing(plan: Plan, records: Mapping[str, Record], *, again: bool = False) -> list[PlannedTrial]:
    """Trials to be run: never run, pruned by a search, or failed for a reason that may pass; with `again` also what failed by a bug."""

    def is_done(record: Record | None) -> bool:
        return record is not None and (record.is_final if again else record.is_settled)

    return [trial for trial in plan.to_run() if not is_done(records.get(trial.spec.trial_id))]


def check_identified(plan: Plan) -> None:
    """Refuse a plan of whose trials none has an identity yet: nothing can be asked of it.

    Raises:
        ConfigError: says what to do.
    """
    if plan.blocked and not plan.trials:
        reasons = "; ".join(plan.why_blocked())
        raise ConfigError(f"Study {plan.study}: which trials it is made of is not known yet, as {reasons}.")


def check_code(trials: Iterable[PlannedTrial]) -> None:
    """Refuse to run a plan that was made with other code.

    Raises:
        ConfigError: the code of a trial changed since it was planned.
    """
    for trial in trials:
        if code_key_of(trial.spec.config) != trial.spec.code_key:
            raise ConfigError(
                f"The code of trial {trial.name!r} changed since the plan was made. Run `dvc repro` (or `ablate run`) to plan again."
            )


def code_of(config: dict[str, Any]) -> dict[str, str]:
    """Module -> digest of its code, for every module that enters the code key of a trial with this configuration."""
    return dict(_code_of(tuple(sorted(set(_modules(config))))))


def write_plan(plan: Plan, folder: Path) -> None:
    """Write `trials.parquet` (a row a trial) and `tables.json` (what the tables are made of).

    Raises:
        ConfigError: no trial has an identity yet.
    """
    check_identified(plan)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "trial_id": trial.spec.trial_id,
            "cell_id": trial.spec.cell_id,
            "state": trial.state,
            "reason": trial.reason,
            "name": trial.name,
            "tables": list(trial.tables),
            "seed": trial.spec.seed,
            "planned": trial.to_json(),
            **{f"factor_{name}": level_label(value) for name, value in trial.factors.items()},
        }
        for trial in plan.trials.values()
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "trials.parquet")
    content = {"study": plan.study, "description": plan.description, "datasets": plan.datasets, "tables": plan.tables}
    (folder / "tables.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """The inverse of `write_plan`; the plugins of its trials are imported.

    Raises:
        ConfigError: there is no plan in the folder, or a plugin cannot be imported any more.
    """
    try:
        rows = pq.read_table(folder / "trials.parquet").to_pylist()
        content = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise ConfigError(f"No readable plan in {folder}/: {error}. Run `dvc repro plan`.") from error
    trials = {row["trial_id"]: PlannedTrial.from_json(row["planned"]) for row in rows}
    import_plugins(list(dict.fromkeys(name for trial in trials.values() for name in trial.spec.plugins)), plugin_folders())
    return Plan(content["study"], trials, content["tables"], content["datasets"], description=content.get("description", ""))


def open_data(spec: TrialSpec, prepared: Path) -> data.ImageData:
    """The prepared dataset of a trial.

    Raises:
        DataError: it is not prepared, or its content is not what the trial was planned for.
    """
    component = spec.config["dataset"]
    images = data.open_prepared(component, prepared)
    if images is None:
        raise DataError(f"Dataset {component['name']!r} is not prepared in {prepared}. Run `ablate prepare`.")
    if images.digest != spec.data_digest:
        raise DataError(f"Dataset {component['name']!r} changed since the plan was made. Run `dvc repro` (or `ablate run`) to plan again.")
    return images


def _modules(config: dict[str, Any]) -> list[str]:
    entries = [
        models.registry.get(config["backbone"]["name"]),
        *(losses.registry.get(name) for name in config["loss"]),
        *(regularizers.registry.get(component["name"]) for component in config["regularizers"]),
    ]
    return [entry.module for entry in entries]


def code_key_of(config: dict[str, Any]) -> str:
    """The code key of a trial with this configuration."""
    return _code_key_of(tuple(sorted(set(_modules(config)))))


@functools.cache
def _code_key_of(modules: tuple[str, ...]) -> str:
    return code_key(modules)


@functools.cache
def _code_of(modules: tuple[str, ...]) -> dict[str, str]:
    return code_parts(modules)


def why_skipped(config: dict[str, Any], manifest: dict[str, Any], key: str, fits: Fits) -> str:
    """Why a trial with this configuration and code key cannot be run on a dataset; '' when it can."""
    compatible, reason = regularizers.supports(config["regularizers"])
    if compatible:
        compatible, reason = losses.supports(config["loss"], regularizers.mixing(config["regularizers"]))
    return fits.why_unfit(config, manifest, key) if compatible else reason


def check_batch_size(config: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Refuse a batch that is larger than the training split.

    Raises:
        ConfigError: says how large it may be.
    """
    start, end = manifest["ranges"]["train"]
    if config["batch_size"] > end - start:
        raise ConfigError(
            f"batch_size is {config['batch_size']}, but dataset {config['dataset']['name']!r} has only {end - start} training images. "
            f"Set batch_size to {end - start} or less."
        )


def _arms_by_config(designs: Iterable[TableDesign]) -> dict[str, str]:
    """Configuration -> arm, so that a trial of an arm-less table that equals an arm's trial carries the arm's name."""
    arms: dict[str, str] = {}
    for design in designs:
        for cell in design.cells:
            if cell.arm:
                arms.setdefault(canonical_json(cell.config), cell.arm)
    return arms


def _factors(config: dict[str, Any], varied: Iterable[str], arm: str | None) -> dict[str, str | None]:
    factors: dict[str, str | None] = {
        "dataset": config["dataset"]["name"],
        "backbone": config["backbone"]["name"],
        "loss": loss_label(config),
        "regularizers": regularizers_label(config),
        "arm": arm,
    }
    for name in varied:
        if name not in factors:
            value = _lookup(config, name)
            factors[name] = f"{value:g}" if isinstance(value, float) else None if value is None else level_label(value)
    return factors


def _declared(cell: Cell) -> dict[str, str]:
    """Field -> level of a cell, in the words of its table."""
    levels = cell.row_levels | cell.column_levels
    return {name: level_label(level) for name, level in levels.items() if name not in ("arm", "metric")}


def _lookup(config: Any, field_name: str) -> Any:
    for part in field_name.split("."):
        if isinstance(config, list):
            config = {component["name"]: component for component in config}
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _name(cell: Cell, seed: int) -> str:
    """'resnet8 · cutout(size=6) · cam · seed 0', 'resnet8 · loss.cam.weight=3 · seed 2'."""
    levels = {**cell.row_levels, **{field_name: level for field_name, level in cell.column_levels.items() if field_name != "metric"}}
    parts = ["tuned"] if cell.tuned else []
    parts += [] if "backbone" in levels else [cell.config["backbone"]["name"]]
    for field_name, level in levels.items():
        label = level_label(level)
        parts.append(f"{field_name}={label}" if "." in field_name else label)
    return " · ".join([*parts, f"seed {seed}"])


def _cell_entry(cell: Cell, metric: str, cell_id: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cell_id": cell_id,
        "row": cell.row,
        "column": cell.column,
        "row_levels": cell.row_levels,
        "column_levels": cell.column_levels,
        "arm": cell.arm,
        "metric": metric,
        "trials": trials,
    }


def _table_entry(design: TableDesign, cells: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    return {
        "name": design.name,
        "title": design.title,
        "row_fields": design.row_fields,
        "rows": design.rows,
        "row_parts": design.row_parts,
        "column_fields": design.column_fields,
        "columns": design.columns,
        "column_parts": design.column_parts,
        "column_kind": design.column_kind,
        "baseline": design.baseline,
        "selection": design.selection,
        "seeds": seeds,
        "fixed": design.fixed,
        "statistics": design.statistics,
        "style": design.style,
        "reference": design.reference,
        "cells": cells,
    }
