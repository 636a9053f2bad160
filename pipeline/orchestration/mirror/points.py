"""Numbers and settings as MLflow takes them: names of metrics, points of curves, flat parameters."""

from __future__ import annotations

import json
import math
import numbers
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

History = list[dict[str, Any]]
Points = dict[tuple[str, int], float]  # (metric, step) -> value; final metrics have step 0, epochs count from 1

_FINAL = ("metric_", "time_", "mem_")  # columns of a record that are numbers of the trial
_EPOCH = (*_FINAL, "system_")  # and of a row of its history
_PLUMBING = ("time_", "time/", "mem_", "mem/", "system/")  # differ between two runs of one trial
_DATES = ("time_finished_ns",)


def metric_name(key: str) -> str:
    """MLflow name of an epoch metric: `metric_val_acc_top1` and `val_acc_top1` -> `val/acc_top1`.

    `system_cpu_percent` -> `system/cpu_percent`: what begins so is shown under System metrics.
    """
    name = key.removeprefix("metric_")
    return legal(name if "/" in name else name.replace("_", "/", 1))


def final_points(record: Mapping[str, Any]) -> Points:
    """Finite `metric_*`, `time_*` and `mem_*` columns of a record; `metric_` is dropped from the name."""
    columns = {key: value for key, value in record.items() if key.startswith(_FINAL) and key not in _DATES}
    return {(legal(key.removeprefix("metric_")), 0): float(value) for key, value in columns.items() if is_finite(value)}


def epoch_points(epoch: int, metrics: Mapping[str, Any]) -> Points:
    """Finite values of one epoch under their MLflow names."""
    return {(metric_name(key), epoch): float(value) for key, value in metrics.items() if key != "epoch" and is_finite(value)}


def history_points(history: Iterable[Mapping[str, Any]]) -> Points:
    """All epochs of one trial; rows hold `epoch`, `metric_*`, and perhaps `time_*`, `mem_*` and `system_*`."""
    points: Points = {}
    for row in history:
        points |= epoch_points(int(row["epoch"]), {key: value for key, value in row.items() if key.startswith(_EPOCH)})
    return points


def is_plumbing(name: str) -> bool:
    """Whether a metric may differ between two runs of one trial: times, memory, load of the machine."""
    return name.startswith(_PLUMBING)


def flatten(params: Any, prefix: str = "") -> dict[str, str]:
    """Nested configuration with dotted keys, e.g. `loss.cam.weight`, `regularizers.0.name`; plain lists become JSON."""
    if isinstance(params, Mapping) and (params or not prefix):
        items: Iterable[tuple[Any, Any]] = params.items()
    elif isinstance(params, (list, tuple)) and any(isinstance(value, Mapping) for value in params):
        items = enumerate(params)
    else:
        return {legal(prefix): cut(params if isinstance(params, str) else json.dumps(params, default=str, ensure_ascii=False), 6000)}
    return {key: value for name, part in items for key, value in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()}


def legal(name: str) -> str:
    """`name` within what MLflow accepts as the key of a metric or parameter."""
    return posixpath.normpath(re.sub(r"[^\w\-. /:]", "_", name)[:250]).lstrip("/.") or "_"


def legal_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Finite metrics under names that MLflow accepts; of two that would become one, the later is numbered."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        name, number = legal(key), 2
        while name in found:
            name, number = f"{legal(key)[:240]} {number}", number + 1
        if is_finite(value):
            found[name] = float(value)
    return found


def is_finite(value: Any) -> bool:
    """Whether `value` is a number that MLflow can draw."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def same(a: float, b: float) -> bool:
    """Whether two values are one number, but for what a database or another processor may round."""
    return math.isclose(a, b, rel_tol=1e-12)


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
