"""Words for the figures of a table."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from pipeline.analysis.figures.panels import Caption

Drawing = tuple[Figure, Caption]
WORDS = {
    "accuracy": "Accuracy over epochs",
    "convergence": "Epochs until an accuracy is reached",
    "sweep": "Metrics over the factor",
    "per_class": "Change of the accuracy of each class against the baseline",
    "ranks": "Average ranks with the critical difference",
    "cost": "Accuracy against cost",
}
_MOST = 12  # facts that a listener is told


def caption_of(kind: str, table: str, note: str, facts: Sequence[str]) -> Caption:
    """Caption of a figure whose note is drawn in it: short below it, with the note and the first 12 `facts` for those who do not see it."""
    told = list(facts[:_MOST]) + ([f"and {len(facts) - _MOST} more"] if len(facts) > _MOST else [])
    words = WORDS[kind]
    return Caption(f"{words}.", " ".join(filter(None, [f"{words}, table {table}.", f"{'; '.join(told)}." if told else "", note])))
