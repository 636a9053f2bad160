"""Captions, footnotes and plain sentences about a table; every format prints these same words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from pipeline.analysis.metrics import SELECTION_WORDS, describe, map_measure
from pipeline.analysis.published import Published
from pipeline.analysis.statistics.paired import smallest_p
from pipeline.analysis.tables import CellResult, Missing, TableResult
from pipeline.errors import ConfigError

_STATE_WORDS = {"planned": "not trained yet", "complete": "finished without a value"}
_MEASURES = {"max_box_acc": "MaxBoxAcc", "max_box_acc_v2": "MaxBoxAccV2", "pxap": "pixel average precision"}
TEST_WORDS = {"sign_flip": "sign-flip test", "t": "paired t test", "wilcoxon": "Wilcoxon signed-rank test"}
PROTOCOL_WORDS = {
    "last": "the last epoch",
    "best": "the best test epoch",
    "best_test": "the best test epoch",
    "best_val": "the best validation epoch",
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
    text = f"†: differs from the baseline ({rule})." if found else f"No difference to the baseline is significant ({rule})."
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
    return " ".join(
        [f"{best}: best in its {axis}, and what the {'same ' * bool(result.comparisons)}test cannot tell from it ({rule}).", *small]
    )


def _bold_small_n(result: TableResult) -> list[str]:
    n = max(cell.n for cell in result.cells)
    smallest = smallest_p(result.test, n)
    return [f"With {n} seeds no two-sided {TEST_WORDS[result.test]} can go below p = {smallest:g}."] if smallest > result.alpha else []


def _averages_part(result: TableResult) -> str:
    left_out = len(result.rows) - len(result.complete_rows)
    which = f"the {len(result.complete_rows)} complete rows of {len(result.rows)}" if left_out else "rows"
    spread = _spread_words(result).removeprefix("Mean").replace(" ± ", " and ")
    then = f", then mean{spread} over seeds" if result.usual_n > 1 else ""
    return f"Mean over rows: {which} averaged seed by seed{then}."


def _published_part(result: TableResult) -> list[str]:
    """Whose numbers the published columns are; a mix of protocols is said aloud."""
    entries = [entry for column in result.published for entry in column.entries.values() if entry is not None]
    if not result.published:
        return []
    if not entries:
        return ["Published: the sources have no number for these rows."]
    text = (
        "Published: copied from the source in the note, not run here; other data preparation, recipes and code than the rest of the table."
    )
    protocols = sorted({entry.protocol for entry in entries})
    if protocols != [result.selection]:
        text += f" Protocols are mixed: this table shows {PROTOCOL_WORDS[result.selection]}, the published numbers {_protocols(protocols)}."
    return [text]


def _protocols(protocols: Sequence[str]) -> str:
    return join_words([PROTOCOL_WORDS.get(protocol, protocol) for protocol in protocols])


def published_note(entry: Published) -> str:
    """Source, protocol and n of one published number, in a sentence."""
    kinds = {"sd": "± SD over runs", "ci95": "± half a 95 % interval"}
    facts = [
        f"protocol: {PROTOCOL_WORDS.get(entry.protocol, entry.protocol)}",
        f"n = {entry.n}" if entry.n is not None else "n unknown",
        *([kinds[entry.spread_kind]] if entry.spread is not None and entry.spread_kind in kinds else []),
    ]
    shown = f"published as {entry.metric}" if entry.metric.endswith("_err") else ""
    return "; ".join(filter(None, [f"{entry.method}, {entry.source}", *facts, shown, entry.note]))


def _metrics_part(result: TableResult) -> str:
    metrics = list(dict.fromkeys(cell.metric for cell in result.cells))
    described = [describe(metric) for metric in metrics]
    if result.column_kind == "metric" and len(metrics) > 1:
        pairs = dict.fromkeys((cell.column, describe(cell.metric).description) for cell in result.cells)
        text = "; ".join(f"{one_line(column)}: {words}" for column, words in pairs) + "."
    elif described:
        text = "; ".join(_capital(metric.description) for metric in described) + "."
    else:
        text = "No cells."
    deviating = sorted({metric.selection for metric in described if metric.selection} | {result.selection})
    if len(deviating) > 1:
        text += f" This table mixes selection protocols ({', '.join(deviating)}): see the notes."
    return text


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
    text = f"{_spread_words(result)} over n = {usual} seeds"
    return f"{text} unless a note says otherwise: this table mixes n." if len(sizes) > 1 else f"{text}."


def _spread_words(result: TableResult) -> str:
    words = {
        "sd": "Mean ± sample SD",
        "se": "Mean ± standard error",
        "ci": f"Mean ± half the {100 * result.confidence:g} % t interval",
        "none": "Mean",
    }
    return words[result.style["spread"]]


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
            sentences += _best_sentence([cell for cell in cells if getattr(cell, axis) == group and cell.best], axis)
    return sentences


def _delta_sentence(result: TableResult, cells: Sequence[CellResult], column: str) -> list[str]:
    compared = [(cell, cell.delta.mean) for cell in cells if cell.delta is not None and cell.delta.mean is not None]
    if not compared:
        return []
    metric = describe(compared[0][0].metric)
    above = sum(difference > 0 for _, difference in compared)
    largest, difference = max(compared, key=lambda pair: abs(pair[1]))
    arms_are_rows = all(cell.delta is not None and cell.delta.baseline_column == column for cell, _ in compared)
    what = f" in {metric.words}" if len(result.metrics) > 1 else ""
    who = f"In column {one_line(column)}, the mean is" if arms_are_rows else f"{one_line(column)} is"
    count = f"{above} of {len(compared)} row{'s' if len(compared) > 1 else ''}"
    unit = metric.difference_unit.replace("percentage points", "points")
    size = metric.number(difference, signed=True) + (f" {unit}" if unit else "")
    better = "" if metric.higher_is_better else " (lower is better)"
    return [f"{who} above {result.baseline}{what} in {count}{better}; largest difference {size} ({one_line(largest.row)})."]


def _best_sentence(best: Sequence[CellResult], axis: str) -> list[str]:
    if not best or best[0].mean is None:
        return []
    metric = describe(best[0].metric)
    where = join_words([one_line(cell.row if axis == "column" else cell.column) for cell in best])
    shown = dict.fromkeys(metric.spread(cell.mean, cell.sd) for cell in best if cell.mean is not None)  # one mean, perhaps several SDs
    text = " and ".join(shown) + (f" {metric.unit}" if metric.unit else "")
    subject = _capital(metric.words) if axis == "column" else f"{one_line(best[0].row)}: {metric.words}"
    return [f"{subject} is {'highest' if metric.higher_is_better else 'lowest'} at {where} ({text})."]


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
