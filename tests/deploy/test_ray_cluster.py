"""deploy/ray-cluster.yaml, read by the code that `ray up` reads it with."""

from __future__ import annotations

import copy
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "ray-cluster.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(copy.deepcopy(config))
    validate_config(filled)
    return filled


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    """Ray's schema and its own checks pass, and every worker type keeps the bounds that the file gives."""
    filled = prepared(config)

    workers = filled["available_node_types"]["gpu_spot"]
    assert (workers["min_workers"], workers["max_workers"]) == (1, 8)
    assert filled["available_node_types"][filled["head_node_type"]]["max_workers"] == 0
    assert filled["worker_setup_commands"][0] == config["setup_commands"][0], "the lock is installed on workers too"


@pytest.mark.parametrize(
    "broken", [{"idle_timeout": 5}, {"idle_timeout_minutes": "soon"}, {"head_node_type": "nobody"}, {"max_workers": 0}], ids=str
)
def test_ray_refuses_what_a_slip_would_make_of_it(config: dict[str, Any], broken: dict[str, Any]) -> None:
    """The check above can fail: unknown keys, wrong types, unknown node types and contradictory bounds are refused."""
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        prepared({**config, **broken})


def test_versions_are_those_of_the_lock(config: dict[str, Any]) -> None:
    """The image's Ray is the installed one, its Python is one the project supports; lock and image cannot drift apart unseen."""
    image = config["docker"]["image"]
    found = re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+)-py3(\d+)-gpu", image)
    assert found is not None
    assert found[1] == version("ray")
    assert int(found[2]) >= 11
    assert f"ray=={found[1]} " in (ROOT / "requirements.lock").read_text()
    assert f"FROM {image}\n" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"ray[default]=={found[1]}" in FILE.read_text()


def test_no_port_is_open_without_the_token_and_no_secret_stands_in_the_file(config: dict[str, Any]) -> None:
    """Every container runs with token authentication, the token comes from a file, the dashboard listens on loopback."""
    assert any("RAY_AUTH_MODE=token" in option for option in config["docker"]["run_options"])
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in FILE.read_text()
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head


def test_commands_are_shell_and_mounted_files_exist(config: dict[str, Any]) -> None:
    """Each command parses in bash, each mounted path of the project exists, and results, data and caches are not sent to the head."""
    for key, commands in config.items():
        if key.endswith("_commands"):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)
    for local in config["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()
    assert {"store", ".venv", ".git"} <= set(config["rsync_exclude"])
