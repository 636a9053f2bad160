"""`ablate methods`, and every command's answer to a plugin that is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest

from pipeline.orchestration.methods import KINDS, _type_text, list_methods, options_text
from tests.cli.conftest import Project


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_all_kinds_are_listed(project: Project) -> None:
    """Every registered name that can be used is listed with type and default of its options; backbones of ours only by name."""
    listing = json.loads(project.ablate("methods", "--json").out)
    assert {kind: [entry["name"] for entry in entries] for kind, entries in listing.items()} == {
        kind: names() for kind, (_, names) in KINDS.items()
    }
    (cam,) = [entry for entry in listing["losses"] if entry["name"] == "cam"]
    assert cam["module"] == "pipeline.losses.cam"
    assert cam["plugin"] is None
    assert cam["options"]["classifier_grad"] == {"type": "bool", "default": False, "required": False}
    assert cam["options"]["distance"]["type"].startswith("l1 | l2 | ")
    (folder,) = [entry for entry in listing["datasets"] if entry["name"] == "image_folder"]
    assert folder["options"]["root"] == {"type": "str", "default": None, "required": True}
    assert all(entry.keys() == {"name", "plugin"} for entry in listing["backbones"])
    assert "module" in json.loads(project.ablate("methods", "backbones", "--json").out)["backbones"][0]


def test_every_method_says_what_it_is_for() -> None:
    """No method of ours is listed without a purpose."""
    assert [entry["name"] for kind in KINDS for entry in list_methods(kind)[kind] if not entry["purpose"]] == []


def test_the_listing_for_people(project: Project) -> None:
    """One kind, a line a method, its options below; an unknown kind names the known ones."""
    text = project.ablate("methods", "regularizers").out
    assert "  cutout: Set a square" in text
    assert "\n      size: int = 8\n" in text
    assert "losses" not in text
    result = project.ablate("methods", "loses")
    assert result.code == 2
    assert "Did you mean 'losses'?" in result.err


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float, "float"),
        (list[int], "list[int]"),
        (str | None, "str | null"),
        (Optional[int], "int | null"),  # noqa: UP045 - the old spelling is understood too
        (Literal["l1", "l2"], "l1 | l2"),
        (Annotated[int, "unit"], "int"),
        (Any, "any"),
    ],
)
def test_types_as_a_study_file_writes_them(annotation: Any, text: str) -> None:
    """Annotations read as in YAML."""
    assert _type_text(annotation) == text


def test_options_on_a_line() -> None:
    """Defaults read as in YAML; a required option has none."""
    options = {
        "a": {"type": "bool", "default": True, "required": False},
        "b": {"type": "str | null", "default": None, "required": False},
        "c": {"type": "int", "default": None, "required": True},
        "d": {"type": "int", "default": 1, "required": False},
    }
    assert options_text(options) == "a: bool = true, b: str | null = null, c: int, d: int = 1"


@pytest.mark.parametrize(
    "command",
    [["plan"], ["run"], ["prepare"], ["status"], ["trials"], ["why", "0"], ["table"], ["doctor"], ["methods", "--study", "tiny"]],
    ids=lambda command: command[0],
)
def test_a_missing_plugin_is_a_message(command: list[str], project: Project) -> None:
    """Every command that reads the study says which line names it, with status 2 and no traceback."""
    project.edit("studies/tiny.yaml", "seeds: 1\n", "seeds: 1\nplugins:\n  - toy_lost.loss\n")
    result = project.ablate(*command)
    assert result.code == 2
    assert "studies/tiny.yaml:4: plugins[0]: no module 'toy_lost' for the plugin 'toy_lost.loss'." in result.out + result.err
    assert "Traceback" not in result.out + result.err


def test_methods_without_a_sound_active_study(project: Project) -> None:
    """The methods of `pipeline` are listed all the same, with a note on what is wrong."""
    Path("studies/tiny.yaml").unlink()
    result = project.ablate("methods", "losses")
    assert result.code == 0
    assert "Without the plugins of the active study: Unknown study 'tiny'" in result.err
    assert "  ce (CE):" in result.out
