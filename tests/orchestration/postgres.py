"""A PostgreSQL of the tests' own, on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FOLDERS = [Path("/usr/local/bin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
POSTGRES = next((folder for folder in _FOLDERS if (folder / "initdb").exists()), None)


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
