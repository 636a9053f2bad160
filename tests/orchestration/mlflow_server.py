"""A PostgreSQL and an MLflow server of the tests' own, on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POSTGRES = next((Path(folder) for folder in ("/usr/local/bin", "/usr/lib/postgresql/15/bin") if (Path(folder) / "initdb").exists()), None)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of an empty database, served by another user where this one is root."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed on this machine")
    user: list[str] = []
    # Not in pytest's folder: every pytest that starts closes it to other users.
    with tempfile.TemporaryDirectory(prefix="ablate-postgres-") as folder:
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("PostgreSQL refuses to run as root, and there is no setpriv to run it as another user")
            user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            subprocess.run(["chown", "nobody:nogroup", folder], check=True)
        port, data = free_port(), Path(folder) / "data"
        _run([*user, POSTGRES / "initdb", "-A", "trust", "-U", "tester", "-D", data])
        control = [*user, POSTGRES / "pg_ctl", "-D", data, "-w"]
        _run([*control, "-o", f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off", "-l", f"{folder}/log", "start"])
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@contextmanager
def mlflow_server(database: str, artifacts: Path) -> Iterator[str]:
    """The address of `mlflow server` over a database, up and answering."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = artifacts.with_name("server.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--artifacts-destination", artifacts.as_uri()],
            env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                with opener.open(f"{address}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
