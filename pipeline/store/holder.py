"""Which process on which machine wrote something, and whether it still lives."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

import psutil

SAME_START_S = 2.0  # how far two readings of one process's start may lie apart


@functools.cache
def machine() -> str:
    """Eight digits of where process ids mean the same: this host since its last boot, and this container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path: pid:[4026531836]
    except OSError:  # not Linux
        boot, space = f"{psutil.boot_time():.0f}", "-"
    return hashlib.sha256(f"{platform.node()}\n{boot}\n{space}".encode()).hexdigest()[:8]


def started_s(pid: int) -> float | None:
    """Seconds from the boot of this machine to the start of a process, or None when it is dead: with the pid it names one process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both times move when the clock is set; their difference does not.
        return float(process.create_time() - psutil.boot_time())
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None
    except psutil.Error:  # it lives, but tells this user nothing
        return float("nan")


def is_dead(where: str, pid: int, start_s: float | None = None) -> bool:
    """Whether it is certain that a process is gone.

    Args:
        where: its `machine()`; of another machine nothing is certain.
        pid: its number there.
        start_s: its `started_s`, so that another process that got the number later does not pass for it; None where it is not known.
    """
    if where != machine():
        return False
    now = started_s(pid)
    return now is None or (start_s is not None and abs(now - start_s) > SAME_START_S)
