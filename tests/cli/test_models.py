"""`ablate models`: families, descriptions, reasons."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from pipeline import models
from pipeline.cli import app
from pipeline.errors import UnknownNameError
from pipeline.models import describe


def said(*arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_without_a_pattern_families_are_listed() -> None:
    """Every family is there with its count."""
    assert json.loads(said("--json")) == describe.families()
    text = said()
    assert "cifar_resnext" in text
    assert f"{len(models.names())} backbones" in text


def test_a_pattern_describes_what_it_means() -> None:
    """Size, channels and classes reach the description; the table has its numbers."""
    rows = json.loads(said("resnet8", "--size", "48", "--channels", "1", "--classes", "3", "--json"))
    expected = dataclasses.asdict(describe.describe("resnet8", size=48, in_channels=1, num_classes=3))
    assert rows == [json.loads(json.dumps(expected))]
    assert rows[0]["feature_map"] == [64, 12, 12]
    assert "64x8x8" in said("resnet8")


def test_whether_there_are_class_activation_maps_and_the_whole_name() -> None:
    """A network that has them says yes; no name is cut, however narrow the terminal."""
    name = max(models.names(), key=len)
    (line,) = [line for line in said(name).splitlines() if line.startswith(f"│ {name} │")]
    assert line.split("│")[-2].strip() == "yes"


def test_an_empty_pattern_is_none() -> None:
    """Nothing to look for lists the families, as without a pattern."""
    assert said("") == said(" ") == said()
    assert said("", "--unsupported") == said("--unsupported")


def test_case_and_number_are_as_a_reader_wants_them() -> None:
    """Upper case finds the same, and one backbone is no plural."""
    assert said("RESNET8") == said("resnet8")
    assert said("resnet8").startswith("1 backbone, 3x32x32 images, 10 classes")
    assert "5 backbones, 3x32x32 images, 1 class" in said("preresnet", "--classes", "1")


def test_many_matches_are_named_and_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most that are described, names only."""
    monkeypatch.setattr(describe, "MOST", 2)
    rows = json.loads(said("preresnet", "--json"))
    assert [row["name"] for row in rows] == describe.match("preresnet")
    assert [len(row) > 1 for row in rows] == [True, True, False, False, False]
    assert "Not described: preresnet32, preresnet44, preresnet56" in said("preresnet")


def test_what_cannot_be_counted_says_why() -> None:
    """Too small an image, and a network without class activation maps: the reason below the table or in it."""
    assert "inception_v3: no 32x32 images: " in said("inception_v3")
    lines = [line.split("│")[-2] for line in said("alexnet").splitlines() if line.startswith("│")]
    assert " ".join(" ".join(lines).split()) == models.unsupported()["alexnet"]


def test_unsupported_networks_are_listed_with_reasons() -> None:
    """All of them, or those of a pattern."""
    assert json.loads(said("--unsupported", "--json")) == models.unsupported()
    assert said("swin_v2_t", "--unsupported").splitlines() == [models.unsupported()["swin_v2_t"]]


def test_a_bad_pattern_names_the_nearest() -> None:
    """A pattern that means nothing is an error for the user."""
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        said("resnte18")
