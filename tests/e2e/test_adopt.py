"""A refactoring of the training loop in a finished project: its trials are adopted; a change of the numbers is not."""

from __future__ import annotations

import json

import pytest

from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from tests.e2e.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(900)]
LOOP = "pipeline.training.loop"
STEP = "            optimizer.step()\n"
REFACTORED = "            update = optimizer.step\n            update()\n"


def edit_loop(project: Project, old: str, new: str) -> None:
    """Replace what stands once in the training loop of the project's own copy of the code."""
    file = project.folder / "pipeline/training/loop.py"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_refactoring_is_adopted_and_a_change_of_numbers_is_not(finished: Project) -> None:
    """`why` names the module; after one equal re-run nothing is new and nothing is trained; other numbers leave all as it was."""
    before = stored(finished)
    edit_loop(finished, STEP, REFACTORED)
    planned = json.loads(finished.ablate("trials", "--json").stdout)
    assert [entry["state"] for entry in planned] == ["planned"] * 4
    told = finished.ablate("why", planned[0]["trial_id"]).stdout
    assert f"code: 1 module changed: {LOOP}" in told
    assert "`ablate adopt`" in told

    done = finished.ablate("adopt", "--check", "1", "--seed", "7")
    assert "All 1 equal, bit for bit. Adopted 3 trials" in done.stdout
    assert json.loads(finished.ablate("plan", "--json").stdout)["totals"]["new"] == 0
    after = {trial_id: record for trial_id, record in stored(finished).items() if trial_id not in before}
    assert after.keys() == {entry["trial_id"] for entry in planned}
    origins = {record["adopted_from"] for record in after.values() if "adopted_from" in record}
    assert len(origins) == 3
    assert origins < before.keys()
    tables = cells(finished)
    repro = finished.run("dvc", "repro").stdout
    assert "4 complete" in repro
    assert "(0 trained now)" in repro
    assert cells(finished) == tables
    assert "0 differ" in finished.ablate("verify").stdout

    edit_loop(finished, REFACTORED, REFACTORED + STEP)
    refused = finished.ablate("adopt", "--check", "1", "--seed", "7", check=1)
    assert "Nothing was adopted: of 1 trial trained with the present code, 1 is not equal to its twin." in refused.stderr
    assert "metric_test_" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(stored(finished)) == len(before) + len(after) + 1


def stored(project: Project) -> dict[str, Record]:
    return TrialStore(project.folder / "store").records()


def cells(project: Project) -> dict[str, list[float]]:
    """Means of each table."""
    files = sorted((project.folder / "tables").glob("*.json"))
    return {file.name: [cell["mean"] for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]] for file in files}
