"""Reading the published numbers that ship with the package.

published.csv   one published number a row, as its source prints it
sources.csv     what is known of whole groups of rows; of a table's groups the first that covers a row counts
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

FIELDS = ("table", "dataset", "task", "backbone", "teacher", "method", "metric")

# metric of published.csv -> quantity here, and what the number counts
_METRICS = {
    "top1_acc": ("acc_top1", "percent"),
    "top1_err": ("acc_top1", "percent wrong"),
    "top5_acc": ("acc_top5", "percent"),
    "top5_err": ("acc_top5", "percent wrong"),
    "best_acc_fraction": ("acc_top1", "fraction"),
    "best_macroF1_fraction": ("best_macroF1_fraction", "fraction"),
    "acc": ("acc", "percent"),  # mean over few-shot episodes
    "loc_acc": ("loc_acc", "percent"),
    "loc_IoU0.5": ("loc_IoU0.5", "percent"),
    "MaxBoxAccV2": ("MaxBoxAccV2", "percent"),
    "PxAP": ("PxAP", "percent"),
    "mAP": ("mAP", "points"),
    "BLEU-4": ("BLEU-4", "points"),
    "top1_gap_points": ("top1_gap_points", "points"),
    "loc_pct_as_in_README": ("loc_pct_as_in_README", "points"),  # error or accuracy: its README does not say
}


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        table: group of rows of one source, e.g. 'ISDA_T2'.
        dataset, task, backbone, method: in the words of published.csv.
        teacher: of a distillation; '' without one.
        metric: as published, e.g. 'top1_err'.
        value: accuracy as a fraction in [0, 1], also where an error was published; points on the published scale where not `is_fraction`.
        quantity: 'acc_top1', 'acc_top5' or, for all else, `metric`.
        spread: in the unit of `value`; None where none was published.
        spread_kind: 'sd' over runs, 'ci95' (half-width), '' without a spread.
        n: number of runs; None where unknown.
        decimals: digits after the point of the source's number, printed in percent where `is_fraction`.
        protocol: which number of a run counts: 'last', 'best', a median in words, or 'unknown'.
        source: where the number was read.
        note: what else a reader should know; '' for nothing.
        evidence: how protocol and n are known, or why not.
    """

    table: str
    dataset: str
    task: str
    backbone: str
    teacher: str
    method: str
    metric: str
    value: float
    quantity: str
    spread: float | None
    spread_kind: str
    n: int | None
    decimals: int
    protocol: str
    source: str
    note: str = ""
    evidence: str = ""

    @property
    def is_fraction(self) -> bool:
        """Whether `value` and `spread` are fractions, which tables print as percentages."""
        return _METRICS[self.metric][1] != "points"


@functools.cache
def load_published() -> tuple[Published, ...]:
    """All published numbers, in the order of published.csv."""
    groups = _rows("sources.csv")
    return tuple(_published(row, next(group for group in groups if _covers(group, row))) for row in _rows("published.csv"))


def _rows(file: str) -> list[dict[str, str]]:
    text = importlib.resources.files("pipeline.analysis.published").joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _covers(group: dict[str, str], row: dict[str, str]) -> bool:
    """Whether a row of sources.csv speaks of a row of published.csv; its `where` reads 'method=KD & source=*(1 run*'."""
    conditions = [condition.partition("=") for condition in group["where"].split(" & ") if condition]
    return group["source_table"] == row["table"] and all(fnmatchcase(row[name], shape) for name, _, shape in conditions)


def _published(row: dict[str, str], group: dict[str, str]) -> Published:
    quantity, counts = _METRICS[row["metric"]]
    value = Decimal(row["value"])
    if counts == "percent wrong":
        value = 100 - value
    unit = 100 if counts.startswith("percent") else 1
    digits = len(row["value"].partition(".")[2])
    remark = row["source"].partition("[")[2].rstrip("]")  # published.csv puts what is odd about a single row in brackets
    return Published(
        **{name: row[name] for name in FIELDS},
        value=float(value / unit),
        quantity=quantity,
        spread=float(Decimal(row["std"]) / unit) if row["std"] else None,
        spread_kind=group["spread"],
        n=int(group["n"]) if group["n"] else None,
        decimals=max(digits - 2, 0) if counts == "fraction" else digits,
        protocol=group["protocol"],
        source=row["source"],
        note="; ".join(part for part in (remark, group["note"]) if part),
        evidence=group["evidence"],
    )
