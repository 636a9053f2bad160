"""What became of the trials of a plan: for people, for the exit status, and for DVC."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import TrialError
from pipeline.orchestration.planning import Plan, PlannedTrial
from pipeline.store.records import FINAL_FAILURES, Record
from pipeline.study.identity import digest


@dataclass
class Outcome:
    """What became of the trials of a plan.

    Attributes:
        started: number of trials this call trained; those that another run finished meanwhile are not among them.
        complete, diverged, skipped: final outcomes.
        failed: records of trials that failed for a reason that may pass.
        missing: trials without any record: lost worker, interrupted, full disk.
        run_ids: MLflow run id of each mirrored trial.
        digests: trial id -> digest of its stored metrics, for DVC.
    """

    started: int = 0
    complete: int = 0
    skipped: int = 0
    diverged: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    missing: list[PlannedTrial] = field(default_factory=list)
    run_ids: dict[str, str] = field(default_factory=dict)
    digests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether another run could not change anything: what DVC may cache."""
        return not self.failed and not self.missing

    def raise_unless_final(self) -> None:
        """Raise when another run could still change something.

        Raises:
            TrialError: names the failed and the missing trials and what to do.
        """
        if self.is_final:
            return
        lines = [f"{self.line()}."]
        lines += [f"  failed: {record.get('name', record['trial_id'])}: {record['reason']}" for record in self.failed[:10]]
        lines += [f"  missing: {trial.name}" for trial in self.missing[:10]]
        hidden = max(0, len(self.failed) - 10) + max(0, len(self.missing) - 10)
        if hidden:
            lines.append(f"  and {hidden} more")
        lines.append("Finished trials are stored. `ablate status` shows each failure and how to rerun it; run again to continue.")
        raise TrialError("\n".join(lines))

    def line(self) -> str:
        """'54 complete, 1 diverged, 0 failed, 0 missing (12 trained now)'."""
        return (
            f"{self.complete} complete, {self.skipped} skipped, {len(self.diverged)} diverged, {len(self.failed)} failed, "
            f"{len(self.missing)} missing ({self.started} trained now)"
        )

    @classmethod
    def of(cls, plan: Plan, records: Mapping[str, Record], started: int) -> Outcome:
        """What is stored of a plan after a run that started so many trials."""
        outcome = cls(started=started)
        for trial_id, trial in plan.trials.items():
            record = records.get(trial_id)
            if trial.reason:
                outcome.skipped += 1
            elif record is None or record["state"] == "pruned":
                outcome.missing.append(trial)
            elif record["state"] == "complete":
                outcome.complete += 1
            elif record["failure"] in FINAL_FAILURES:
                outcome.diverged.append(record)
            else:
                outcome.failed.append(record)
            if record is not None:
                outcome.digests[trial_id] = {"state": record["state"], "digest": digest(dict(record))}
        return outcome


def write_outcomes(outcome: Outcome, path: Path) -> None:
    """Write what DVC tracks of a run: state and digest of each record, and its MLflow run."""
    trials = {trial_id: {**entry, "run_id": outcome.run_ids.get(trial_id)} for trial_id, entry in sorted(outcome.digests.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"trials": trials}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
