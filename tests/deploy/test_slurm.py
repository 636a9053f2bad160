"""deploy/slurm.sh, run for real on this machine: stand-ins for Slurm's commands play a job of two nodes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.e2e.project import make_project

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"
SCONTROL = """\
#!/usr/bin/env bash
if [[ "$1 $2" == "show hostnames" ]]; then printf '%s\\n' ${3//,/ }; else echo "$*" >> "$FOLDER/scontrol.log"; fi
"""
SRUN = """\
#!/usr/bin/env bash
echo "$*" | head -1 >> "$FOLDER/srun.log"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
# A Ray that starts and ends on TERM, for what concerns the script alone.
RAY = """\
#!/usr/bin/env bash
[[ "$*" == *--head* ]] && echo "Ray runtime started."
exec sleep 600
"""
PATIENT_DRIVER = """\
#!/usr/bin/env bash
echo "$*" > "$FOLDER/started.tmp"; mv "$FOLDER/started.tmp" "$FOLDER/started"
trap 'sleep 0.5; echo clean > "$FOLDER/ended"; exit 130' TERM
for _ in {1..600}; do sleep 0.1; done
"""
# Says which nodes it sees; ends with 1 once a lost node is replaced by a new one.
NODE_COUNTER = """\
import json, os, pathlib, sys, time
import ray
folder = pathlib.Path(os.environ["FOLDER"])
ray.init(log_to_driver=False, logging_level="ERROR")
def nodes():
    return {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
def wait_for(done):
    for _ in range(900):
        if done(nodes()):
            return nodes()
        time.sleep(0.1)
    sys.exit("waited in vain: " + str(nodes()))
before = wait_for(lambda seen: len(seen) == 2)
(folder / "nodes.tmp").write_text(json.dumps({"nodes": before, "arguments": sys.argv[1:]}))
(folder / "nodes.tmp").rename(folder / "nodes.json")
after = wait_for(lambda seen: len(seen) == 2 and set(seen) != set(before))
(folder / "after.json").write_text(json.dumps(after))
ray.shutdown()
sys.exit(1)
"""


@dataclass
class Job:
    """The script running as the job of two nodes, with its folder of stand-ins and of what they wrote down."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def stand_in(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, nodes: str = "node0,node1") -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "ABLATE_"))}
        self.environment = {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}",
            "FOLDER": str(self.folder),
            "HOME": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SLURM_JOB_ID": str(self.port - 20000),
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_SUBMIT_DIR": str(self.folder),
            "ABLATE_OBJECT_STORE_BYTES": "100000000",
        }
        with (self.folder / "job.log").open("w") as log:
            self.process = subprocess.Popen(
                ["bash", str(SCRIPT), *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def processes(self) -> list[psutil.Process]:
        """Everything that carries this job's environment, its parents gone or not."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FOLDER") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_for(self, name: str, seconds: float = 120) -> str:
        path = self.folder / name
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if path.exists():
                return path.read_text()
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{name} never came; the job's log:\n{self.log}")

    def end(self, seconds: float = 120) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    @property
    def log(self) -> str:
        return (self.folder / "job.log").read_text()


def free_port() -> int:
    """A free one among those that the script draws from."""
    for port in range(20000 + os.getpid() % 10000, 30000):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    raise AssertionError("no free port")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path, free_port())
    job.stand_in("scontrol", SCONTROL)
    job.stand_in("srun", SRUN)
    job.stand_in("hostname", '#!/usr/bin/env bash\necho "127.0.0.1 10.0.0.1"\n')
    yield job
    for process in job.processes():
        process.kill()


@pytest.mark.cluster
def test_two_nodes_make_one_ray_and_a_lost_worker_node_comes_back(job: Job) -> None:
    """The driver sees two nodes, a killed worker node is replaced, arguments and exit status pass through, no process stays."""
    job.stand_in("ablate", f"#!{sys.executable}\n{NODE_COUNTER}")
    job.start("--study", "a name")

    seen = json.loads(job.wait_for("nodes.json"))
    assert seen["arguments"] == ["run", "--cluster", "--study", "a name"]
    assert sorted(seen["nodes"].values()) == [1.0, 1.0]
    running = [process.cmdline() for process in job.processes()]
    scratch = {word.partition("=")[2] for words in running for word in words if word.startswith("--temp-dir=")}
    starters = [process for process in job.processes() if "--block" in process.cmdline() and "--head" not in process.cmdline()]
    (raylet,) = [child for starter in starters for child in starter.children(recursive=True) if child.name() == "raylet"]
    raylet.kill()

    assert job.end() == 1, job.log
    after = json.loads((job.folder / "after.json").read_text())
    assert len(set(after) & set(seen["nodes"])) == 1, "the head's node stays, the other is a new one"
    assert job.processes() == []
    assert len(scratch) == 2
    assert not any(Path(folder).exists() for folder in scratch)
    assert not (job.folder / "scontrol.log").exists()
    assert job.folder.joinpath("srun.log").read_text().count("--nodelist=node1 ") == 1
    assert re.search(r"Ray on \S+ ended: .*raylet \[exit code=-9\]", job.log)
    assert "AUTH_TOKEN" not in job.log


@pytest.mark.e2e
@pytest.mark.cluster
def test_a_study_runs_on_the_nodes_of_a_job(job: Job) -> None:
    """`ablate run --cluster` finds the job's own Ray, its code reaches both nodes, every trial is trained and stored."""
    project = make_project(job.folder / "project")
    project.set_param("executor: serial", "executor: ray")
    project.ablate("prepare")
    job.stand_in("ablate", f'#!/usr/bin/env bash\ncd project && exec {sys.executable} -m pipeline "$@"\n')
    job.start("--study", "tiny")

    assert job.end(280) == 0, job.log
    assert "4 complete, 0 skipped, 0 diverged, 0 failed, 0 missing" in job.log
    assert {trial["state"] for trial in json.loads(project.ablate("trials", "--json").stdout)} == {"complete"}
    assert job.processes() == []


@pytest.mark.parametrize(
    ("sent", "status", "requeued"), [(signal.SIGUSR1, 0, True), (signal.SIGTERM, 143, False)], ids=["time limit", "cancelled"]
)
def test_near_the_limit_the_driver_ends_cleanly_and_the_job_is_requeued(job: Job, sent: int, status: int, requeued: bool) -> None:
    """The announced time limit requeues the job after a clean end; a cancelled job ends as cleanly and does not come back."""
    job.stand_in("ray", RAY)
    job.stand_in("ablate", PATIENT_DRIVER)
    job.start()
    job.wait_for("started")

    assert job.process is not None
    job.process.send_signal(sent)

    assert job.end(30) == status, job.log
    assert (job.folder / "ended").read_text() == "clean\n"
    log = job.folder / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == (f"requeue {job.port - 20000}\n" if requeued else "")
    assert job.processes() == []


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_exit_status_of_the_driver_is_the_job_s(job: Job, status: int) -> None:
    """Slurm's accounting shows what `ablate` said; nothing is requeued and every start of a job has a token of its own."""
    job.stand_in("ray", RAY)
    job.stand_in("ablate", f'#!/usr/bin/env bash\necho "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $RAY_ADDRESS" > "$FOLDER/seen"\nexit {status}\n')
    job.start(nodes="node0")

    assert job.end(30) == status, job.log
    mode, token, address = (job.folder / "seen").read_text().split()
    assert mode == "token"
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert address == f"127.0.0.1:{job.port}"
    assert token not in job.log
    assert not (job.folder / "srun.log").exists(), "one node needs no srun"
    assert not (job.folder / "scontrol.log").exists()


def test_a_head_that_does_not_start_ends_the_job_with_its_reason(job: Job) -> None:
    """Ray's own words and the port stand in the log, and no driver was started."""
    job.stand_in("ray", "#!/usr/bin/env bash\necho 'cannot start because of the moon'\nexit 1\n")
    job.stand_in("ablate", PATIENT_DRIVER)
    job.start()

    assert job.end(30) == 1
    assert "because of the moon" in job.log
    assert f"Is port {job.port} free on node0?" in job.log
    assert not (job.folder / "started").exists()
    assert job.processes() == []


def test_a_head_that_ends_under_the_driver_is_told_of(job: Job) -> None:
    """Where the driver fails because Ray is gone, the log says so and shows what Ray said last."""
    job.stand_in("ray", "#!/usr/bin/env bash\necho 'Ray runtime started.'\nsleep 1\necho 'killed by the moon'\nexit 1\n")
    job.stand_in("ablate", "#!/usr/bin/env bash\nsleep 2\nexit 2\n")
    job.start(nodes="node0")

    assert job.end(30) == 2
    assert "killed by the moon" in job.log
    assert job.processes() == []


def test_outside_slurm_the_script_says_how_to_submit_it(tmp_path: Path) -> None:
    """Run by hand it starts nothing and exits with 2."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)

    assert done.returncode == 2
    assert "sbatch deploy/slurm.sh" in done.stdout


def test_the_limit_is_announced_early_enough_for_a_clean_end() -> None:
    """The seconds in --signal cover what the driver and Ray are given to end, and scancel's signal is not the one that requeues."""
    text = SCRIPT.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    limits = {name: int(value) for name, value in re.findall(r"^(\w+_LIMIT_S)=(\d+)", text, re.MULTILINE)}

    number, _, seconds = options["signal"].partition("@")
    assert number == "B:USR1"
    assert int(seconds) >= limits["DRIVER_LIMIT_S"] + 2 * limits["STOP_LIMIT_S"]
    assert {"requeue", "no-kill"} <= options.keys()
    assert len(re.findall(r"^#SBATCH", text, re.MULTILINE)) == len(options), "an option that Slurm would not read"
