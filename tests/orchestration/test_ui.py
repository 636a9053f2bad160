"""The MLflow UI command: errors before anything starts, and one real server."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ConfigError, PipelineError
from pipeline.orchestration.mirror import ui
from pipeline.orchestration.mirror.tracker import Tracker, TrialView
from pipeline.orchestration.mirror.uri import require_reachable

SCRIPT = """
import signal, sys
from pipeline.orchestration.mirror.ui import serve_ui
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
serve_ui(sys.argv[1], port=int(sys.argv[2]), log=lambda line: print(line, flush=True))
print("returned", flush=True)
"""


def test_missing_database_says_to_run_a_study_first(tmp_path: Path) -> None:
    """Nothing is started, and no empty database is left behind."""
    with pytest.raises(PipelineError, match="Run a study first"):
        ui.serve_ui(f"sqlite:///{tmp_path}/mlflow.db", log=print)
    assert list(tmp_path.iterdir()) == []


def test_wrong_scheme_is_refused() -> None:
    """The same rule as for the tracker holds."""
    with pytest.raises(ConfigError, match="allowed: sqlite"):
        ui.serve_ui("file:///tmp/mlruns", log=print)


def test_remote_server_is_named_without_its_password() -> None:
    """There is nothing to serve when the runs are on a server, whatever it answers."""
    lines: list[str] = []
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        ui.serve_ui(f"http://me:secret@127.0.0.1:{server.server_port}", log=lines.append)
        answering.join()
    assert lines == [f"tracking.uri is a server: open http://***@127.0.0.1:{server.server_port}"]


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_server_that_is_away_is_not_offered(scheme: str) -> None:
    """Nobody is sent to an address where nothing answers."""
    with socket.socket() as unheard:  # bound, but it does not listen
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}/runs"
        with pytest.raises(PipelineError, match=rf"Nothing answers at {scheme}://\*\*\*@{address}, the tracking\.uri") as caught:
            ui.serve_ui(f"{scheme}://me:secret@{address}", log=pytest.fail)
    assert "secret" not in str(caught.value)


def test_file_that_is_no_database_is_named_in_one_line(tmp_path: Path) -> None:
    """No server is started to die of it; an empty file, and one that another process holds, are left to MLflow."""
    path = tmp_path / "mlflow.db"
    for content in (b"these are notes, not runs", b"SQLite format 3\0" + bytes(range(256)) * 20):
        path.write_bytes(content)
        with pytest.raises(
            PipelineError, match=r"mlflow\.db cannot be read as an SQLite database \([^\n]+\)\. Move it away and run"
        ) as caught:
            ui.serve_ui(f"sqlite:///{path}", log=pytest.fail)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == content
    path.write_bytes(b"")
    require_reachable(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE held (x)")
        database.execute("BEGIN EXCLUSIVE")
        require_reachable(f"sqlite:///{path}")


def test_taken_port_gives_the_next_free_one() -> None:
    """A second UI does not fail on the port of the first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < ui._free_port("127.0.0.1", port) < port + 50


def test_no_port_on_a_foreign_address_is_an_error() -> None:
    """An address that this machine does not have is the user's error, in words."""
    with pytest.raises(PipelineError, match=r"No free port on 192\.0\.2\.77"):
        ui._free_port("192.0.2.77", 5000)


def test_server_that_does_not_come_up_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user reads the last lines of the server, without the password, instead of waiting."""
    (tmp_path / "mlflow.db").touch()
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho cannot open postgresql://me:secret@host/db; echo args: $@; exit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(PipelineError) as caught:
        ui.serve_ui(f"sqlite:///{tmp_path}/mlflow.db", port=5600, log=print)
    message = str(caught.value)
    assert "did not start (exit status 3)" in message
    assert "cannot open postgresql://***@host/db" in message
    assert "--host 127.0.0.1" in message
    assert "--workers 1" in message
    assert "mlflow.db" not in message.partition("args:")[2]  # the address travels in the environment


def test_sigterm_acts_like_ctrl_c_while_serving_only() -> None:
    """A terminated command cleans up its server, and the handler before it is put back."""
    before = signal.getsignal(signal.SIGTERM)

    def terminated() -> None:
        with ui._terminated_like_ctrl_c():
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert signal.getsignal(signal.SIGTERM) is before


def test_ui_serves_the_runs_and_stops_without_leaving_a_process(tmp_path: Path) -> None:
    """The server answers, shows the run, and Ctrl-C ends it with all its children."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Tracker(uri, "quick", log=print) as tracker:
        tracker.sync([(TrialView("id1", "resnet8 · cam · seed 1", ("t",), {}, {}), {"state": "complete", "metric_x": 0.5}, [])])
        (run_id,) = tracker.run_ids().values()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        served = subprocess.Popen([sys.executable, "-c", SCRIPT, uri, str(busy)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert served.stdout is not None
        try:
            lines = []
            while not lines or "Ctrl-C" not in lines[-1]:
                lines.append(served.stdout.readline().strip())
                assert lines[-1], lines
            assert lines[0].startswith(f"Port {busy} is taken; using ")
            base = lines[-1].split()[3]
            assert any(line.startswith(f"Experiment 'quick': {base}/#/experiments/") for line in lines)
            assert [line.partition(":")[0] for line in lines if "viewStateShareKey=" in line] == ["Trials", "Cells", "Tables"]
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{base}/health", timeout=30) as answer:
                assert answer.status == 200
            with opener.open(f"{base}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=30) as answer:
                assert json.load(answer)["run"]["info"]["run_name"] == "resnet8 · cam · seed 1"
            children = psutil.Process(served.pid).children(recursive=True)
            assert children
            os.kill(served.pid, signal.SIGINT)
            assert served.stdout.read() == "MLflow UI stopped.\nreturned\n"
            assert served.wait(30) == 0
            until = time.monotonic() + 10
            while (left := [child for child in children if child.is_running()]) and time.monotonic() < until:
                time.sleep(0.1)
            assert left == []
        finally:
            served.terminate()
            served.wait(30)
            served.stdout.close()
