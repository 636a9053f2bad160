"""Captions, footnotes and plain sentences about a table; every format prints these same words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from pipeline.analysis.metrics import SELECTION_WORDS, Metric, describe, map_measure
from pipeline.analysis.published import Published, PublishedColumn, bare
from pipeline.analysis.statistics.paired import smallest_p
from pipeline.analysis.tables import Average, CellResult, Delta, Missing, TableResult
from pipeline.analysis.tables.references import data_levels
from pipeline.errors import ConfigError

_STATE_WORDS = {"planned": "not trained yet", "complete": "finished without a value"}
_MEASURES = {"max_box_acc": "MaxBoxAcc", "max_box_acc_v2": "MaxBoxAccV2", "pxap": "pixel average precision"}
TEST_WORDS = {"sign_flip": "sign-flip test", "t": "paired t test", "wilcoxon": "Wilcoxon signed-rank test"}
PROTOCOL_WORDS = {
    "last": "the last epoch",
    "best": "the best test epoch",
    "best_test": "the best test epoch",
    "best_val": "the best validation epoch",
    "median of 3 runs": "the median of 3 runs",
    "median of last 10 epochs": "the median of the last 10 epochs",
    "unknown": "an unknown epoch",
}
_NOT_IN_DESIGN = "not part of this table's design"


def one_line(text: object) -> str:
    """`text` with every run of white space as one blank: what fits a table cell."""
    return " ".join(str(text).split())


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` characters, broken after blanks, `_`, `/` and the like, and within a word only if need be."""
    lines = [""]
    for part in re.findall(r"[^\s_/,+·-]*(?:[_/,+·-]+\s*|\s+|$)", one_line(text)):
        if len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        while len(part.rstrip()) > width:
            lines[-1], part = part[:width], part[width:]
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines if line.strip()]


def caption(result: TableResult, *, best: str = "Bold") -> str:
    """What the numbers are: metric, selection protocol, n, what ± is, baseline, test, meaning of bold and dagger, fixed settings.

    A table whose cells differ in n or in selection protocol says so. `best` names how the best value is set off.
    """
    parts = [_metrics_part(result), *_references_part(result), _seeds_part(result), *_delta_part(result), *_test_part(result)]
    if any(cell.best for cell in result.cells) and result.style["bold"] != "none":
        parts.append(_bold_part(result, best))
    if result.averages and result.style["averages"]:
        parts.append(_averages_part(result))
    if result.rankings and result.style["ranks"]:
        parts.append("Average rank: 1 is best, over the complete rows.")
    parts += _no_closing_part(result)
    parts += _published_part(result)
    if result.fixed:
        parts.append("Fixed: " + ", ".join(f"{key} = {_setting(value)}" for key, value in result.fixed.items()) + ".")
    return " ".join(parts)


def _delta_part(result: TableResult) -> list[str]:
    if not any(cell.delta for cell in result.cells) or not result.style["deltas"]:
        return []
    units = [describe(cell.metric).difference_unit for cell in result.cells if cell.delta]
    unit = f" in {units[0]}" if len(set(units)) == 1 and units[0] else ""
    return [f"Δ: difference to the baseline {one_line(result.baseline)}{unit}, paired by seed."]


def _test_part(result: TableResult) -> list[str]:
    """What the dagger means, or that nothing carries one, and what the number of seeds allows."""
    if not result.comparisons:
        return []
    m = result.comparisons
    holm = f", Holm's correction over the table's {m} differences" if m > 1 else ""
    rule = f"two-sided {TEST_WORDS[result.test]}{holm}, α = {result.alpha:g}"
    found = sum(cell.delta is not None and cell.delta.significant for cell in result.cells)
    baseline = "the baseline" if result.style["deltas"] else f"the baseline {one_line(result.baseline)}"  # Δ, where printed, names it
    text = f"†: differs from {baseline} ({rule})." if found else f"No difference to {baseline} is significant ({rule})."
    p_column = " p: after that correction." if result.style["p_values"] and result.style["deltas"] else ""
    return [text + p_column, *small_n(result)]


def small_n(result: TableResult) -> list[str]:
    """'With 3 seeds no two-sided sign-flip test can go below p = 0.25.', where that keeps every difference from being significant."""
    sizes = {cell.delta.n for cell in result.cells if cell.delta is not None and cell.delta.n > 1}
    if not sizes:
        return []
    n, m = max(sizes), result.comparisons
    smallest = smallest_p(result.test, n)
    if smallest > result.alpha:
        return [f"With {n} seeds no two-sided {TEST_WORDS[result.test]} can go below p = {smallest:g}."]
    if smallest * m > result.alpha:
        test = f"two-sided {TEST_WORDS[result.test]}"
        return [f"With {n} seeds and {m} differences no {test} can go below p = {smallest * m:g} after Holm's correction."]
    return []


def _bold_part(result: TableResult, best: str) -> str:
    axis = "row" if result.column_kind == "level" else "column"
    if result.style["bold"] == "best":
        return f"{best}: best in its {axis}."
    if max(cell.n for cell in result.cells) < 2:
        return f"{best}: best in its {axis}; one seed allows no test."
    correction = f"Holm's correction within the {axis}"
    rule = f"{correction}" if result.comparisons else f"two-sided {TEST_WORDS[result.test]}, {correction}, α = {result.alpha:g}"
    small = [] if result.comparisons else _bold_small_n(result)
    text = f"{best}: best in its {axis}, and what the {'same ' * bool(result.comparisons)}test cannot tell from it ({rule})."
    return " ".join([text, *_strict_part(result, axis), *small])


def _strict_part(result: TableResult, axis: str) -> list[str]:
    """Why a number is not bold though its difference is not significant, where that happens."""
    for cell in result.cells:
        if cell.delta is None or cell.delta.p_holm is None or cell.delta.significant:
            continue
        base = result.cell(cell.delta.baseline_row, cell.delta.baseline_column, cell.metric)
        if base is None or cell.top == base.top or not (cell.best or base.best):
            continue
        if getattr(base, axis) == getattr(cell, axis) and data_levels(base) == data_levels(cell):
            return [
                f"Fewer comparisons share that correction than the table's, so a number may fall behind the best of its {axis} without a †."
            ]
    return []


def _bold_small_n(result: TableResult) -> list[str]:
    n = max(cell.n for cell in result.cells)
    smallest = smallest_p(result.test, n)
    return [f"With {n} seeds no two-sided {TEST_WORDS[result.test]} can go below p = {smallest:g}."] if smallest > result.alpha else []


def _averages_part(result: TableResult) -> str:
    left_out = len(result.rows) - len(result.complete_rows)
    which = f"the {len(result.complete_rows)} complete rows of {len(result.rows)}" if left_out else "rows"
    spread = spread_words(result)
    then = f", then mean{f' and {spread}' if spread else ''} over seeds" if result.usual_n > 1 else ""
    return f"Mean over rows: {which} averaged seed by seed{then}."


def _no_closing_part(result: TableResult) -> list[str]:
    """Why a closing line that the style asks for is not there: fewer than two rows are complete."""
    rows, complete = len(result.rows), len(result.complete_rows)
    if result.column_kind != "level" or complete > 1:
        return []
    averaged = result.style["averages"] and rows > 1 and len(set(map(data_levels, result.cells))) == 1  # else there never is a mean
    lines = ["mean over rows"] * averaged + ["average rank"] * result.style["ranks"]
    why = "the table has one row" if rows == 1 else f"{complete or 'none'} of {rows} rows is complete"
    return [f"No {' and no '.join(lines)}: {why}."] if lines else []


def _published_part(result: TableResult) -> list[str]:
    """Whose numbers the published columns are; another dataset and a mix of protocols are said aloud."""
    if not result.published:
        return []
    text = (
        "Published: copied from the source in the note, not run here; other data preparation, recipes and code than the rest of the table."
    )
    return [text, *_dataset_part(result), *_protocol_part(result)]


def _dataset_part(result: TableResult) -> list[str]:
    """'Other dataset: ISDA (published) on CIFAR-100, this table on digits.', unless `names` says that the two are one."""
    columns: dict[str, list[str]] = {}  # datasets in words -> columns
    for column in result.published:
        ours: dict[str, None] = {}
        theirs: dict[str, None] = {}
        for row, entry in column.entries.items():
            own = _own_names(result, row, "dataset")
            known = {bare(name) for name in (*own, *(column.names[each] for each in own if each in column.names))}
            if entry is not None and own and bare(entry.dataset) not in known:
                ours |= dict.fromkeys(own[:1] if "dataset" in result.row_fields else own)
                theirs[entry.dataset] = None
        if theirs:
            words = f"on {join_words(list(theirs))}, this table on {join_words(list(ours))}"
            columns.setdefault(words, []).append(f"{one_line(column.header)} (published)")
    return [f"Other dataset: {join_words(headers)} {words}." for words, headers in columns.items()]


def _protocol_part(result: TableResult) -> list[str]:
    """Where published numbers are of another epoch than the table's own, or of one that nobody knows."""
    protocols = sorted({entry.protocol for column in result.published for entry in column.entries.values() if entry is not None})
    own, theirs = PROTOCOL_WORDS[result.selection], list(dict.fromkeys(PROTOCOL_WORDS.get(protocol, protocol) for protocol in protocols))
    if set(theirs) <= {own}:
        return []
    if set(theirs) <= {own, PROTOCOL_WORDS["unknown"]}:
        which = "some published numbers" if own in theirs else "the published numbers"
        return [f"Protocols may be mixed: this table shows {own}; the epoch of {which} is not known."]
    return [f"Protocols are mixed: this table shows {own}, the published numbers {join_words(theirs)}."]


def published_note(result: TableResult, column: PublishedColumn, row: str) -> str:
    """What the published number beside a row is of, where the row does not say the same, with its source, protocol and n."""
    entry = column.entries[row]
    if entry is None:
        return "no published number for this row"
    kinds = {"sd": "± SD over runs", "ci95": "± half a 95 % interval"}
    has_spread = entry.spread is not None and result.style["spread"] != "none"
    facts = [
        f"protocol: {PROTOCOL_WORDS.get(entry.protocol, entry.protocol)}",
        f"n = {entry.n}" if entry.n is not None else "n unknown",
        kinds.get(entry.spread_kind, "") if has_spread else "",
        f"published as {entry.metric}" if entry.metric.endswith("_err") else "",
        entry.note,
    ]
    other = ", ".join(_said_otherwise(result, row, entry))
    return "; ".join(filter(None, [f"{entry.method}{f' ({other})' if other else ''}, {entry.source}", *facts]))


def _said_otherwise(result: TableResult, row: str, entry: Published) -> list[str]:
    """'backbone ResNet-110', 'dataset CIFAR-100', 'task kd', 'teacher resnet56': as published, without what the row calls the same.

    Of datasets the spelling does not matter; of backbones it does, since two authors' 'ResNet-110' and 'resnet110' can be two networks.
    """
    plain = {"task": ["classification"], "teacher": [""]}
    own = {field: _own_names(result, row, field) or plain.get(field, []) for field in ("backbone", "dataset", "task", "teacher")}
    same = {
        "backbone": entry.backbone in own["backbone"],
        "dataset": bare(entry.dataset) in map(bare, own["dataset"]),
        "task": entry.task in own["task"],
        "teacher": entry.teacher in own["teacher"],
    }
    return [f"{field} {getattr(entry, field) or 'none'}" for field, is_same in same.items() if not is_same]


def _own_names(result: TableResult, row: str, field: str) -> list[str]:
    """What a row is called in a field such as 'dataset': as it stands in the table and in the configuration; [] where neither says it."""
    parts = result.row_parts[result.rows.index(row)]
    labels = [label for name, label in zip(result.row_fields, parts, strict=False) if name == field]
    cells = [cell for column in result.columns if (cell := result.cell(row, column)) is not None]
    levels = [levels[field] for cell in cells for levels in (cell.row_levels, cell.column_levels) if field in levels]
    fixed = [result.fixed[field]] if field in result.fixed else []
    plain = [level.get("name", level) if isinstance(level, Mapping) else level for level in (*levels, *fixed)]
    return list(dict.fromkeys([*labels, *map(str, plain)]))


def _metrics_part(result: TableResult) -> str:
    metrics = list(dict.fromkeys(cell.metric for cell in result.cells))
    described = [describe(metric) for metric in metrics]
    if result.column_kind == "metric" and len(metrics) > 1:
        pairs = dict.fromkeys((cell.column, describe(cell.metric).description) for cell in result.cells)
        text = "; ".join(f"{one_line(column)}: {words}" for column, words in pairs) + "."
    elif len(described) > 1:
        text = "; ".join(_metric_words(metric, described) for metric in described) + "."
    elif described:
        text = f"{_capital(described[0].description)}."
    else:
        text = "No cells."
    deviating = sorted({metric.selection for metric in described if metric.selection} | {result.selection})
    if len(deviating) > 1:
        text += f" This table mixes selection protocols ({', '.join(deviating)}): see the notes."
    return text


def _metric_words(metric: Metric, shown: Sequence[Metric]) -> str:
    """'acc_top1: test accuracy (%) at the last epoch', as the heading of its columns calls it; no name where that says what it measures."""
    named = metric_heading(metric, shown) == metric.short_quantity and metric.stem
    return f"{metric.stem}: {metric.description}" if named else _capital(metric.description)


def metric_heading(metric: Metric, shown: Sequence[Metric]) -> str:
    """'acc_top1 (%)', or in more words where the table, whose metrics are `shown`, has that on two splits or under two protocols."""
    others = [each for each in shown if each.column != metric.column]
    if metric.short_quantity not in [other.short_quantity for other in others]:
        return metric.short_quantity
    return metric.quantity if metric.quantity not in [other.quantity for other in others] else metric.description


def _references_part(result: TableResult) -> list[str]:
    """'For comparison: flat map 13.02 %, centre 41.30 %.', each once; led by what they measure where the table's metrics differ in that."""
    metrics = dict.fromkeys(cell.metric for cell in result.cells)
    named = len({map_measure(metric) for metric in metrics}) > 1
    prefixes = {(describe(metric).selection, metric.split("_")[1]) for metric in metrics if map_measure(metric)}
    spans = {reference.datasets for reference in result.references}
    groups: dict[str, list[str]] = {}
    for reference in result.references:
        metric = describe(reference.column)
        low, high = metric.number(reference.low), metric.number(reference.high)
        text = f"{reference.words} {low if low == high else f'{low} to {high}'}" + (f" {metric.unit}" if metric.unit else "")
        head = _MEASURES.get(map_measure(reference.column), map_measure(reference.column)) if named else ""
        if len(prefixes) > 1:  # one metric under two selection rules, or on two splits
            head = metric.description
        groups.setdefault(head, []).append(text + (_on(reference.datasets) if len(spans) > 1 else ""))
    if not groups:
        return []
    pairs = [(f"{head}: " if head else "") + ", ".join(texts) for head, texts in groups.items()]
    return [f"For comparison{_on(spans.pop()) if len(spans) == 1 else ''}{':' if '' in groups else ','} {'; '.join(pairs)}."]


def _on(datasets: Sequence[str]) -> str:
    return f" on {join_words([one_line(each) for each in datasets])}" if datasets else ""


def _seeds_part(result: TableResult) -> str:
    sizes = Counter(cell.planned_n for cell in result.cells)
    usual = result.usual_n
    if usual == 1 and len(sizes) == 1:
        return "One seed, so no SD."
    spread = spread_words(result)
    text = f"Mean{f' ± {spread}' if spread else ''} over n = {usual} seeds"
    return f"{text} unless a note says otherwise: this table mixes n." if len(sizes) > 1 else f"{text}."


def spread_words(result: TableResult) -> str:
    """What the table prints after ±; '' for nothing."""
    interval = f"half the {100 * result.confidence:g} % t interval"
    return {"sd": "sample SD", "se": "standard error", "ci": interval, "none": ""}[result.style["spread"]]


def spread_of(result: TableResult, numbers: CellResult | Average | Delta) -> float | None:
    """The number after ± as the table's style wants it, in stored units; None where it prints none."""
    half = None if numbers.ci is None else (numbers.ci[1] - numbers.ci[0]) / 2
    se = None if numbers.sd is None else numbers.sd / numbers.n**0.5
    return {"sd": numbers.sd, "se": se, "ci": half, "none": None}[result.style["spread"]]


def told_mean(result: TableResult, cell: CellResult) -> str:
    """'mean 8.750 %, sample SD 1.708 %, standard error 0.854 %, n = 4': a cell in words, with the digits and the spread of its table."""
    if cell.mean is None:
        return "no mean, as a seed is missing"
    metric, decimals = describe(cell.metric), result.style["decimals"]
    unit = f" {metric.unit}" if metric.unit else ""
    shown = {"sample SD": cell.sd, spread_words(result): spread_of(result, cell)} if result.style["spread"] != "none" else {}
    numbers = {"mean": cell.mean} | {words: number for words, number in shown.items() if number is not None}
    return ", ".join([*(f"{words} {metric.number(each, decimals=decimals)}{unit}" for words, each in numbers.items()), f"n = {cell.n}"])


def cell_notes(result: TableResult, cell: CellResult | None) -> list[str]:
    """Footnotes that one cell needs: why it has no number, another n, another protocol."""
    if cell is None:
        return [_NOT_IN_DESIGN]
    notes = [missing_note(cell.missing)] if cell.missing else []
    if cell.planned_n != result.usual_n:
        notes.append(f"n = {cell.planned_n}")
    selection = describe(cell.metric).selection
    if selection is not None and selection != result.selection:
        notes.append(f"{describe(cell.metric).words} {SELECTION_WORDS[selection]}")
    return notes


def missing_note(missing: Iterable[Missing]) -> str:
    """'seeds 0 and 2: not trained yet; seed 1 failed: loss became nan at step 12 (epoch 1)'."""
    ordered = sorted(missing, key=lambda each: (each.state, each.reason, each.seed))
    groups = [(state, reason, [each.seed for each in group]) for (state, reason), group in groupby(ordered, lambda e: (e.state, e.reason))]
    groups.sort(key=lambda group: group[2])
    return "; ".join(f"seed{'s' if len(seeds) > 1 else ''} {join_words(seeds)}{_why(state, reason)}" for state, reason, seeds in groups)


def _why(state: str, reason: str) -> str:
    if state in _STATE_WORDS:
        return f": {one_line(reason) or _STATE_WORDS[state]}"
    return f" {state}: {one_line(reason) or 'no reason recorded'}" if state != "running" else ": still running"


def join_words(items: Sequence[object]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def summary_sentences(result: TableResult) -> list[str]:
    """What the table shows, in plain words: coverage first, then one sentence a compared column, or where the best values are."""
    complete = [cell for cell in result.cells if cell.mean is not None]
    metrics = result.metrics if result.column_kind == "level" else (None,)
    total = len(result.rows) * len(result.columns) * len(metrics)
    sentences = [f"{len(complete)} of {total} cells are complete." if len(complete) < total else f"All {total} cells are complete."]
    for metric in metrics:
        cells = [cell for cell in result.cells if metric in (None, cell.metric)]
        if any(cell.delta for cell in cells):
            for column in result.columns:
                sentences += _delta_sentence(result, [cell for cell in cells if cell.column == column], column)
            continue
        axis, groups = ("row", result.rows) if metric else ("column", result.columns)
        for group in groups:
            sentences += _best_sentence(result, [cell for cell in cells if getattr(cell, axis) == group and cell.mean is not None], axis)
    return sentences


def _delta_sentence(result: TableResult, cells: Sequence[CellResult], column: str) -> list[str]:
    compared = [(cell, cell.delta.mean) for cell in cells if cell.delta is not None and cell.delta.mean is not None]
    if not compared:
        return []
    metric = describe(compared[0][0].metric)
    above = sum(difference > 0 for _, difference in compared)
    low, high = (end(compared, key=lambda pair: pair[1]) for end in (min, max))
    arms_are_rows = all(cell.delta is not None and cell.delta.baseline_column == column for cell, _ in compared)
    what = f" in {metric.words}" if len(result.metrics) > 1 else ""
    who = f"In column {one_line(column)}, the mean is" if arms_are_rows else f"{one_line(column)} is"
    count = f"{above} of {len(compared)} row{'s' if len(compared) > 1 else ''}"
    unit = metric.difference_unit.replace("percentage points", "points")

    def size(end: tuple[CellResult, float], unit: str) -> str:
        number = metric.number(end[1], signed=True, decimals=result.style["decimals"])
        return f"{number}{f' {unit}' * bool(unit)} ({one_line(end[0].row)})"

    span = f"differences from {size(low, '')} to {size(high, unit)}" if low[1] < high[1] else f"difference {size(low, unit)}"
    better = "" if metric.higher_is_better else " (lower is better)"
    return [f"{who} above {result.baseline}{what} in {count}{better}; {span}."]


def _best_sentence(result: TableResult, cells: Sequence[CellResult], axis: str) -> list[str]:
    best = [cell for cell in cells if cell.best]
    if not best or best[0].mean is None:
        return []
    metric, decimals = describe(best[0].metric), result.style["decimals"]
    unit = f" {metric.unit}" if metric.unit else ""
    where = join_words([one_line(cell.row if axis == "column" else cell.column) for cell in best])
    text = metric.number(best[0].mean, decimals=decimals) + unit
    spreads = [metric.number(each, decimals=decimals) for cell in best if (each := spread_of(result, cell)) is not None]
    if spreads:  # one mean, perhaps several spreads
        text += f", {spread_words(result)} {join_words(list(dict.fromkeys(spreads)))}{unit}"
    subject = _capital(metric.words) if axis == "column" else f"{one_line(best[0].row)}: {metric.words}"
    place = "the same" if len(best) == len(cells) else "highest" if metric.higher_is_better else "lowest"
    return [f"{subject} is {place} at {where} ({text}){_told_apart(result, cells, axis)}."]


def _told_apart(result: TableResult, cells: Sequence[CellResult], axis: str) -> str:
    """'; the sign-flip test can tell none of the other 3 from it': which cells of one group are not behind its best ones."""
    others = [cell for cell in cells if not cell.best]
    if not others or min(cell.n for cell in cells) < 2 or len(set(map(data_levels, cells))) > 1:
        return ""
    near = [one_line(cell.row if axis == "column" else cell.column) for cell in others if cell.top]
    it = "it" if len(others) == len(cells) - 1 else "them"
    test = f"; the {TEST_WORDS[result.test]}"
    if len(near) == len(others):
        return f"{test} can tell none of the other {len(others)} from {it}" if len(near) > 1 else f"{test} cannot tell {near[0]} from {it}"
    return f"{test} cannot tell {join_words(near)} from {it}" if near else f"{test} tells all others from {it}"


def _setting(value: object) -> str:
    if isinstance(value, dict):
        name = value.get("name")
        rest = ", ".join(f"{key} {_setting(each)}" for key, each in value.items() if key != "name")
        return f"{name} ({rest})" if name and rest else str(name or rest)
    if isinstance(value, list):
        return " + ".join(_setting(each) for each in value) or "none"
    return one_line("none" if value is None else str(value).lower() if isinstance(value, bool) else value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def file_stem(table: str) -> str:
    """`table`, after the check that it can be a file name."""
    if not re.fullmatch(r"\w[\w.+-]*", table):
        raise ConfigError(f"table name {table!r} cannot be a file name; use letters, digits, _ . + - and start with a letter. Rename it.")
    return table
