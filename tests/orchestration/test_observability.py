"""What a run leaves for those who watch: the event log, tracebacks, counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.orchestration.events import EventLog, traceback_of, write_traceback
from pipeline.orchestration.exposition import Exposition


def test_the_event_log_is_one_object_a_line_and_grows(tmp_path: Path) -> None:
    """Two runs append; each event names its run, and the end says how it ended."""
    with EventLog("s", "first", tmp_path) as log:
        log.write("trial_started", trial_id="a", path=Path("x"))
        seen = log.path.read_text(encoding="utf-8")  # others can follow while it runs
    with pytest.raises(KeyboardInterrupt), EventLog("s", "second", tmp_path):
        raise KeyboardInterrupt
    lines = [json.loads(line) for line in (tmp_path / "s.events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert json.loads(seen)["event"] == "trial_started"
    assert [(line["run"], line["event"]) for line in lines] == [
        ("first", "trial_started"), ("first", "run_ended"), ("second", "run_ended"),
    ]  # fmt: skip
    assert [line.get("how") for line in lines] == [None, "done", "KeyboardInterrupt"]
    assert lines[0]["time"] <= lines[1]["time"]


def test_the_traceback_of_a_failure_is_a_file_with_the_command_to_rerun_it(tmp_path: Path) -> None:
    """Where there is no traceback (a lost worker) the reason stands in its place."""
    path = write_traceback("s", "abc", {"name": "net", "attempt": 2, "reason": "it fell", "traceback": "Traceback ..."}, tmp_path)
    assert path == traceback_of("abc", tmp_path)
    assert "rerun: ablate run --study s --trial abc" in path.read_text(encoding="utf-8")
    assert "Traceback ..." in path.read_text(encoding="utf-8")
    assert "it fell" in write_traceback("s", "abd", {"reason": "it fell"}, tmp_path).read_text(encoding="utf-8")


def test_counters_are_what_prometheus_reads(tmp_path: Path) -> None:
    """Its own parser finds every sample with type, label and value."""
    counters = Exposition("s", 4, tmp_path)
    for trial_id in ("a", "b", "c"):
        counters.started(trial_id)
    counters.ended("a", "complete")
    counters.ended("b", "requeued")
    counters.started("b")
    counters.counts["epochs"] += 7
    counters.write()
    families = {family.name: family for family in text_string_to_metric_families((tmp_path / "s.prom").read_text(encoding="utf-8"))}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values == {
        "ablate_trials_started": 4, "ablate_trials_complete": 1, "ablate_trials_failed": 0, "ablate_trials_requeued": 1,
        "ablate_epochs": 7, "ablate_trials_running": 2, "ablate_trials_waiting": 1,
    }  # fmt: skip
    assert {family.type for name, family in families.items() if name.endswith(("running", "waiting"))} == {"gauge"}
    assert all(family.samples[0].labels == {"study": "s"} for family in families.values())


def test_counters_are_not_written_all_the_time(tmp_path: Path) -> None:
    """A thousand short trials a minute do not mean a thousand files a minute; the end is written in any case."""
    counters = Exposition("s", 1, tmp_path)
    counters.write()
    counters.started("a")
    counters.write()
    assert 'ablate_trials_started_total{study="s"} 0' in counters.path.read_text(encoding="utf-8")
    counters.write(now=True)
    assert 'ablate_trials_started_total{study="s"} 1' in counters.path.read_text(encoding="utf-8")


def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every write to /dev/full fails as on a full disk: one warning a log, and the run goes on to its end."""
    (tmp_path / "s.events.jsonl").symlink_to("/dev/full")
    with EventLog("s", "run", tmp_path) as log:
        for trial in range(3):
            log.write("trial_started", trial_id=trial)
    assert capsys.readouterr().err.count("No space left on device") == 1
    (tmp_path / "logs").write_text("a file where the folder should be", encoding="utf-8")
    with EventLog("s", "run", tmp_path / "logs") as log:
        log.write("trial_started")
    counters = Exposition("s", 1, tmp_path / "logs")
    counters.write(now=True)
    counters.write(now=True)
    path = write_traceback("s", "a", {"reason": "boom"}, tmp_path / "logs")
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 3
    assert not path.exists()
