"""Which cell a place in a rendered table speaks of, whatever the format.

No format is parsed: the table is rendered again with other numbers in some of its cells, and the cell whose numbers change what stands
at a place is the one that the place is about. Halving the cells finds it in log2(cells) renderings.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from pipeline.analysis.tables import CellResult, Delta, TableResult
from pipeline.analysis.verify.texts import TOKEN

_MARK = "0"  # led to ids, so that they are others of another length than any


class Attribution:
    """Finds the cells behind the tokens of a rendering.

    Args:
        result: the table.
        render: makes a text of it.
    """

    def __init__(self, result: TableResult, render: Callable[[TableResult], str]) -> None:
        self._result, self._render = result, render
        self._lines = render(result).split("\n")
        self._with_others = lru_cache(maxsize=256)(self._rendered)

    def cell(self, line: int, token: int) -> CellResult | None:
        """The cell that a token of a line is about; None where it is about the table as a whole.

        Args:
            line: index among the lines of the rendering.
            token: position among the tokens of the line, see `texts.TOKEN`.
        """
        low, high = 0, len(self._result.cells)
        if not self._differs(low, high, line, token):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._differs(low, middle, line, token) else (middle, high)
        return self._result.cells[low] if self._differs(low, high, line, token) else None

    def _differs(self, low: int, high: int, line: int, token: int) -> bool:
        """Whether other numbers in the cells from `low` to before `high` change the token."""
        lines = self._with_others(low, high)
        if len(lines) != len(self._lines):
            return False
        matcher = difflib.SequenceMatcher(None, TOKEN.findall(self._lines[line]), TOKEN.findall(lines[line]), autojunk=False)
        return not any(start <= token < start + size for start, _, size in matcher.get_matching_blocks())

    def _rendered(self, low: int, high: int) -> list[str]:
        cells = tuple(_other(cell) if low <= i < high else cell for i, cell in enumerate(self._result.cells))
        return self._render(replace(self._result, cells=cells)).split("\n")


def _other(cell: CellResult) -> CellResult:
    """A cell with other numbers and trials, printed at the same places."""
    return replace(
        cell,
        values=tuple(map(_shifted, cell.values)),
        trial_ids=tuple(_MARK + trial_id for trial_id in cell.trial_ids),
        run_ids=tuple(_MARK + run_id for run_id in cell.run_ids),
        mean=_moved(cell.mean),
        sd=_moved(cell.sd),
        se=_moved(cell.se),
        median=_moved(cell.median),
        ci=_interval(cell.ci),
        bootstrap_ci=_interval(cell.bootstrap_ci),
        delta=None if cell.delta is None else _other_delta(cell.delta),
    )


def _other_delta(delta: Delta) -> Delta:
    return replace(
        delta,
        mean=_moved(delta.mean),
        sd=_moved(delta.sd),
        se=_moved(delta.se),
        ci=_interval(delta.ci),
        bootstrap_ci=_interval(delta.bootstrap_ci),
        p=_moved(delta.p),
        p_holm=_moved(delta.p_holm),
        p_sign_flip=_moved(delta.p_sign_flip),
        p_t=_moved(delta.p_t),
        p_wilcoxon=_moved(delta.p_wilcoxon),
        effect=_moved(delta.effect),
    )


def _shifted(value: float) -> float:
    return value * 0.6 + 0.0173


def _moved(value: float | None) -> float | None:
    return None if value is None else _shifted(value)


def _interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (_shifted(interval[0]), _shifted(interval[1]) + 0.01)
