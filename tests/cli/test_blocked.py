"""Commands about trials whose data is not prepared here, as in a clone after `dvc pull`: one message, and what brings the data back."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.conftest import Project

REASON = "dataset 'digits' is not prepared in data/prepared; run `ablate prepare`"
SAID = f"Study tiny: which trials it is made of is not known yet, as {REASON}."
OTHER = "  other: {source: cluttered_digits, canvas: 18, num_train: 40, num_val: 10, num_test: 10}\n"


@pytest.mark.parametrize(
    "command",
    ["table", "table main", "table --json", "seeds", "trials", "trials --json", "why 5311d845", "mlflow rebuild", "adopt --dry-run"],
)
def test_nothing_is_asked_of_trials_that_are_not_known(project: Project, command: str) -> None:
    """Exit status 2, the dataset and the command that prepares it; that command is the right one."""
    shutil.rmtree(project.root / "data")
    result = project.ablate(*command.split())
    assert (result.code, result.out, result.err) == (2, "", f"Error: {SAID}\n")


def test_what_the_message_names_brings_the_trials_back(project: Project) -> None:
    """After it the same command answers, and with the same identities as before."""
    before = project.ablate("trials").out
    shutil.rmtree(project.root / "data")
    assert project.ablate("prepare").code == 0
    again = project.ablate("trials")
    assert (again.code, again.out) == (0, before)


def test_a_stored_trial_is_explained_without_its_data(project: Project) -> None:
    """From its record; that the plan does not ask for it is not said, as nobody knows."""
    shutil.rmtree(project.root / "data")
    result = project.ablate("why", "0123456789abcdef")
    assert result.code == 0
    assert "tables: not known while trials of the plan are blocked" in result.out
    assert result.err == f"4 trials blocked: {REASON}\n"


def test_trials_that_are_known_are_shown_beside_blocked_ones(project: Project) -> None:
    """One of two datasets is there: its trials are listed, and the others are said to be blocked."""
    project.edit("studies/tiny.yaml", "defaults:", OTHER + "defaults:")
    project.edit("studies/tiny.yaml", "rows: {regularizers: [none, cutout]}", "rows: {dataset: [digits, other]}")
    listed = project.ablate("trials", "--json")
    assert [row["config"]["dataset"]["name"] for row in json.loads(listed.out)] == ["digits"] * 2
    assert listed.err == f"2 trials blocked: {REASON.replace('digits', 'other')}\n"
    assert project.ablate("table", "main").code == 0
