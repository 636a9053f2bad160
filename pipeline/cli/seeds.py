"""Planning seeds: seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, note, planned, print_json, say
from pipeline.errors import ConfigError, UnknownNameError, counted

if TYPE_CHECKING:
    from pipeline.analysis.seed_plan import Target


@app.command(epilog="Examples:  ablate seeds · ablate seeds backbones --difference 0.5 · ablate seeds --power 0.9 --json")
def seeds(
    name: Annotated[str | None, typer.Argument(help="Name of a table of the study; all that have a baseline without it.")] = None,
    difference: Annotated[
        float | None, typer.Option(help="Smallest difference that matters, as tables print it: percentage points for accuracies.")
    ] = None,
    power: Annotated[float, typer.Option(help="Probability of finding a true difference of that size.")] = 0.8,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which differences the seeds can show, how many a smaller one needs, and what they cost.

    From the spread of the paired differences that are stored now; with few seeds that spread is itself uncertain, and its interval is said.
    """
    from pipeline.analysis.seed_plan import seed_targets
    from pipeline.analysis.tables import build_table
    from pipeline.orchestration.explain import current_results
    from pipeline.orchestration.outlook import look_ahead
    from pipeline.store.trial_store import TrialStore
    from pipeline.study.project import absolute_url

    made, records, params = planned(study)
    specs = {spec["name"]: spec for spec in made.tables}
    if name is not None and name not in specs:
        raise UnknownNameError("table", name, specs, where=f"study {made.study}")
    if name is not None and specs[name].get("baseline") is None:
        with_one = [each for each, spec in specs.items() if spec.get("baseline") is not None]
        raise ConfigError(
            f"Table {name!r} has no baseline, so it tests no difference. Tables of study {made.study} that have one: "
            f"{', '.join(with_one) or 'none'}."
        )
    stored = current_results(made, params).trials
    results = [build_table(spec, stored, study=made.study) for spec in specs.values() if name in (None, spec["name"])]
    targets = [target for result in results for target in seed_targets(result, power=power, difference=difference)]
    store = TrialStore(absolute_url(params.store.url))
    hours = look_ahead(made, records, params, store, probe=False, log=note).one_more_seed_hours
    if as_json:
        print_json({"power": power, "one_more_seed_hours": hours, "targets": [_entry(target, hours) for target in targets]})
        return
    if not targets:
        say(f"No difference of study {made.study} has two seeds yet, so the spread is not known. Run it with two seeds or more first.")
        return
    for target in targets:
        _print(target, hours, power, difference)
    say(f"To have more: `seeds: N` in studies/{made.study}.yaml, or `dvc exp run -S seeds=N`; only the new trials are trained.")


def _entry(target: Target, hours: float | None) -> dict[str, Any]:
    more = None if target.needed is None else max(0, target.needed - target.n)
    return {
        "table": target.table,
        "column": target.column,
        "metric": target.metric.column,
        "difference_of": target.words,
        "n": target.n,
        "sd": target.sd,
        "sd_interval": list(target.sd_interval),
        "comparisons": target.comparisons,
        "smallest_difference": {str(seeds): value for seeds, value in target.smallest.items()},
        "seeds_needed": target.needed,
        "more_hours": None if more is None or hours is None else more * hours,
    }


def _print(target: Target, hours: float | None, power: float, difference: float | None) -> None:
    metric, unit = target.metric, target.metric.difference_unit
    low, high = (metric.number(value) for value in target.sd_interval)
    say(f"{target.table}: {metric.quantity}, {target.words}")
    say(
        f"  SD of the paired differences {metric.number(target.sd)} {unit} (95 % interval {low} to {high}, "
        f"{counted(target.degrees, 'degree')} of freedom)"
        + (f"; Holm's correction over {target.comparisons} differences" if target.comparisons > 1 else "")
    )
    rows = Table("seeds", f"smallest difference (power {power:g})", "more hours", box=None, pad_edge=True)
    for seeds_, smallest in target.smallest.items():
        shown = "none: too few seeds for the test" if smallest is None else f"{metric.number(smallest)} {unit}".strip()
        extra = "now" if seeds_ == target.n else _hours(hours, seeds_ - target.n)
        rows.add_row(str(seeds_), shown, extra)
    Console().print(rows)
    if difference is not None:
        wanted = f"{difference:g} {unit}".strip()
        if target.needed is None:
            say(f"  {wanted}: more than 1000 seeds")
        elif target.needed <= target.n:
            say(f"  {wanted}: {target.needed} seeds are enough, there are {target.n}")
        else:
            say(f"  {wanted}: {target.needed} seeds, {target.needed - target.n} more: {_hours(hours, target.needed - target.n)}")
    say("")


def _hours(one_more: float | None, seeds_: int) -> str:
    return "cost unknown" if one_more is None else f"{one_more * seeds_:.2g} trial-hours"
