"""A Ray cluster of real `ray start` processes on this machine: a head without CPUs and nodes that can be killed and come back.

All nodes share the cores and the kernel of one machine: this shows recovery, never speed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

BIN = Path(sys.executable).parent
TRIAL_WORKER = "TrialWorker"  # part of the name of a process of the pool


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RayNodes:
    """Start with `with`; `environment` is for the driver.

    Args:
        workers: nodes beside the head.
        cpus: of each of them.
    """

    head_ip = "127.0.0.1"

    def __init__(self, workers: int = 3, cpus: int = 1) -> None:
        self.cpus, self.port = cpus, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="abl", dir="/tmp"))  # short: paths of sockets end at 107 letters
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_", "MLFLOW_", "DVC_"))}
        self.environment = kept | {
            "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.head: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * workers

    @property
    def address(self) -> str:
        """What the driver finds in RAY_ADDRESS."""
        return f"{self.head_ip}:{self.port}"

    def __enter__(self) -> Self:
        options = ["--head", f"--port={self.port}", f"--node-ip-address={self.head_ip}", "--num-cpus=0", "--include-dashboard=false"]
        self.head = self._ray_start("head", self.prefix(None), [*options, f"--temp-dir={self.folder}"])
        self._wait_for_head()
        for index in range(len(self.workers)):
            self.start_worker(index)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in [*self.workers, self.head]:
            if process is not None:
                kill_tree(process.pid)
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def prefix(self, index: int | None) -> list[str]:
        """What a command of a node (None: the head, where the driver runs) begins with."""
        return []

    def node_ip(self, index: int) -> str:
        """Address of a worker node."""
        return self.head_ip

    def start_worker(self, index: int) -> None:
        """Start a worker node, or start it again."""
        options = [f"--address={self.address}", f"--node-ip-address={self.node_ip(index)}", f"--num-cpus={self.cpus}"]
        self.workers[index] = self._ray_start(f"worker{index}", self.prefix(index), options)

    def kill_worker(self, index: int) -> None:
        """SIGKILL everything that runs on a node."""
        process = self.workers[index]
        assert process is not None
        kill_tree(process.pid)
        process.wait()
        self.workers[index] = None

    def trial_workers(self) -> list[psutil.Process]:
        """Processes that run trials, on any node."""
        found = []
        for process in self.workers:
            if process is not None:
                found += [child for child in children(process.pid) if TRIAL_WORKER in " ".join(command_of(child))]
        return found

    def _ray_start(self, name: str, prefix: list[str], options: list[str]) -> subprocess.Popen[bytes]:
        common = ["--disable-usage-stats", f"--object-store-memory={100 * 2**20}", "--num-gpus=0", "--block"]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*prefix, str(BIN / "ray"), "start", *options, *common],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _wait_for_head(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        probe = f"import socket; socket.create_connection(({self.head_ip!r}, {self.port}), 1)"
        while subprocess.run([*self.prefix(None), sys.executable, "-c", probe], capture_output=True, check=False).returncode:
            assert self.head is not None
            assert self.head.poll() is None, (self.folder / "head.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the head does not listen"
            time.sleep(0.2)


class NetworkNamespaces(RayNodes):
    """The same with each node in a network namespace of its own, joined by a bridge; needs root. Links can be cut."""

    head_ip = "10.77.0.10"

    def __init__(self, workers: int = 3, cpus: int = 1) -> None:
        super().__init__(workers, cpus)
        self.tag = secrets.token_hex(2)

    def __enter__(self) -> Self:
        ip("link", "add", f"b{self.tag}", "type", "bridge")
        ip("link", "set", f"b{self.tag}", "up")
        for name, address in [("h", self.head_ip), *((f"w{i}", self.node_ip(i)) for i in range(len(self.workers)))]:
            space, link = f"{self.tag}{name}", f"v{self.tag}{name}"
            ip("netns", "add", space)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", link, "master", f"b{self.tag}", "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        for name in ["h", *(f"w{i}" for i in range(len(self.workers)))]:
            ip("netns", "del", f"{self.tag}{name}")
        ip("link", "del", f"b{self.tag}")

    def prefix(self, index: int | None) -> list[str]:
        """Enters the node's namespace."""
        return ["ip", "netns", "exec", f"{self.tag}{'h' if index is None else f'w{index}'}"]

    def node_ip(self, index: int) -> str:
        """Address of a worker node."""
        return f"10.77.0.{11 + index}"

    def cut(self, index: int) -> None:
        """Cut a node off: its processes live on and nobody reaches them."""
        ip("link", "set", f"v{self.tag}w{index}", "down")

    def join(self, index: int) -> None:
        """Mend the link of a node."""
        ip("link", "set", f"v{self.tag}w{index}", "up")


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def children(pid: int) -> list[psutil.Process]:
    """All descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; Ray writes there what a worker is."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that it started."""
    try:
        doomed = [psutil.Process(pid), *children(pid)]
    except psutil.NoSuchProcess:
        return
    for process in doomed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(doomed, timeout=10)
