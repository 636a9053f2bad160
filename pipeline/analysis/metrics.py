"""What a result column measures: its words, its unit, which direction is better, and its selection protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.metric_names import METRICS

SELECTION_WORDS = {
    "last": "at the last epoch",
    "best_val": "at the epoch with the best validation accuracy",
    "best_test": "at the epoch with the best test accuracy (optimistic: the test split chose the epoch)",
}
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}

_COLUMN = re.compile(r"metric_(?:(?P<split>train|val|test)_)?(?P<stem>.+?)(?:_(?P<selection>last|best_val|best_test))?")
# For columns that `METRICS` does not name, of older or foreign records.
_LOWER_IS_BETTER = {"loss", "ce", "nll", "error", "err", "ece", "brier", "time", "mem", "bytes"}
_UNBOUNDED = {"loss", "ce", "nll", "brier"}


@dataclass(frozen=True)
class Metric:
    """How one result column is printed and compared.

    Attributes:
        column: column of `results/trials.parquet`.
        words: what it measures, without unit and protocol, e.g. 'test accuracy'.
        unit: unit as printed, e.g. '%'; empty for a number without one.
        scale: printed value = stored value x scale.
        decimals: digits after the point, for the mean and the SD alike.
        higher_is_better: direction of the comparison.
        selection: 'last', 'best_val', 'best_test', or None when no epoch is chosen (times, memory).
        stem: name of the metric as a study file calls it, e.g. 'acc_top1'.
    """

    column: str
    words: str
    unit: str
    scale: float
    decimals: int
    higher_is_better: bool
    selection: str | None
    stem: str = ""

    @property
    def quantity(self) -> str:
        """Words and unit, e.g. 'test accuracy (%)'."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    @property
    def description(self) -> str:
        """Words, unit and protocol, e.g. 'test accuracy (%) at the last epoch'."""
        return f"{self.quantity} {SELECTION_WORDS[self.selection]}" if self.selection else self.quantity

    @property
    def difference_unit(self) -> str:
        """Unit of a difference of two values: percentage points for percentages."""
        return "percentage points" if self.unit == "%" else self.unit

    @property
    def short_quantity(self) -> str:
        """Name and unit as a column heading, e.g. 'acc_top1 (%)'."""
        name = self.stem or self.words
        return f"{name} ({self.unit})" if self.unit else name

    def number(self, value: float, *, signed: bool = False, decimals: int | None = None) -> str:
        """`value` (as stored) in printed units; a value that rounds to zero never prints as -0.00."""
        return f"{value * self.scale:{'+' if signed else ''}z.{self.decimals if decimals is None else decimals}f}"

    def spread(self, mean: float, sd: float | None, *, signed: bool = False) -> str:
        """'93.60 ± 0.42', or '93.60' when there is no SD (one seed)."""
        return self.number(mean, signed=signed) + (f" ± {self.number(sd)}" if sd is not None else "")


def describe(column: str) -> Metric:
    """The `Metric` of a column of `results/trials.parquet`.

    `metric_*` columns print as `METRICS` says; of those it does not name, the terms of the training loss and other losses are
    plain numbers and the rest fractions, printed as percentages. `time_*_s` are seconds (a step prints in milliseconds) and
    `*_bytes` print in MiB (2**20 bytes).
    """
    if column.startswith("time_step"):
        return Metric(column, "time a step", "ms", 1e3, 2, False, None)
    if column.startswith("time_"):
        words = {"time_train_s": "training time"}.get(column, column.removesuffix("_s").removeprefix("time_").replace("_", " ") + " time")
        return Metric(column, words, "s", 1.0, 1, False, None)
    if column.endswith("_bytes"):
        words = {"mem_peak_bytes": "peak memory"}.get(column, column.removesuffix("_bytes").replace("_", " "))
        return Metric(column, words, "MiB", 2.0**-20, 1, False, None)
    match = _COLUMN.fullmatch(column)
    if match is None:
        return Metric(column, column.replace("_", " "), "", 1.0, 4, higher_is_better(column), None)
    stem, split = match["stem"], match["split"]
    named = METRICS.get(stem)
    words = named.words if named and split else f"{{split}} {stem.replace('_', ' ')}"
    words = words.replace("{split}", SPLIT_WORDS[split] if split else "").strip()
    if named:
        unit, scale, decimals = named.unit, named.scale, named.decimals
    else:
        unit, scale, decimals = ("", 1.0, 4) if split == "train" or _UNBOUNDED & set(stem.split("_")) else ("%", 100.0, 2)
    return Metric(column, words, unit, scale, decimals, higher_is_better(column), match["selection"], stem)


def higher_is_better(column: str) -> bool:
    """As `METRICS` says; else False for losses, errors, times and memory, True for all else."""
    match = _COLUMN.fullmatch(column)
    if match is not None and match["stem"] in METRICS:
        return METRICS[match["stem"]].higher_is_better
    if match is not None and match["split"] == "train":
        return False  # a term of the loss
    return not _LOWER_IS_BETTER & set(column.split("_"))


def map_measure(column: str) -> str:
    """'energy' for the energy of any map, be it CAAM, CAM or a baseline; '' for a metric that compares no map with object masks."""
    match = _COLUMN.fullmatch(column)
    stem = match["stem"] if match is not None else ""
    return next((m.centre.removeprefix("centre_") for m in METRICS.values() if m.centre and stem in (m.name, m.flat, m.centre)), "")


def mask_sign(column: str) -> str:
    """Column that every record of a dataset with object masks holds, of the split and selection of `column`."""
    match = _COLUMN.fullmatch(column)
    return f"metric_{match['split']}_flat_energy_{match['selection']}" if match is not None else ""


def measured_at_end(column: str) -> bool:
    """Whether the metric is measured once a trial, as those that older records lack are."""
    match = _COLUMN.fullmatch(column)
    return match is not None and match["stem"] in METRICS and METRICS[match["stem"]].when == "end"


def baselines(column: str) -> dict[str, str]:
    """Words of each map that does not look at the image -> column of what it gets in the metric of `column`; often none."""
    match = _COLUMN.fullmatch(column)
    named = METRICS.get(match["stem"]) if match is not None else None
    if match is None or named is None:
        return {}
    names = {"flat map": named.flat, "centre": named.centre}
    return {words: f"metric_{match['split']}_{name}_{match['selection']}" for words, name in names.items() if name}
