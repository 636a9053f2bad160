"""Every error a user can meet, in one tree.

PipelineError
├── ConfigError (ValueError)     the study file, params.yaml or an argument is wrong      exit status 2
│   └── UnknownNameError         a name nobody registered, with the nearest known one     exit status 2
├── DataError                    a dataset cannot be read or prepared                     exit status 2
├── StoreError                   the trial store cannot be read or written                exit status 2
├── ClusterError                 Ray cannot be reached or cannot offer what is asked      exit status 2
├── IncompatibleError            two methods exclude each other: the cell is skipped
└── TrialError                   one trial is at fault, the study goes on                 exit status 1
    ├── DivergedError            the loss stopped being finite: final, never retried
    └── PrunedError              a search gave the trial up: stored as pruned, with the epochs it had
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Root of all errors whose message is written for the user and needs no traceback."""


class ConfigError(PipelineError, ValueError):
    """The study file, params.yaml or an argument is wrong."""


class UnknownNameError(ConfigError):
    """A name that nobody registered.

    The message carries the place, the nearest known name, all known names and the next step.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], *, where: str = "", next_step: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        place = f" in {where}" if where else ""
        step = f" {next_step}" if next_step else ""
        super().__init__(f"Unknown {kind} {name!r}{place}.{did_you_mean(name, self.known)} Known: {_some(name, self.known)}.{step}")


class DataError(PipelineError):
    """A dataset cannot be read or prepared."""


class StoreError(PipelineError):
    """The trial store cannot be read or written."""


class ClusterError(PipelineError):
    """Ray cannot be reached, or cannot offer the resources asked for."""


class IncompatibleError(PipelineError):
    """Two methods exclude each other; the message is the reason printed under the table."""


class TrialError(PipelineError):
    """One trial is at fault; the others go on."""


class DivergedError(TrialError):
    """The loss stopped being finite.

    Args:
        step: optimisation step, counted from 0 over the whole trial.
        epoch: epoch, counted from 0.
        value: the loss that was met.
    """

    def __init__(self, step: int, epoch: int, value: float) -> None:
        self.step, self.epoch, self.value = step, epoch, value
        super().__init__(f"loss became {value} at step {step} (epoch {epoch})")

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, int, float]]:
        return type(self), (self.step, self.epoch, self.value)


class PrunedError(TrialError):
    """A search gave the trial up after some of its epochs; raised by whoever listens to its epochs."""


def counted(number: int, singular: str, plural: str = "") -> str:
    """'1 trial', '2 trials', '2 classes': a number with its word; `plural` where it does not end in a plain s."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _some(name: object, names: list[str], most: int = 24) -> str:
    """All names, or the nearest of very many."""
    if len(names) <= most:
        return ", ".join(names) or "none"
    near = difflib.get_close_matches(str(name), names, n=8, cutoff=0.3) or names[:8]
    return f"{', '.join(near)} and {len(names) - len(near)} more (`ablate schema` has them all)"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' when a known name is near, else ''."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
