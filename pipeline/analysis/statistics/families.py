"""Corrections over a family: all comparisons with the baseline that one table makes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ConfigError


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p values, in the same order (Holm 1979).

    With m p values in ascending order, adjusted_i = max over j <= i of min(1, (m - j + 1) p_j). Rejecting where the adjusted value is at
    most alpha keeps the chance of one or more false rejections at most alpha, whatever the dependence between the comparisons.
    None (a comparison without a test) stays None and is not counted in m.

    Raises:
        ConfigError: a value is no probability.
    """
    wrong = [p for p in p_values if p is not None and not 0 <= p <= 1]
    if wrong:
        raise ConfigError(f"p values must lie in [0, 1], but one is {wrong[0]}. Give None for a comparison without a test.")
    ordered = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p, place) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - step) * p))
        adjusted[place] = largest
    return adjusted
