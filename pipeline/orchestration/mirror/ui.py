"""The MLflow UI, served from this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PipelineError
from pipeline.orchestration.mirror.uri import (
    DEFAULT_URI,
    UI_PORT,
    database_path,
    prepare_environment,
    redact,
    require_reachable,
    resolve_uri,
)
from pipeline.orchestration.mirror.views import view_links

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_PORTS_TRIED = 50
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_ui(uri: str = DEFAULT_URI, *, host: str = "127.0.0.1", port: int = UI_PORT, log: Callable[[str], None]) -> None:
    """Serve the MLflow UI in the foreground; returns after Ctrl-C (or SIGTERM), with no process left behind.

    The addresses of each experiment and its views are logged once the server answers. A `uri` that is a server already is only named.

    Args:
        uri: the study's `tracking.uri`.
        host: address to listen on; the UI has no password, so anything but loopback is announced.
        port: first port to try; the next free one is taken, and said, when it is busy.
        log: receives one line of text for the user.

    Raises:
        ConfigError: the URI has a scheme that is not supported.
        PipelineError: there is no database yet, or what is there is none; nobody answers; MLflow is not installed, no port is free, or
            the server does not come up.
    """
    uri = resolve_uri(uri)
    path = database_path(uri)
    if path and not path.is_file():
        raise PipelineError(f"There is no MLflow database at {path}. Run a study first (`ablate run`), or check tracking.uri.")
    require_reachable(uri)
    if uri.startswith("http"):
        log(f"tracking.uri is a server: open {redact(uri)}")
        return
    if importlib.util.find_spec("mlflow") is None:
        raise PipelineError("MLflow is not installed here; install the `study` extra (pip install '.[study]').")
    free = _free_port(host, port)
    if free != port:
        log(f"Port {port} is taken; using {free}.")
    if host not in _LOOPBACK:
        log(f"warning: the UI listens on {host} without a password; whoever reaches this machine can read and change the runs")
    with _terminated_like_ctrl_c(), tempfile.TemporaryFile() as output, _server(uri, path, host, free, output) as process:
        _wait_until_up(process, output, uri, host, free)
        base = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{free}"  # noqa: S104  # compared, not bound
        for experiment in _experiments(host, free):
            for line in view_links(experiment, base):
                log(line)
        log(f"MLflow UI at {base} (Ctrl-C stops it)")
        try:
            process.wait()
        except KeyboardInterrupt:
            log("MLflow UI stopped.")
            return
        raise PipelineError(f"The MLflow server stopped by itself (exit status {process.returncode}):\n{_tail(output, uri)}")


def _free_port(host: str, first: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, min(first + _PORTS_TRIED, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return port
    raise PipelineError(f"No free port on {host} from {first} to {first + _PORTS_TRIED - 1}; name another with --port, or check --host.")


@contextlib.contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the server as Ctrl-C does: without this its processes would outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _server(uri: str, path: Path | None, host: str, port: int, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    prepare_environment()
    artifacts = (path.parent if path else Path.cwd()) / "mlartifacts"
    # The URI goes through the environment: a password on the command line could be read by every user of the machine.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--artifacts-destination", artifacts.as_uri()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches only us, and one signal to the group reaches every process of the server
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # an impatient second Ctrl-C: kill at once
        process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], output: IO[bytes], uri: str, host: str, port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PipelineError(f"The MLflow server did not start (exit status {process.returncode}):\n{_tail(output, uri)}")
        with contextlib.suppress(OSError, http.client.HTTPException):  # not listening yet
            if _ask(host, port, "GET", "/health")[0] == 200:
                return
        time.sleep(0.2)
    raise PipelineError(f"The MLflow server did not answer within {_START_TIMEOUT_S:g} s:\n{_tail(output, uri)}")


def _experiments(host: str, port: int) -> list[dict[str, Any]]:
    """Experiments of the server, without the empty one that MLflow makes by itself."""
    status, body = _ask(host, port, "POST", "/api/2.0/mlflow/experiments/search", {"max_results": 100})
    if status != 200:
        raise PipelineError(f"The MLflow server answered {status} when asked for its experiments: {body[:300].decode(errors='replace')}")
    return [found for found in json.loads(body).get("experiments", []) if found["name"] != "Default"]


def _ask(host: str, port: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=10)  # noqa: S104  # compared, not bound
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _tail(output: IO[bytes], uri: str) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").splitlines()
    return redact("\n".join(lines[-15:]), uri)
