"""`ablate doctor`: it names what is wrong with the store, and with --repair puts it right once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.store.checkpoints import CheckpointFiles
from pipeline.store.trial_store import TrialStore

if TYPE_CHECKING:
    from .conftest import Project


def test_a_store_that_is_sound(project: Project) -> None:
    """Nothing is wrong, and --repair changes nothing."""
    before = project.stored()
    for arguments in ((), ("--repair",)):
        result = project.ablate("doctor", *arguments)
        assert (result.code, result.err) == (0, "")
        assert "ok     store store: 1 trial, writable" in result.out
        assert "wrong" not in result.out
    assert project.stored() == before


def test_damage_is_named_then_repaired_once(project: Project) -> None:
    """Status 2 and a next step while a segment is damaged; --repair says what it did; after that nothing is wrong any more."""
    segment = next((project.root / "store" / "segments").glob("*.records.parquet"))
    segment.write_bytes(segment.read_bytes()[:100])
    before = project.stored()
    result = project.ablate("doctor")
    assert result.code == 2
    assert f"wrong  store store: segments/{segment.name}: cannot be read" in result.out
    assert "move it and its history to quarantine/" in result.out
    assert "1 damaged file; `ablate doctor --repair` does what is said above" in result.out
    assert project.stored() == before
    result = project.ablate("doctor", "--repair")
    assert result.code == 0
    assert f"done   store store: segments/{segment.name}: cannot be read" in result.out
    assert project.stored()[f"quarantine/{segment.name}"] == before[f"segments/{segment.name}"]
    after = project.stored()
    for arguments in (("--repair",), ()):
        result = project.ablate("doctor", *arguments)
        assert result.code == 0
        assert "done" not in result.out
        assert "in quarantine/, kept until you remove them" in result.out
    assert project.stored() == after


def test_leftovers_are_no_fault(project: Project) -> None:
    """What a killed run left is told and status 0, as the next run gets along with it; --repair tidies up."""
    store = TrialStore(project.root / "store")
    (trial_id,) = store.records()
    CheckpointFiles(store, trial_id, None).save(b"state")
    result = project.ablate("doctor")
    assert result.code == 0
    assert f"note   store store: checkpoints/{trial_id}: 1 checkpoint of a trial that is finished; remove them" in result.out
    result = project.ablate("doctor", "--repair")
    assert result.code == 0
    assert f"done   store store: checkpoints/{trial_id}" in result.out
    assert not list((project.root / "store" / "checkpoints").iterdir())
