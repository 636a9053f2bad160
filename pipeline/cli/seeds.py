"""Planning seeds: seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, note, planned, print_json, say
from pipeline.errors import ConfigError, UnknownNameError, counted

if TYPE_CHECKING:
    from pipeline.analysis.metrics import Metric
    from pipeline.analysis.seed_plan import Target
    from pipeline.analysis.tables import TableResult

_OVER = "over the interval of the SD"


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
    """Say which differences the seeds can show, how many a smaller one needs, and what one more seed of the study costs.

    From the spread of the paired differences that are stored now; with few seeds that spread is itself uncertain, and what both ends of
    its interval would mean is said.
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
    with_baseline = [each for each, spec in specs.items() if spec.get("baseline") is not None]
    if name is not None and name not in with_baseline:
        raise ConfigError(
            f"Table {name!r} has no baseline, so it tests no difference. Tables of study {made.study} that have one: "
            f"{', '.join(with_baseline) or 'none'}."
        )
    stored = current_results(made, params).trials
    results = [build_table(spec, stored, study=made.study) for each, spec in specs.items() if name in (None, each)]
    by_table = {result.name: seed_targets(result, power=power, difference=difference) for result in results}
    targets = [target for group in by_table.values() for target in group]
    empty = [result for result in results if result.name in with_baseline and not by_table[result.name]]
    unknown = [_unknown(each, study or made.study) for each in empty]
    if not with_baseline:
        unknown = [
            f"No table of study {made.study} has a baseline, so none tests a difference: give one `baseline: ARM` in the study file."
        ]
    store = TrialStore(absolute_url(params.store.url))
    hours = look_ahead(made, records, params, store, probe=False, log=note).one_more_seed_hours
    if as_json:
        asked = {"power": power, "difference": difference, "one_more_seed_hours": hours}
        print_json(asked | {"targets": [_entry(target) for target in targets], "unknown": unknown})
        return
    for target in targets:
        _print(target, power, difference)
    for line in [*unknown, *_closing(targets, made.study, hours)]:
        say(line)


def _unknown(result: TableResult, study: str) -> str:
    """What to do about a table without two seeds of any difference."""
    table, run = result.name, f"`ablate run --study {study}`"
    states = {gone.state for cell in result.cells for gone in cell.missing}
    if states and "planned" not in states:
        return (
            f"{table}: no difference has two seeds, so the spread is not known. Its trials have all been run, but those of an arm ended "
            f"without a number ({', '.join(sorted(states))}): `ablate table {table} --study {study}` says why."
        )
    if len(result.seeds) < 2:
        first = f"It is planned with one seed: set `seeds: 3` or more in the study file, then run {run}."
    else:
        first = f"Run {run} first; `ablate table {table} --study {study}` names what each cell lacks."
    return f"{table}: no difference has two seeds stored yet, so the spread is not known. {first}"


def _closing(targets: list[Target], study: str, hours: float | None) -> list[str]:
    """What holds for all targets: the test that was planned for, and what more seeds cost."""
    if not targets:
        return []
    lines = []
    if any(target.test == "wilcoxon" for target in targets):
        lines.append(
            "The study tests by Wilcoxon's signed-rank test; planned is the sign-flip test, which can reject at the same numbers of seeds. "
            "For normal differences Wilcoxon's needs about 5 % more of them."
        )
    cost = "of unknown cost" if hours is None else f"{hours:.2g} trial-hours"
    lines.append(f"One more seed for the whole study, all its tables together: {cost}.")
    more = max(_more(target) or 0 for target in targets)
    if more > 1 and hours is not None:
        lines[-1] += f" {more} more, the most that is named above: {more * hours:.2g}."
    how = (
        f"To have more: `seeds: N` in studies/{study}.yaml, or `dvc exp run -S study={study} -S seeds=N`; only the new trials are trained."
    )
    return [*lines, how]


def _more(target: Target) -> int | None:
    return None if target.needed is None else max(0, target.needed - target.n)


def _entry(target: Target) -> dict[str, Any]:
    from pipeline.analysis.seed_plan import planned_test

    spread = target.spread
    return {
        "table": target.table,
        "column": target.column,
        "metric": target.metric.column,
        "difference_of": target.words,
        "test": target.test,
        "planned_test": planned_test(target.test),
        "n": target.n,
        "sd": None if spread is None else spread.sd,
        "sd_interval": None if spread is None else list(spread.interval),
        "comparisons": target.comparisons,
        "smallest_difference": {str(seeds): value for seeds, value in target.smallest.items()},
        "smallest_difference_interval": {str(seeds): target.smallest_interval(seeds) for seeds in target.smallest},
        "seeds_needed": target.needed,
        "seeds_needed_interval": list(target.needed_interval),
        "more_seeds": _more(target),
    }


def _print(target: Target, power: float, difference: float | None) -> None:
    metric, unit, spread = target.metric, target.metric.difference_unit, target.spread
    say(f"{target.table}: {metric.quantity}, {target.words}")
    if spread is None:
        say(
            f"  The paired differences are equal from seed to seed ({target.n} seeds), which proves nothing: the spread is not known yet, "
            "and with it neither a smallest difference nor a number of seeds. Run the study with more seeds first.\n"
        )
        return
    low, high = (metric.number(value) for value in spread.interval)
    say(
        f"  SD of the paired differences {metric.number(spread.sd)} {unit}".rstrip()
        + f" (95 % interval {low} to {high}, {counted(spread.degrees, 'degree')} of freedom)"
        + (f"; Holm's correction over {target.comparisons} differences" if target.comparisons > 1 else "")
    )
    rows = Table("seeds", f"smallest difference (power {power:g})", _OVER, box=None, pad_edge=True)
    for seeds_, smallest in target.smallest.items():
        shown = "none: too few seeds for the test" if smallest is None else f"{_size(metric, smallest)} {unit}".strip()
        ends = target.smallest_interval(seeds_)
        rows.add_row(
            f"{seeds_} (now)" if seeds_ == target.n else str(seeds_),
            shown,
            "" if ends is None else " to ".join(_size(metric, end) for end in ends),
        )
    Console().print(rows)
    if difference is not None:
        say(f"  {difference:g} {unit}".rstrip() + f": {_answer(target)}")
    say("")


def _answer(target: Target) -> str:
    """'29 seeds (12 to 140 over the interval of the SD), 26 more'."""
    low, high = (_number(end) for end in target.needed_interval)
    between = f"{low} at both ends of the interval of the SD, too" if low == high else f"{low} to {high} {_OVER}"
    more = _more(target)
    if more is None:
        return f"{_number(None)} seeds ({between})"
    rest = f"{more} more" if more else f"there are {target.n}"
    return f"{target.needed} seeds ({between}), {rest}"


def _number(seeds_: int | None) -> str:
    from pipeline.analysis.statistics.planner import MOST_SEEDS

    return f"more than {MOST_SEEDS:,}" if seeds_ is None else str(seeds_)


def _size(metric: Metric, value: float) -> str:
    """A difference as printed; of shares none is above 100 percentage points."""
    return "more than 100" if metric.unit == "%" and value * metric.scale > 100 else metric.number(value)
