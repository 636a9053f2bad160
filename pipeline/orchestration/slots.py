"""How many trials run at a time, as far as this machine can tell."""

from __future__ import annotations

import os

from pipeline.study.params import Resources


def is_local() -> bool:
    """Whether a run would be on this machine and not on a cluster."""
    return not os.environ.get("RAY_ADDRESS")


def device_of(resources: Resources) -> str:
    """'cpu' or 'cuda': where trials of a run on this machine would be."""
    import torch

    if resources.device != "auto":
        return resources.device
    return "cuda" if torch.cuda.is_available() and is_local() else "cpu"


def device_name_of(device: str) -> str:
    """The name that a record of this machine has under `env_device_name`; '' where it has no such device."""
    import torch

    from pipeline.trial import environment

    if device == "cuda" and not torch.cuda.is_available():
        return ""
    return str(environment(torch.device(device))["env_device_name"])


def slots_of(resources: Resources) -> int | None:
    """Trials at a time; None for a cluster, whose size only the run itself will see, unless `max_concurrent` says it."""
    if resources.executor == "serial":
        return 1
    if not is_local():
        return resources.max_concurrent
    import joblib

    slots = max(1, joblib.cpu_count() // resources.cpus_per_trial)
    if device_of(resources) == "cuda":
        import torch

        slots = min(slots, max(1, int(torch.cuda.device_count() / resources.gpus_per_trial)))
    return min(slots, resources.max_concurrent or slots)
