"""Whether two records of one trial hold the same numbers, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.store.records import Record

# What may change the last bits of a number without any change of the code.
ENVIRONMENT = {
    "env_device": "device",
    "env_device_name": "hardware",
    "env_torch": "torch",
    "env_python": "Python",
    "env_threads": "threads",
    "env_host": "host",
}
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Attributes:
        field: its column, with the epoch for one of the history.
        then: value of the older record, 'absent' where it has none; what is long is given by its digest.
        now: value of the newer record.
    """

    field: str
    then: Any
    now: Any

    def line(self) -> str:
        """'metric_test_loss_last was 0.25, is 0.5'."""
        return f"{self.field} was {self.then}, is {self.now}"


def differences(then: Record, now: Record) -> list[Difference]:
    """Every metric of two records and of their epochs, the digests of their weights, and their pictures, where they differ.

    Pictures are compared in the columns that the older record has: later versions draw more of the same network.

    Args:
        then: older record, with history and panel.
        now: newer one.
    """
    found = list(_unequal(_metrics(then), _metrics(now)))
    found += _unequal({"weights_sha256": then.get("weights_sha256")}, {"weights_sha256": now.get("weights_sha256")})
    before, after = ({row["epoch"]: _metrics(row) for row in record.history} for record in (then, now))
    for epoch in sorted(before.keys() | after.keys()):
        found += _unequal(before.get(epoch, {}), after.get(epoch, {}), f" at epoch {epoch}")
    pictures = _filled(then.panel)
    return found + list(_unequal(pictures, {key: value for key, value in _filled(now.panel).items() if key in pictures}))


def other_environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """'torch was 2.14.0, is 2.15.0': what differs about where two trials ran, and may explain other numbers."""
    return [
        f"{name} was {then.get(key, 'not recorded')}, is {now.get(key, 'not recorded')}"
        for key, name in ENVIRONMENT.items()
        if then.get(key) != now.get(key)
    ]


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return _filled({key: value for key, value in row.items() if key.startswith("metric_")})


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _unequal(then: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> Iterator[Difference]:
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key, ABSENT), now.get(key, ABSENT)
        if not _same(a, b):
            yield Difference(key + where, _short(a), _short(b))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()  # unlike ==: nan is itself, and 0.0 is not -0.0
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)} bytes of digest {hashlib.sha256(value).hexdigest()[:8]}"
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} values of digest {hashlib.sha256(repr(value).encode()).hexdigest()[:8]}"
    return value
