"""What a run of a plan would cost: hours by table, the wall clock, the disk, and what one more seed or row would add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.errors import counted
from pipeline.orchestration.cost import UNKNOWN, CostModel
from pipeline.orchestration.footprint import Footprint, ModelSizes, footprint, mean_record_bytes
from pipeline.orchestration.forecast import Forecast, span
from pipeline.orchestration.planning import Plan, PlannedTrial, missing
from pipeline.orchestration.slots import device_name_of, device_of, is_local, slots_of
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Params
from pipeline.study.spec import TrialSpec


@dataclass(frozen=True)
class Outlook:
    """Numbers of `ablate plan`. Hours are of what is missing, blocked trials apart; None: nothing is known.

    Attributes:
        forecast: of the missing trials.
        table_hours: table -> hours of the missing trials that are counted there, which is the first table that needs them.
        one_more_seed_hours: of one trial more in every cell.
        one_more_row_hours: table -> hours of one more row with all seeds, the mean of its rows; nothing of it shared with other tables.
        disk: bytes that the missing trials will take.
        is_blocked: some trials wait for data and are not counted.
        troubles: what went wrong while probing, a sentence each.
    """

    forecast: Forecast
    table_hours: dict[str, float | None]
    one_more_seed_hours: float | None
    one_more_row_hours: dict[str, float | None]
    disk: Footprint
    is_blocked: bool
    troubles: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float | None:
        """Of all missing trials whose cost is known; None where trials are missing and nothing can be said of any."""
        seconds = self.forecast.trial_seconds()
        return None if seconds is None or (self.is_blocked and not self.forecast.specs) else seconds / 3600

    def hours_from(self) -> str:
        """'40 trials measured, 14 from a probe'."""
        if not self.forecast.specs:
            return "blocked trials are not counted" if self.is_blocked else "nothing is missing"
        return self.forecast.sources_in_words()

    def lines(self) -> list[str]:
        """For people: the estimate, what it comes from, the disk, and what more would cost."""
        forecast, slots = self.forecast, self.forecast.slots
        if not forecast.specs:
            return [f"Estimate: {self.hours_from()}."]
        if self.hours is None:
            text = f"Estimate: unknown ({self.hours_from()})."
        else:
            wall = span(forecast.wall_seconds())
            on = "on a cluster whose size is not known here" if slots is None else f"about {wall} on {counted(slots, 'slot')}"
            longest = span(forecast.critical_path_seconds())
            text = f"Estimate: {_number(self.hours)} trial-hours, {on} (longest trial {longest}); from: {self.hours_from()}."
        lines = [text + (" Blocked trials are not counted." if self.is_blocked else ""), f"Disk: {self.disk.line()}."]
        rows = ", ".join(f"{name} {_number(hours)}" for name, hours in self.one_more_row_hours.items() if hours is not None)
        if self.one_more_seed_hours is not None:
            lines.append(f"One more seed: {_number(self.one_more_seed_hours)} trial-hours. One more row, on average: {rows}.")
        return lines + [f"note: {trouble}" for trouble in self.troubles]

    def to_json(self) -> dict[str, Any]:
        """For `ablate plan --json`."""
        wall, longest = self.forecast.wall_seconds(), self.forecast.critical_path_seconds()
        return {
            "hours": self.hours,
            "hours_from": self.hours_from(),
            "wall_hours": _hours(wall),
            "slots": self.forecast.slots,
            "critical_path_hours": _hours(longest),
            "unknown": self.forecast.sources()[UNKNOWN],
            "disk_bytes": self.disk.total,
            "one_more_seed_hours": self.one_more_seed_hours,
            "one_more_row_hours": self.one_more_row_hours,
            "table_hours": self.table_hours,
        }


def look_ahead(
    plan: Plan, records: Mapping[str, Record], params: Params, store: TrialStore, *, probe: bool, log: Callable[[str], None]
) -> Outlook:
    """What a run of the plan would cost.

    Args:
        plan: all trials.
        records: all that is stored.
        params: resources, data, what the store keeps.
        store: where `records` lie.
        probe: measure what no stored trial tells; False: only probes that are remembered are used.
        log: told before probes are made.
    """
    todo = missing(plan, records)
    model, troubles = learned(plan, todo, records, params, probe=probe, log=log)
    forecast = Forecast([trial.spec for trial in todo], model, slots_of(params.resources))
    todo_ids = {trial.spec.trial_id for trial in todo}
    by_cell = {trial.spec.cell_id: trial.spec for trial in plan.to_run()}
    table_hours, row_hours = {}, {}
    for table in plan.tables:
        name = table["name"]
        trials = [plan.trials[t] for t in dict.fromkeys(entry["trial_id"] for cell in table["cells"] for entry in cell["trials"])]
        to_run = [trial for trial in trials if not trial.reason]
        new = [trial.spec for trial in to_run if trial.spec.trial_id in todo_ids and trial.tables[0] == name]
        table_hours[name] = _sum_hours(model, new)
        whole = _sum_hours(model, [trial.spec for trial in to_run])
        row_hours[name] = None if whole is None or not to_run else whole / max(1, len(table["rows"]))
    return Outlook(
        forecast=forecast,
        table_hours=table_hours,
        one_more_seed_hours=_sum_hours(model, by_cell.values()) if by_cell else None,
        one_more_row_hours=row_hours,
        disk=_disk(plan, todo, forecast, records, params, store),
        is_blocked=bool(plan.blocked),
        troubles=troubles,
    )


def learned(
    plan: Plan,
    todo: Iterable[PlannedTrial],
    records: Mapping[str, Record],
    params: Params,
    *,
    probe: bool,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[CostModel, list[str]]:
    """The cost model of what is stored, with probes of what is missing; and what went wrong while probing."""
    from pipeline.orchestration.probe import add_probes

    device, prepared = device_of(params.resources), Path(params.data.prepared)
    device_name = device_name_of(device)
    images = {}
    for component in plan.datasets:
        manifest = data.read_manifest(component, prepared)
        if manifest is not None:
            first, last = manifest["ranges"]["train"]
            images[manifest["digest"]] = last - first
    threads = params.resources.cpus_per_trial
    model = CostModel.learn(records.values(), device=device, device_name=device_name, threads=threads, images=images)
    if not is_local() or not device_name:
        return model, []
    specs = [trial.spec for trial in todo]
    return model, add_probes(model, specs, prepared, threads=threads, measure_new=probe, log=log)


def _disk(
    plan: Plan, todo: list[PlannedTrial], forecast: Forecast, records: Mapping[str, Record], params: Params, store: TrialStore
) -> Footprint:
    every_s, keeps_weights = params.store.checkpoint_s, params.store.weights != "none"
    specs = [trial.spec for trial in todo]
    long = {s.trial_id for s in specs if every_s is not None and (forecast.estimate(s.trial_id).seconds or 0.0) > every_s}
    sizes: dict[str, int] = {}
    if keeps_weights or long:
        known = ModelSizes(prepared := Path(params.data.prepared))
        manifests = {m["digest"]: m for c in plan.datasets if (m := data.read_manifest(c, prepared)) is not None}
        asked = {s.cell_id: s for s in specs if s.data_digest in manifests and (keeps_weights or s.trial_id in long)}
        sizes = {cell_id: known.bytes_of(spec, manifests[spec.data_digest]) for cell_id, spec in asked.items()}
        known.save()
    return footprint(
        specs,
        record_bytes=mean_record_bytes(store, len(records)),
        model_bytes=sizes,
        keeps_weights=keeps_weights,
        long=long,
        slots=forecast.slots or len(specs),
    )


def _sum_hours(model: CostModel, specs: Iterable[TrialSpec]) -> float | None:
    """Of those whose cost is known; None where there are some and nothing is known of any."""
    specs = list(specs)
    known = [seconds for spec in specs if (seconds := model.seconds(spec).seconds) is not None]
    return sum(known) / 3600 if known or not specs else None


def _number(hours: float) -> str:
    """Two digits at least, and none that nobody can know."""
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.2g}" if hours < 1 else f"{hours:.1f}"


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
