"""Cells against each other: summaries, differences to the baseline, what is best, averages, wins and ranks."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.analysis.metrics import higher_is_better
from pipeline.analysis.statistics.batches import NOISE
from pipeline.analysis.statistics.families import holm
from pipeline.analysis.statistics.intervals import summarize
from pipeline.analysis.statistics.paired import Paired, compare
from pipeline.analysis.statistics.rankings import Rankings, mean_probability_of_improvement, rank_arms, win_tie_loss
from pipeline.analysis.tables.cells import Average, CellResult, Delta, Versus
from pipeline.analysis.tables.references import data_levels
from pipeline.errors import ConfigError, did_you_mean

_TIE = 1e-12  # relative; means that differ by less are rounding noise of the same average
_DIGITS = 10  # of intervals, so that another numpy or scipy, which may differ in the last bit, writes the same bytes

Places = Mapping[tuple[str, str, str], CellResult]  # (row, column, metric) -> cell


def with_summaries(cells: Sequence[CellResult], confidence: float) -> list[CellResult]:
    """Mean, SD, SE, median and intervals of the cells that no seed is missing from; the others stay empty."""
    whole = [i for i, cell in enumerate(cells) if cell.values and not cell.missing]
    result = list(cells)
    for i, summary in zip(whole, summarize([cells[i].values for i in whole], confidence=confidence), strict=True):
        values = cells[i].values
        sd = statistics.stdev(values) if len(values) > 1 else None
        result[i] = replace(
            cells[i],
            mean=statistics.fmean(values),  # exact, unlike a sum of floats: the same on every machine
            sd=sd,
            se=None if sd is None else sd / math.sqrt(len(values)),
            median=statistics.median(values),
            ci=_rounded(summary.ci),
            bootstrap_ci=_rounded(summary.bootstrap_ci),
        )
    return result


def with_deltas(cells: Sequence[CellResult], baseline: str, table: str, *, test: str, alpha: float, confidence: float) -> list[CellResult]:
    """Differences to the baseline arm, judged together: Holm's correction runs over all of them.

    Raises:
        ConfigError: no cell is of the baseline arm.
    """
    find = _BaselineCells(cells, baseline)
    if cells and not find:
        arms = sorted({cell.arm for cell in cells if cell.arm is not None})
        hint = did_you_mean(baseline, arms)
        known = f"Its arms: {', '.join(arms) or 'none'}.{hint}"
        raise ConfigError(f"baseline {baseline!r} of table {table!r} is no arm of it. {known} Name one of them or set baseline: null.")
    pairs = [(i, base) for i, cell in enumerate(cells) if (base := find.of(cell)) is not None and base is not cell]
    differences = [
        [value - base.by_seed[seed] for seed, value in cells[i].by_seed.items() if seed in base.by_seed] if _both(cells[i], base) else []
        for i, base in pairs
    ]
    deltas = _deltas(differences, [(base.row, base.column) for _, base in pairs], test, confidence)
    result = list(cells)
    for (i, _), delta, p in zip(pairs, deltas, holm([delta.p for delta in deltas]), strict=True):
        p = _p(p)
        result[i] = replace(cells[i], delta=replace(delta, p_holm=p, significant=p is not None and p <= alpha))
    return result


def with_best(cells: Sequence[CellResult], axis: str, *, test: str, alpha: float) -> list[CellResult]:
    """Mark the best cells of each row or column on the same data, and those that cannot be told from the best.

    A rival is told from the best when the paired test of the two, after Holm's correction over the rivals of the group, is at most
    `alpha`; with one seed no test is possible and only the best are marked. Where all are equal all are the best; one alone is not marked.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, cell in enumerate(cells):
        if cell.mean is not None:
            groups[getattr(cell, axis), cell.metric, data_levels(cell)].append(i)
    result = list(cells)
    contests: list[tuple[list[int], list[Sequence[float]]]] = []
    for members in groups.values():
        means = [cells[i].mean or 0.0 for i in members]
        if len(members) < 2:
            continue
        best = _best_of(cells[members[0]].metric, means)
        leader = cells[members[means.index(best)]]
        rivals = []
        for i, mean in zip(members, means, strict=True):
            if math.isclose(mean, best, rel_tol=_TIE, abs_tol=0.0):
                result[i] = replace(cells[i], best=True, top=True)
            else:
                rivals.append(i)
        contests.append((rivals, [_paired(leader, cells[i]) for i in rivals]))
    judged = iter(compare([difference for _, differences in contests for difference in differences]))
    for rivals, differences in contests:
        p_values = [_p_of(next(judged), test) for _ in differences]
        for i, difference, p in zip(rivals, differences, holm(p_values), strict=True):
            if len(difference) > 1 and (p is None or _p(p) > alpha):  # type: ignore[operator]
                result[i] = replace(result[i], top=True)
    return result


def complete_rows(cells: Sequence[CellResult], spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Rows that have a number in every column and metric, all over one set of seeds that most of the rows have."""
    by_row: dict[str, list[CellResult]] = defaultdict(list)
    for cell in cells:
        by_row[cell.row].append(cell)
    wanted = len(spec["columns"]) * len({cell.metric for cell in cells})
    seeds: dict[str, tuple[int, ...]] = {}
    for row, members in by_row.items():
        if len(members) == wanted and all(cell.mean is not None for cell in members) and len({cell.seeds for cell in members}) == 1:
            seeds[row] = members[0].seeds
    counts = [list(seeds.values()).count(each) for each in seeds.values()]
    usual = next((each for each, count in zip(seeds.values(), counts, strict=True) if count == max(counts)), ())
    return tuple(row for row in spec["rows"] if seeds.get(row) == usual)


def averages(
    places: Places, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str], *, test: str, confidence: float
) -> tuple[Average, ...]:
    """One average a column and metric over `rows`, all of them complete and on the same data; () for fewer than two rows."""
    if len(rows) < 2 or len({data_levels(places[row, column, metric]) for row in rows for column in columns[:1] for metric in metrics}) > 1:
        return ()
    averaged = {}
    for metric in metrics:
        for column in columns:
            members = [places[row, column, metric] for row in rows]
            averaged[metric, column] = {seed: statistics.fmean(cell.by_seed[seed] for cell in members) for seed in members[0].seeds}
    result = []
    for (metric, column), by_seed in averaged.items():
        values = list(by_seed.values())
        sd = statistics.stdev(values) if len(values) > 1 else None
        (summary,) = summarize([values], confidence=confidence)
        base = _one_baseline_column([places[row, column, metric] for row in rows])
        delta = None
        if base is not None:
            differences = [value - averaged[metric, base][seed] for seed, value in by_seed.items()]
            (delta,) = _deltas([differences], [("", base)], test, confidence)
        result.append(Average(column, metric, statistics.fmean(values), sd, len(values), _rounded(summary.ci), delta))
    return tuple(result)


def _one_baseline_column(cells: Sequence[CellResult]) -> str | None:
    """The column that all of a column's cells are compared with; None where the arms are rows."""
    bases = {cell.delta.baseline_column if cell.delta is not None else None for cell in cells}
    return bases.pop() if len(bases) == 1 and cells[0].column not in bases else None


def versus(places: Places, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str]) -> tuple[Versus, ...]:
    """Each column against the baseline's column; () where the arms are rows."""
    result = []
    for metric in metrics:
        for column in columns:
            cells = [cell for row in rows if (cell := places.get((row, column, metric))) is not None]
            compared = [
                (cell, places[cell.row, cell.delta.baseline_column, metric])
                for cell in cells
                if cell.delta is not None and cell.delta.mean is not None and cell.delta.baseline_row == cell.row
            ]
            if not compared:
                continue
            up, deltas = higher_is_better(metric), _deltas_of(compared)
            differences = [delta.mean if delta.mean is not None and abs(delta.mean) > _TIE else 0.0 for delta in deltas]
            rows_won = win_tie_loss(differences, [bool(delta.significant) for delta in deltas], higher_is_better=up)
            runs = zip(*((cell.values, base.values) for cell, base in compared), strict=True)
            improvement = mean_probability_of_improvement(*runs, higher_is_better=up)
            result.append(
                Versus(
                    column,
                    metric,
                    wins=rows_won.wins_by_mean,
                    ties=rows_won.ties_by_mean,
                    losses=rows_won.losses_by_mean,
                    significant_wins=rows_won.wins,
                    significant_losses=rows_won.losses,
                    improvement=round(improvement, _DIGITS),
                )
            )
    return tuple(result)


def _deltas_of(compared: Sequence[tuple[CellResult, CellResult]]) -> list[Delta]:
    return [cell.delta for cell, _ in compared if cell.delta is not None]


def rankings(places: Places, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str], alpha: float) -> dict[str, Rankings]:
    """Average ranks of the columns over the complete rows, by metric; {} for fewer than two of either."""
    if len(rows) < 2 or len(columns) < 2:
        return {}
    return {
        metric: rank_arms(
            np.array([[places[row, column, metric].mean for column in columns] for row in rows], dtype=np.float64),
            list(columns),
            higher_is_better=higher_is_better(metric),
            alpha=alpha,
        )
        for metric in metrics
    }


class _BaselineCells:
    """Finds the cell of the baseline arm that agrees with another in metric and all other levels, be the arms columns or rows."""

    def __init__(self, cells: Iterable[CellResult], baseline: str) -> None:
        self._by_levels: dict[Hashable, CellResult] = {}
        self._by_column: dict[Hashable, CellResult] = {}
        for cell in cells:
            if cell.arm == baseline:
                self._by_levels.setdefault(self._levels(cell), cell)
            if cell.column == baseline:
                self._by_column.setdefault((cell.row, cell.metric), cell)

    def __bool__(self) -> bool:
        return bool(self._by_levels or self._by_column)

    def of(self, cell: CellResult) -> CellResult | None:
        return self._by_levels.get(self._levels(cell)) or self._by_column.get((cell.row, cell.metric))

    @staticmethod
    def _levels(cell: CellResult) -> Hashable:
        levels = {**cell.row_levels, **cell.column_levels}
        return cell.metric, repr(sorted((name, level) for name, level in levels.items() if name != "arm"))


def _both(cell: CellResult, base: CellResult) -> bool:
    return cell.mean is not None and base.mean is not None


def _paired(a: CellResult, b: CellResult) -> list[float]:
    return [value - b.by_seed[seed] for seed, value in a.by_seed.items() if seed in b.by_seed]


def _best_of(metric: str, means: Sequence[float]) -> float:
    return max(means) if higher_is_better(metric) else min(means)


def _deltas(differences: Sequence[Sequence[float]], bases: Sequence[tuple[str, str]], test: str, confidence: float) -> list[Delta]:
    """One a list of differences; those of an empty list have no numbers."""
    exact = [_without_noise(each) for each in differences]
    judged = iter(compare([each for each in exact if each], confidence=confidence))
    return [
        _delta(each, next(judged), base, test) if each else Delta(None, None, 0, *base) for each, base in zip(exact, bases, strict=True)
    ]


def _without_noise(differences: Sequence[float]) -> list[float]:
    """The differences, exactly 0 where the tests take them for rounding noise."""
    least = _noise(differences)
    return [0.0 if abs(each) <= least else each for each in differences]


def _noise(differences: Sequence[float]) -> float:
    """As `pipeline.analysis.statistics.batches.noise` of one row."""
    return NOISE * max(1.0, *map(abs, differences)) if differences else 0.0


def _delta(differences: Sequence[float], paired: Paired, base: tuple[str, str], test: str) -> Delta:
    sd = statistics.stdev(differences) if len(differences) > 1 else None
    mean = statistics.fmean(differences)
    balanced = abs(mean) <= _noise(differences)  # 0.3 - 0.1 and 0.2 - 0.4 do not add up to 0
    return Delta(
        0.0 if balanced else mean,
        sd,
        len(differences),
        *base,
        se=None if sd is None else sd / math.sqrt(len(differences)),
        ci=_rounded(paired.ci),
        bootstrap_ci=_rounded(paired.bootstrap_ci),
        p_sign_flip=_p(paired.p_sign_flip),
        p_t=_p(paired.p_t),
        p_wilcoxon=_p(paired.p_wilcoxon),
        p=_p(_p_of(paired, test)),
        effect=None if paired.effect is None else 0.0 if balanced else float(f"{paired.effect:.6g}"),
    )


def _p_of(paired: Paired, test: str) -> float | None:
    return {"sign_flip": paired.p_sign_flip, "t": paired.p_t, "wilcoxon": paired.p_wilcoxon}[test]


def _p(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _rounded(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (round(interval[0], _DIGITS) + 0.0, round(interval[1], _DIGITS) + 0.0)  # + 0.0: no -0.0
