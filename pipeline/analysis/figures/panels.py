"""Pictures of the networks of a table: which are shown, and the words that say so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.analysis.wording import one_line
from pipeline.errors import counted

MAX_ROWS = 6  # of a table
MAX_ARMS = 6  # of a row
Images = Mapping[tuple[str, int], Mapping[str, Any]]  # (data digest, index in the test split) -> row of data/images.parquet


@dataclass(frozen=True)
class Arm:
    """One network of a picture.

    Attributes:
        label: its column; its row where columns are metrics.
        trial_id: its trial; None where none is planned.
        panel: the panel_* columns of that trial, None where there are none.
        reason: why there are none; '' otherwise.
    """

    label: str
    trial_id: str | None
    panel: Mapping[str, Any] | None
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """The networks of one row of a table, or of a whole table whose columns are metrics.

    Attributes:
        number: of the row, from 1; 0 for the whole table.
        row: its label; '' for the whole table.
        seed: index of the repetition that is shown.
        arms: in the order of the columns.
        hidden: number of arms left out.
        field: what the labels of the arms are levels of; '' where that goes without saying.
    """

    number: int
    row: str
    seed: int
    arms: tuple[Arm, ...]
    hidden: int = 0
    field: str = ""

    @property
    def shown(self) -> list[tuple[Arm, Mapping[str, Any]]]:
        """The arms that have pictures, with them."""
        return [(arm, arm.panel) for arm in self.arms if arm.panel is not None]

    @property
    def kind(self) -> str:
        """Part of a file name: the row's number and what of its label a file name may hold."""
        slug = re.sub(r"[^A-Za-z0-9]+", "-", self.row)[:40].strip("-")
        return "_".join(filter(None, [str(self.number or ""), slug]))


@dataclass(frozen=True)
class Caption:
    """Words for a picture: `text` stands below it and does not repeat what is drawn, `alt` is for those who do not see it."""

    text: str
    alt: str


def groups_of(spec: Mapping[str, Any], panels: pa.Table, trials: pa.Table) -> tuple[list[Group], int]:
    """What is shown of a table: for each row, or once where columns are metrics, each arm's trial of the first planned seed.

    A row none of whose shown trials has pictures is left out. At most 6 rows and 6 arms are shown, the first ones.

    Args:
        spec: one entry of `tables` in tables.json.
        panels: results/panels.parquet.
        trials: results/trials.parquet.

    Returns:
        The groups, and the number of rows with pictures that are left out.
    """
    kept = {row["trial_id"]: row for row in panels.to_pylist()}
    names = [name for name in ("trial_id", "state", "reason") if name in trials.column_names]
    records = {row["trial_id"]: row for row in trials.select(names).to_pylist()}
    seed = spec["seeds"][0]

    def arm(label: str, cell: Mapping[str, Any] | None) -> Arm:
        if cell is None:
            return Arm(label, None, None, "not part of this table's design")
        trial = next((trial for trial in cell["trials"] if trial["seed"] == seed), None)
        if trial is None:
            return Arm(label, None, None, f"seed {seed} is not planned")
        record = records.get(trial["trial_id"], trial)
        if record["state"] != "complete":
            reason = record.get("reason") or trial.get("reason") or "no reason recorded"
            return Arm(label, trial["trial_id"], None, f"{record['state']}: {one_line(reason)}")
        panel = kept.get(trial["trial_id"])
        return Arm(label, trial["trial_id"], panel, "" if panel else "stored without pictures")

    if spec["column_kind"] == "level":
        by_place = {(cell["row"], cell["column"]): cell for cell in spec["cells"]}
        columns = spec["columns"]
        rows = [(i, row, [arm(column, by_place.get((row, column))) for column in columns]) for i, row in enumerate(spec["rows"], 1)]
    else:  # the columns share their trials
        by_row = {cell["row"]: cell for cell in spec["cells"]}
        rows = [(0, "", [arm(row, by_row.get(row)) for row in spec["rows"]])]
    field = "" if spec["column_kind"] == "level" else " · ".join(spec["row_fields"])
    groups = [Group(i, row, seed, tuple(arms[:MAX_ARMS]), max(0, len(arms) - MAX_ARMS), field) for i, row, arms in rows]
    groups = [group for group in groups if group.shown]
    return groups[:MAX_ROWS], max(0, len(groups) - MAX_ROWS)


def class_names(panel: Mapping[str, Any], images: Images) -> list[str]:
    """Names of all classes of the dataset of a trial; empty where its images are not at hand."""
    return next((list(row["classes"]) for (digest, _), row in images.items() if digest == panel["panel_digest"]), [])


def class_name(label: int, names: Sequence[str]) -> str:
    """Name of a class, its number where it has none."""
    return names[label] if label < len(names) else str(label)


def chosen_words(labels: Sequence[int], names: Sequence[str]) -> str:
    """How the images were chosen: 'the first test image of each of the first 6 of 10 classes', in the order of the split."""
    each = max((list(labels).count(label) for label in set(labels)), default=0)
    number = len(set(labels))
    classes = f"each of the first {number} of {len(names)} classes" if number < len(names) else "each class"
    return f"the first {'test image' if each == 1 else f'{each} test images'} of {classes}"


def trial_words(groups: Sequence[Group]) -> str:
    """Which trials are shown: their seed and ids."""
    seeds = " and ".join(str(seed) for seed in sorted({group.seed for group in groups}))
    ids = [f"{full_label(group, arm)} {arm.trial_id}" for group in groups for arm, _ in group.shown]
    return f"One trial each, of seed {seeds}: {', '.join(ids)}."


def cut(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters."""
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def hidden_words(hidden_rows: int, hidden_arms: int) -> str:
    """What is left out, '' when nothing is."""
    parts = [f"{counted(count, f'more {what}')} not shown." for count, what in ((hidden_rows, "row"), (hidden_arms, "column")) if count]
    return " ".join(parts)


def title_words(field: str, title: str) -> str:
    """'Weight of CAM-loss, by loss.cam.weight': a title, and what the labels of the arms are levels of."""
    return one_line(title) + (f", by {one_line(field)}" if field else "")


def label_of(group: Group, arm: Arm) -> str:
    """'row / column', or the one there is."""
    return " / ".join(one_line(part) for part in (group.row, arm.label) if part)


def full_label(group: Group, arm: Arm) -> str:
    """`label_of` where no title says what it is a level of: 'loss.cam.weight=3'."""
    return f"{group.field}={label_of(group, arm)}" if group.field and "·" not in group.field else label_of(group, arm)


def blocks_of(arms: Sequence[Arm]) -> Iterator[list[Arm]]:
    """Runs of arms that show the same images; an arm without pictures goes with those before it."""
    block: list[Arm] = []
    key: tuple[Any, ...] | None = None
    for arm in arms:
        own = None if arm.panel is None else (arm.panel["panel_digest"], *arm.panel["panel_index"])
        if key is not None and own is not None and own != key:
            yield block
            block = []
        key = own or key
        block.append(arm)
    yield block


def image_rows(images: pa.Table) -> Images:
    """data/images.parquet by data digest and index in the test split."""
    return {(row["data_digest"], row["index"]): row for row in images.to_pylist()}
