"""Records: the finished row of one trial, and the states a trial can be in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
PANEL = "panel_"  # prefix of the columns that only pictures need
FINAL_FAILURES = ("diverged",)  # kinds of failure that the same trial would meet again: a result, never retried
BUG = "error"  # a method's code raised: the same code would again, unless its surroundings were mended


class Record(dict[str, Any]):
    """The finished row of one trial: a flat dictionary, with `history` holding one row an epoch and `panel` what pictures are drawn from.

    Keys carry their origin: `metric_*` (fractions in [0, 1], losses in nats), `seed_*`, `time_*_s`, `mem_peak_bytes`, `env_*` (machine,
    versions, and the study and the git commit of the run that trained it: recorded, never part of the identity);
    `state` is complete, pruned or failed; `failure` is '', 'diverged' (final), 'error' (a bug: run again when asked to), or
    'out_of_memory', 'device' or 'lost' (tried again by the next run); `reason` is one line for people.

    Args:
        row: the flat dictionary.
        history: rows with `epoch` (from 1) and `metric_*` a split.
        panel: the `panel_*` columns, see `panel_types`; empty for a trial without pictures. Kept apart, as it holds bytes.
    """

    def __init__(self, row: Mapping[str, Any], history: Iterable[Mapping[str, Any]] = (), panel: Mapping[str, Any] | None = None) -> None:
        super().__init__(row)
        self.history: list[dict[str, Any]] = [dict(r) for r in history]
        self.panel: dict[str, Any] = dict(panel or {})

    @property
    def is_final(self) -> bool:
        """Whether running the same trial again can only give the same outcome."""
        return self["state"] == "complete" or (self["state"] == "failed" and self.get("failure") in FINAL_FAILURES)

    @property
    def is_settled(self) -> bool:
        """Whether a run leaves the trial alone unless it is asked for: final, or failed by a bug."""
        return self.is_final or (self["state"] == "failed" and self.get("failure") == BUG)

    def check(self) -> None:
        """Refuse a record that contradicts itself.

        Raises:
            ValueError: no trial_id, unknown state, a failure without a reason, a complete trial without metrics, or history without epochs.
        """
        if not isinstance(self.get("trial_id"), str) or not self["trial_id"]:
            raise ValueError(f"a record needs a trial_id, got {self.get('trial_id')!r}")
        if self.get("state") not in ("complete", "failed", "pruned"):
            raise ValueError(f"a stored record is complete, failed or pruned, not {self.get('state')!r} (trial {self.get('trial_id')})")
        if self["state"] == "failed" and not self.get("reason"):
            raise ValueError(f"failed trial {self['trial_id']} has no reason")
        if self["state"] == "complete" and not any(key.startswith("metric_") for key in self):
            raise ValueError(f"complete trial {self['trial_id']} has no metrics")
        if self.history and not all(isinstance(row.get("epoch"), int) for row in self.history):
            raise ValueError(f"a row of the history of trial {self['trial_id']} has no epoch")
        if foreign := [key for key in self.panel if not key.startswith(PANEL)]:
            raise ValueError(f"columns of the panel of trial {self['trial_id']} begin with {PANEL}, not so {', '.join(foreign)}")


def checkout_words(commit: str, dirty: bool | None) -> str:
    """'961d919..., as committed': `env_git_commit` and `env_git_dirty` of a record, for people."""
    if dirty is None:
        return f"{commit}; whether files were changed is not known"
    return f"{commit}, {'with changes that were not committed' if dirty else 'as committed'}"


def panel_types() -> dict[str, pa.DataType]:
    """Columns of the pictures of a trial. N images with maps of H rows and W columns, M images as points, K classes.

    panel_digest: of the dataset. panel_index, panel_label, panel_predicted: position in the test split and classes of the N images.
    panel_height, panel_width: H and W. panel_cam, panel_caam: bytes of uint8 arrays NHW. panel_point_index, panel_point_label: of the
    M images. panel_xy: bytes of a float16 array M2, little endian. panel_share: share of the variance along the two axes.
    panel_class_correct, panel_class_count: of the K classes, correctly classified and all images of the test split, by the weights of
    the last epoch; null in trials that were stored before there were these two.
    """
    import pyarrow as pa

    whole, many = pa.int32(), pa.list_(pa.int32())
    return {
        "panel_digest": pa.string(),
        "panel_index": many,
        "panel_label": many,
        "panel_predicted": many,
        "panel_height": whole,
        "panel_width": whole,
        "panel_cam": pa.large_binary(),
        "panel_caam": pa.large_binary(),
        "panel_point_index": many,
        "panel_point_label": many,
        "panel_xy": pa.large_binary(),
        "panel_share": pa.list_(pa.float64()),
        "panel_class_correct": many,
        "panel_class_count": many,
    }


def rows_to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Arrow table of rows whose keys may differ: a missing key becomes null, whole numbers in a float column become floats."""
    import pyarrow as pa

    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    columns, panel = {}, panel_types()
    for name in names:
        values = [row.get(name) for row in rows]
        if name.startswith(("metric_", "time_")) and not name.endswith("_ns"):
            columns[name] = pa.array(values, pa.float64())
        else:
            columns[name] = pa.array(values, panel.get(name))
    return pa.table(columns)
