"""The statistics of a table as plain tables, and what they come to in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pipeline.analysis.layout import DAGGER
from pipeline.analysis.metrics import Metric, describe
from pipeline.analysis.render.html_table import Anchors
from pipeline.analysis.report.listing import Link, Listing
from pipeline.analysis.statistics.paired import hedges_correction
from pipeline.analysis.statistics.rankings import Rankings
from pipeline.analysis.tables import CellResult, Delta, TableResult
from pipeline.analysis.wording import PROTOCOL_WORDS, TEST_WORDS, join_words, one_line, small_n

_NONE = "--"
_NAMED = 3  # significant cells that a sentence names
_MANY = 10  # seeds, from which on few seeds are no matter
_BOOTSTRAP_HOLDS = {3: 75, 5: 84, 10: 91}  # seeds -> % of 95 % intervals, benchmarks/results/statistics_coverage-cpu.md


def verdict(result: TableResult) -> list[str]:
    """Whether any difference to the baseline is more than chance, and what the number of seeds allows; [] without differences."""
    if not result.comparisons:
        return []
    found = [cell for cell in result.cells if cell.delta is not None and cell.delta.significant]
    holm = f" after Holm's correction over {result.comparisons} differences" if result.comparisons > 1 else ""
    rule = f"({TEST_WORDS[result.test]}{holm}, α = {result.alpha:g})"
    if not found:
        return [f"No difference to {one_line(result.baseline)} is significant {rule}.", *small_n(result)]
    named = [_name(result, cell) for cell in found[:_NAMED]] + ([f"{len(found) - _NAMED} more"] if len(found) > _NAMED else [])
    verb = "is" if len(found) == 1 else "are"
    return [
        f"{len(found)} of {result.comparisons} differences to {one_line(result.baseline)} {verb} significant {rule}: {join_words(named)}."
    ]


def statistics_of(result: TableResult) -> list[Listing]:
    """All that is known of the numbers of a table, in full: differences, wins, ranks, summaries of the cells."""
    return [*_differences(result), *_versus(result), *_rankings(result), _summaries(result)]


def _differences(result: TableResult) -> list[Listing]:
    cells = [(cell, cell.delta) for cell in result.cells if cell.delta is not None and cell.delta.mean is not None]
    if not cells:
        return []
    arms_are_rows = any(delta.baseline_row != cell.row for cell, delta in cells)
    anchors, several = Anchors(result), len(result.metrics) > 1
    rows: tuple[tuple[str | Link, ...], ...] = tuple(
        (
            Link(one_line(cell.row), f"#{anchors.cell(cell)}"),
            one_line(cell.column),
            *([one_line(delta.baseline_row)] if arms_are_rows else []),
            *([describe(cell.metric).short_quantity] if several else []),
            *_difference(delta, describe(cell.metric)),
        )
        for cell, delta in cells
    )
    percent = f"{100 * result.confidence:g} %"
    names = ["row", "column", *(["minus row"] if arms_are_rows else []), *(["metric"] if several else [])]
    numbers = ["n", "Δ", "p after Holm", "effect size", f"{percent} t interval", "SD"]  # those that matter first, where all do not fit
    raw = ["p sign-flip", "p t", "p Wilcoxon", f"{percent} bootstrap interval"]
    units = {describe(cell.metric).difference_unit for cell, _ in cells}
    unit = f" in {units.pop()}" if len(units) == 1 and "" not in units else ""
    return [
        Listing(
            f"Differences to the baseline {one_line(result.baseline)}{unit}",
            (*names, *numbers, *raw),
            rows,
            texts=len(names),
            ids=tuple(anchors.difference(cell) for cell, _ in cells),
            note=_difference_note(result),
        )
    ]


def _difference_note(result: TableResult) -> str:
    parts = [
        "Δ is the mean of the differences seed by seed. The three p values are two-sided and raw.",
        f"Holm's correction is that of the {TEST_WORDS[result.test]} over {result.comparisons} differences"
        f"; {DAGGER} marks at most α = {result.alpha:g}."
        if result.comparisons
        else "One seed allows no test.",
        *small_n(result),
        "Wilcoxon's test needs 6 differences that are not 0. Effect size: Cohen's d_z, the mean of the differences over their SD.",
        *_few_seeds([cell.delta.n for cell in result.cells if cell.delta is not None], effects=True),
    ]
    return " ".join(parts)


def _few_seeds(sizes: Iterable[int], *, effects: bool) -> list[str]:
    """What few seeds do to the bootstrap interval and, with `effects`, to the effect size; [] from 10 seeds on."""
    n = min((size for size in sizes if size > 1), default=_MANY)
    if n >= _MANY:
        return []
    shares = ", ".join(f"{share} % with {size}" for size, share in _BOOTSTRAP_HOLDS.items())
    told = [
        "Few seeds make bootstrap intervals too narrow: the share of 95 % ones that hold the true mean is "
        f"{shares} seeds (simulated normal noise)."
    ]
    correction = hedges_correction(n - 1)
    if effects and correction:
        told.append(
            f"Few seeds also make effect sizes too large: {n} seeds {1 / correction:.2f} times on average, if differences are normal."
        )
    return told


def _difference(delta: Delta, metric: Metric) -> tuple[str, ...]:
    def number(value: float | None, *, signed: bool = True) -> str:
        return _NONE if value is None else metric.number(value, signed=signed)

    return (
        str(delta.n),
        number(delta.mean),
        _p(delta.p_holm) + (f" {DAGGER}" if delta.significant else ""),
        _NONE if delta.effect is None else f"{delta.effect:+.2f}",
        _interval(delta.ci, number),
        number(delta.sd, signed=False),
        *(_p(p) for p in (delta.p_sign_flip, delta.p_t, delta.p_wilcoxon)),
        _interval(delta.bootstrap_ci, number),
    )


def _versus(result: TableResult) -> list[Listing]:
    if not result.versus:
        return []
    several = len(result.metrics) > 1
    rows = tuple(
        (
            one_line(each.column),
            *([describe(each.metric).short_quantity] if several else []),
            *map(str, (each.wins, each.ties, each.losses, each.significant_wins, each.significant_losses)),
            f"{each.improvement:.2f}",
        )
        for each in result.versus
    )
    names = ["column", *(["metric"] if several else [])]
    numbers = ["wins", "ties", "losses", "significant wins", "significant losses", "probability of improvement"]
    return [
        Listing(
            f"Columns against {one_line(result.baseline)}, over rows",
            (*names, *numbers),
            rows,
            texts=len(names),
            note="A win is a row whose mean is better than the baseline's. Probability of improvement: that a seed of the column is better "
            "than a seed of the baseline, averaged over rows; 0.5 is no difference.",
        )
    ]


def _rankings(result: TableResult) -> list[Listing]:
    return [_ranks(rankings, describe(metric), result.alpha) for metric, rankings in result.rankings.items()]


def _ranks(rankings: Rankings, metric: Metric, alpha: float) -> Listing:
    order = sorted(zip(rankings.names, rankings.average_ranks, strict=True), key=lambda pair: pair[1])
    return Listing(
        f"Average ranks in {metric.words} over {rankings.blocks} complete rows",
        ("column", "average rank"),
        tuple((one_line(name), f"{rank:.2f}") for name, rank in order),
        texts=1,
        note=_rank_note(rankings, alpha),
    )


def _rank_note(rankings: Rankings, alpha: float) -> str:
    parts = ["Rank 1 is best; ties share the average of their ranks."]
    if rankings.friedman_statistic is not None:
        parts.append(
            f"Friedman's test that all columns rank alike: χ² = {rankings.friedman_statistic:.2f}, p = {_p(rankings.friedman_p)}; "
            f"F form of Iman and Davenport: p = {_p(rankings.iman_davenport_p)}."
        )
    parts.append(f"Nemenyi's critical difference at α = {alpha:g}: {rankings.critical_difference:.2f}.")
    groups = [join_words([one_line(name) for name in clique]) for clique in rankings.cliques]
    parts.append(f"Within it, so not told apart: {'; '.join(groups)}." if groups else "No two columns are within it.")
    return " ".join(parts)


def _summaries(result: TableResult) -> Listing:
    several = len(result.metrics) > 1
    percent = f"{100 * result.confidence:g} %"
    names = ["row", "column", *(["metric"] if several else [])]
    rows = tuple(
        (
            one_line(cell.row),
            one_line(cell.column),
            *([describe(cell.metric).short_quantity] if several else []),
            *_summary(cell, describe(cell.metric)),
        )
        for cell in result.cells
    )
    unit = f" ({describe(result.metrics[0]).unit})" if len(result.metrics) == 1 and describe(result.metrics[0]).unit else ""
    return Listing(
        f"Each cell in full{unit}",
        (*names, "n", "mean", "SD", "SE", "median", f"{percent} t interval", f"{percent} bootstrap interval"),
        rows,
        texts=len(names),
        note=" ".join(
            [
                "SD with n − 1 in the denominator; SE: SD over the square root of n. A cell that lacks a seed has no numbers.",
                *_few_seeds([cell.n for cell in result.cells], effects=False),
            ]
        ),
    )


def _summary(cell: CellResult, metric: Metric) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return _NONE if value is None else metric.number(value)

    numbers = (number(value) for value in (cell.mean, cell.sd, cell.se, cell.median))
    return str(cell.n), *numbers, _interval(cell.ci, number), _interval(cell.bootstrap_ci, number)


def published_of(result: TableResult) -> list[Listing]:
    """Published numbers beside the table, each with its source, protocol and number of runs; [] where there are none."""
    rows = []
    for column in result.published:
        metric = describe(column.metric)
        for row, entry in column.entries.items():
            if entry is None:
                continue
            spread = f" ± {metric.number(entry.spread, decimals=entry.decimals)}" if entry.spread is not None else ""
            kind = {"sd": " (SD over runs)", "ci95": " (half a 95 % interval)"}.get(entry.spread_kind, "") if spread else ""
            protocol = PROTOCOL_WORDS.get(entry.protocol, entry.protocol)
            n = "unknown" if entry.n is None else str(entry.n)
            task = () if entry.task == "classification" else (f"task {entry.task}",)
            teacher = (f"teacher {entry.teacher}",) if entry.teacher else ()
            what = ", ".join((entry.method, entry.backbone, entry.dataset, *task, *teacher))
            number = f"{metric.number(entry.value, decimals=entry.decimals)}{spread}{kind}"
            rows.append((one_line(row), one_line(column.header), what, number, protocol, n, entry.source, entry.evidence, entry.note))
    if not rows:
        return []
    headers = ("row", "column", "what", "number", "epoch shown", "runs", "source", "how protocol and runs are known", "note")
    return [Listing("Published numbers, copied from their sources", headers, tuple(rows), texts=len(headers))]


def _name(result: TableResult, cell: CellResult) -> str:
    metric = f" ({describe(cell.metric).words})" if len(result.metrics) > 1 else ""
    return f"{one_line(cell.row)} / {one_line(cell.column)}{metric}"


def _interval(interval: Sequence[float] | None, number: Callable[[float], str]) -> str:
    return _NONE if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def _p(p: float | None) -> str:
    return _NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
