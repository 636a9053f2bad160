"""Where the numbers of a study come from: what its trials ran on, and what else is known of code, data and versions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.report.listing import Listing
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import join_words, one_line
from pipeline.errors import counted
from pipeline.store.records import checkout_words

# What may change the last bits of a result; the host does not.
_MACHINE = ("env_device", "env_device_name", "env_torch", "env_python", "env_threads")


def provenance_rows(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, text) of each fact; those of a mapping within go under its name: 'versions: torch'."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            rows += provenance_rows(value, f"{prefix}{key}: ")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows


def trained_rows(trials: pa.Table) -> list[tuple[str, str]]:
    """A fact for each commit that trials were trained at, the one of most trials first; those that never ran are left out."""
    kinds: Counter[tuple[str | None, bool | None]] = Counter(
        (row["env_git_commit"], row["env_git_dirty"])
        for row in _columns(trials, ["state", "env_git_commit", "env_git_dirty"])
        if has_run(row["state"])
    )
    return [("trials trained at commit", f"{counted(count, 'trial')}: {commit_words(*kind)}") for kind, count in kinds.most_common()]


def has_run(state: str | None) -> bool:
    """Whether a trial of the results has a record."""
    return state not in ("planned", "skipped")


def commit_words(commit: str | None, dirty: bool | None) -> str:
    """The commit of a trial and whether files differed from it; said as well where its record does not tell."""
    return "not recorded" if commit is None else checkout_words(commit, dirty)


def hardware(trials: pa.Table) -> Listing | None:
    """How many trials ran on what: device, its name, versions, threads, hosts and hours; None where no record tells."""
    columns = [name for name in _MACHINE if name in trials.column_names]
    kinds = _machines(trials)
    if not kinds:
        return None
    hosts: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
    hours: dict[tuple[Any, ...], float] = defaultdict(float)
    for row in _columns(trials, [*columns, "env_host", "time_total_s"]):
        kind = tuple(row[name] for name in columns)
        hosts[kind].add(row["env_host"])
        hours[kind] += (row["time_total_s"] or 0.0) / 3600
    rows = tuple(
        (
            *(("--" if value is None else str(value)) for value in kind),
            str(count),
            str(len(hosts[kind] - {None}) or "--"),
            f"{hours[kind]:.2f}",
        )
        for kind, count in kinds.most_common()
    )
    headers = (*(name.removeprefix("env_").replace("_", " ") for name in columns), "trials", "hosts", "hours")
    several = "Trials of different kinds of machine are not equal to the last bit." if len(rows) > 1 else ""
    return Listing("What the trials ran on", headers, rows, texts=len(columns), note=several)


def mixed_hardware(result: TableResult, trials: pa.Table) -> list[str]:
    """A sentence where the trials behind one table ran on several kinds of machine, with what differs."""
    wanted = pa.array({trial_id for cell in result.cells for trial_id in cell.trial_ids}, pa.string())
    kinds = _machines(trials.filter(pc.is_in(trials["trial_id"], value_set=wanted)))
    if len(kinds) < 2:
        return []
    names = [name.removeprefix("env_").replace("_", " ") for name in _MACHINE if name in trials.column_names]
    values = [sorted({str(kind[i]) for kind in kinds}) for i in range(len(names))]
    differing = "; ".join(f"{name} {join_words(each)}" for name, each in zip(names, values, strict=True) if len(each) > 1)
    return [f"Its trials ran on {len(kinds)} kinds of machine: {one_line(differing)}."]


def _machines(trials: pa.Table) -> Counter[tuple[Any, ...]]:
    """Number of trials by the values of `_MACHINE` that the results have; those that never ran are not counted."""
    columns = [name for name in _MACHINE if name in trials.column_names]
    kinds = (tuple(row.values()) for row in _columns(trials, columns))
    return Counter(kind for kind in kinds if any(value is not None for value in kind))


def _columns(trials: pa.Table, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """The rows of some columns; None throughout in one that is absent."""
    absent = dict.fromkeys((name for name in names if name not in trials.column_names), None)
    return ({**absent, **row} for row in trials.select([name for name in names if name in trials.column_names]).to_pylist())
