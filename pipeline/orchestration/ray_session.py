"""A connection to Ray: started on this machine, or the cluster at RAY_ADDRESS."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib

from pipeline.errors import ClusterError
from pipeline.orchestration.execution import Context
from pipeline.study.params import Resources

OBJECT_STORE_BYTES = 256 * 2**20  # the plan is small and images are memory-mapped; Ray's own default is a third of the RAM
KNOCK_S = 5.0
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": "",  # ours are in NOT_SHIPPED; Ray warns of its own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # else five files a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else fit() returns normally after Ctrl-C, with trials cut short
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the store is the truth; Tune's own snapshots are never restored
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_WARN_THRESHOLD_S": "60",
}
# What a node does not need of the project folder; what .gitignore names stays here as well.
NOT_SHIPPED = [
    ".git",
    ".venv",
    ".dvc",
    "store",
    "data",
    "results",
    "report",
    "tables",
    "figures",
    "curves",
    "logs",
    "search",
    "dvc_plots",
    "mlartifacts",
    "tests",
]


@contextlib.contextmanager
def ray_session(context: Context, resources: Resources) -> Iterator[Any]:
    """The module `ray`, connected; disconnected at the end, which ends what this process started there.

    Raises:
        ClusterError: Ray cannot be reached or started.
    """
    settle_environment()
    address = os.environ.get("RAY_ADDRESS")
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    connect(ray, address, context, resources)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which dumps a stack and aborts
    try:
        yield ray
    finally:
        ray.shutdown()


def settle_environment() -> None:
    """Settings that Ray reads when it is imported, or later; to be called before the first import of any part of it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS"):
        # Without a mode Ray turns token authentication on and leaves a token file in the home directory.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def connect(ray: Any, address: str | None, context: Context, resources: Resources) -> None:
    """Start Ray here, or join the cluster at `address`.

    Raises:
        ClusterError: neither is possible; says what to do.
    """
    try:
        if address:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="WARNING", runtime_env=_shipped(resources))
            return
        slots = joblib.cpu_count() // context.threads or 1
        if resources.max_concurrent:
            slots = min(slots, resources.max_concurrent)
        gpus: dict[str, Any] = {} if context.device == "cuda" else {"num_gpus": 0}
        ray.init(
            num_cpus=max(slots * context.threads, context.threads),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            **gpus,
        )
    except SystemExit as stop:  # while it starts, Ray's own handler of SIGTERM is in place
        raise KeyboardInterrupt("SIGTERM") from stop
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        if not address:
            raise ClusterError(
                f"Ray cannot start on this machine: {error}. Set resources.executor: serial in params.yaml to do without it."
            ) from error
        raise ClusterError(
            f"No Ray cluster at RAY_ADDRESS={address!r}: {str(error).splitlines()[0]}. Start one (`ray start --head`), correct the address "
            "(host:port, or auto), give it the cluster's RAY_AUTH_TOKEN, or unset RAY_ADDRESS to run on this machine."
        ) from error


def check_capacity(ray: Any, wanted: dict[str, float], wait_s: float = 0.0) -> None:
    """Ray waits for ever for what no node has; this waits `wait_s` seconds for a node of a cluster to come.

    Args:
        wanted: resource -> amount that one trial asks for, on one node.

    Raises:
        ClusterError: no node has it.
    """
    deadline = time.monotonic() + (wait_s if os.environ.get("RAY_ADDRESS") else 0.0)
    while True:
        nodes = alive_nodes(ray)
        if any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes.values()):
            return
        if time.monotonic() >= deadline:
            break
        time.sleep(1.0)
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    most = ", ".join(f"{max((node.get(name, 0.0) for node in nodes.values()), default=0.0):g} {name}" for name in wanted)
    address = os.environ.get("RAY_ADDRESS")
    place = f"no node of the cluster at {address} has more than {most}" if address else f"this machine has {most}"
    waited = f" after {wait_s:g} s of waiting for one; where nodes take longer to start, raise resources.wait_s" if address else ""
    raise ClusterError(f"A trial asks for {asked} but {place}{waited}. Change resources in params.yaml.")


def alive_nodes(ray: Any) -> dict[str, dict[str, float]]:
    """Node id -> its resources, of the nodes that are alive."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _shipped(resources: Resources) -> dict[str, Any]:
    if not resources.ship_code:
        return {}
    return {"working_dir": str(Path.cwd()), "excludes": [f"/{name}" for name in NOT_SHIPPED]}


def _knock(address: str) -> None:
    """Try to reach the cluster's head: Ray itself waits for minutes where nobody listens, and may end the process.

    Raises:
        OSError: nobody listens there.
        ValueError: the address is not of the form host:port.
    """
    if address == "auto":
        from ray._private.services import find_bootstrap_address

        # What `ray start` wrote down; it may be of a cluster that is gone, for which Ray would wait minutes.
        address = find_bootstrap_address(None) or ""
        if not address:
            raise ConnectionError("no `ray start` is known on this machine")
    if address.startswith("ray://"):
        raise ValueError("ray:// is the Ray client, which cannot run studies; start the run on a node of the cluster")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("it is not of the form host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
