"""Help texts as a terminal shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from pipeline.cli import app
from pipeline.cli.mlflow import mlflow_app
from tests.cli.conftest import Project


def commands() -> Iterator[str]:
    """Every command."""
    for group, prefix in ((app, ""), (mlflow_app, "mlflow ")):
        for command in group.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", list(commands()))
def test_lines_of_help_are_full_and_examples_are_whole(project: Project, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    """No line of a paragraph ends where the first word of the next would have had room; each example has a line."""
    monkeypatch.setenv("COLUMNS", str(width))
    shown = project.ablate(*command.split(), "--help").out
    prose, _, below = re.sub(r"(?m)^[╭│╰].*\n", "\0", shown).partition("\0")
    lines = [line.strip() for line in prose.splitlines()]
    for line, after in pairwise(lines):
        assert not (line and after) or len(line) + 1 + len(after.split()[0]) > width - 2, (line, after)
    examples = below.replace("\0", "").strip().splitlines()
    assert examples[0].strip() in ("Example:", "Examples:")
    assert len(examples) > 1
    assert all(re.match(r"\s*(ablate|watch) ", line) for line in examples[1:])
