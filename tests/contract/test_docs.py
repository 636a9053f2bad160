"""The documentation names every registered method."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import losses, regularizers

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", [*losses.names(), *regularizers.names()])
def test_the_cost_of_every_method_is_listed(name: str) -> None:
    """docs/method-cost.md has a row for each loss and regularizer; make it anew with `python benchmarks/method_cost.py --docs`."""
    text = (DOCS / "method-cost.md").read_text(encoding="utf-8")
    assert name == "ce" or f"`{name}` |" in text
