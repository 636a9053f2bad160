"""How a study's tables judge and show their numbers. Nothing here changes a trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.study.strict import Strict

Test = Literal["sign_flip", "t", "wilcoxon"]


class StatisticsSpec(Strict):
    """What counts as a difference."""

    test: Test = Field(
        default="sign_flip",
        description="Paired two-sided test of a difference: sign_flip (permutation; assumes symmetry only), t (assumes normal "
        "differences), or wilcoxon (signed ranks).",
    )
    alpha: float = Field(default=0.05, gt=0, lt=1, description="Level of the tests, after Holm's correction over a table.")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Of the confidence intervals.")


class Style(Strict):
    """What a table prints; every number is in the JSON and CSV files whatever the style."""

    spread: Literal["sd", "se", "ci", "none"] = Field(
        default="sd", description="After ±: sample SD, standard error, half the width of the t interval, or nothing."
    )
    decimals: int | None = Field(default=None, ge=0, le=8, description="Digits after the point; null: as the metric has it.")
    deltas: bool = Field(default=True, description="Columns with differences to the baseline.")
    p_values: bool = Field(default=False, description="Columns with p values after Holm's correction, beside the differences.")
    averages: bool = Field(default=True, description="A closing row with means over the complete rows.")
    ranks: bool = Field(default=False, description="A closing row with average ranks over the complete rows.")
    bold: Literal["group", "best", "none"] = Field(
        default="group", description="Bold is the best of a row and what cannot be told from it, or the best alone, or nothing."
    )


def check_names(value: Any, key: str, what: str) -> Any:
    """A name or a list of different names, unchanged; ValueError says that `key` is `what` where it is neither."""
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is {what}, got {value!r}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice in [{', '.join(names)}]. Keep one")
    return value


def _row_fields(value: Any) -> Any:
    return check_names(value, "by", "a field of the rows, e.g. backbone, or a list of such fields")


class ReferenceSpec(Strict):
    """A column of published numbers beside a table's own."""

    where: dict[str, str] = Field(description="Field of the published numbers -> its value, e.g. table: ISDA_T2, dataset: CIFAR-100.")
    by: Annotated[str | list[str], BeforeValidator(_row_fields)] = Field(
        description="Field of the rows that tells the published numbers apart, e.g. backbone, or several."
    )
    names: dict[str, str] = Field(default_factory=dict, description="Level of that field -> what the source calls it.")


def merged(base: Style, own: Style | None) -> dict[str, Any]:
    """The style of a table: what it says itself, else what the study says."""
    return base.model_dump() | (own.model_dump(exclude_unset=True) if own is not None else {})
