"""What differs between what is published and what plan and store give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        kind: 'cell' (a number of a table, in the formats that `where` names), 'file' (anything else in a published file), 'version'
            (written by an earlier version), 'store' (a damaged or altered segment), 'record' (a trial), 'mlflow' (a run).
        where: 'backbones: resnet8 / cam [json, md]', 'results/trials.parquet', 'segments/... .records.parquet'.
        message: what is there, what should be, and what to do where that is not plain.
    """

    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"
