"""What the process that runs a trial takes of its machine, sampled at the end of each epoch."""

from __future__ import annotations

import contextlib

import psutil
import torch

SYSTEM = "system_"  # prefix of these columns of a history: like times, they are no part of a trial's outcome


class SystemMeter:
    """Load of this process and of its GPU.

    Args:
        device: where the trial runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._process = device, psutil.Process()
        self.sample()  # begins the first interval, and opens the library that asks the driver

    def sample(self) -> dict[str, float]:
        """Columns for the row of an epoch.

        Returns:
            system_cpu_percent: time on CPUs since the last sample, 100 for one core; system_memory_bytes: resident memory. On a GPU also
            system_gpu_memory_bytes: what PyTorch holds of it for this process, its cache included; and, where nvidia-ml-py is installed
            and the driver tells, system_gpu_utilization: percent of the last moments (1/6 to 1 s) in which any process computed on it.
        """
        row: dict[str, float] = {f"{SYSTEM}cpu_percent": self._process.cpu_percent()}
        row[f"{SYSTEM}memory_bytes"] = self._process.memory_info().rss
        if self._device.type == "cuda":
            row[f"{SYSTEM}gpu_memory_bytes"] = torch.cuda.memory_reserved(self._device)
            with contextlib.suppress(Exception):  # not installed, or a driver that does not tell: a trial never fails for it
                row[f"{SYSTEM}gpu_utilization"] = float(torch.cuda.utilization(self._device))
        return row
