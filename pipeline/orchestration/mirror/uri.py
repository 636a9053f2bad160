"""Where MLflow keeps its runs: checking a tracking URI, making it absolute, and never printing the password in it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.errors import ConfigError, PipelineError, did_you_mean

DEFAULT_URI = "sqlite:///mlflow.db"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
UI_PORT = 5000  # that `ablate ui` begins with

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_REACH_S = 5.0


def resolve_uri(uri: str) -> str:
    """Tracking URI with an absolute database path, independent of the working directory from here on.

    Raises:
        ConfigError: the scheme is not one of `SCHEMES`, or an sqlite URI names no file.
    """
    scheme, mark, rest = uri.partition("://")
    scheme = scheme.partition("+")[0]
    if not mark or scheme not in SCHEMES:
        what = f"the scheme {scheme!r}" if mark else "no scheme"
        hint = " MLflow no longer keeps runs in plain files." if not mark or scheme == "file" else did_you_mean(scheme, SCHEMES)
        raise ConfigError(
            f"tracking.uri {redact(uri)!r} has {what}; allowed: {', '.join(f'{name}://' for name in SCHEMES)}, or null for no tracking."
            f"{hint} Write for example {DEFAULT_URI!r}."
        )
    if scheme != "sqlite":
        return uri
    path, question, options = rest.removeprefix("/").partition("?")
    if not rest.startswith("/") or path in ("", ":memory:"):
        raise ConfigError(
            f"tracking.uri {uri!r} names no database file; allowed: sqlite:/// (three slashes) and a path. "
            f"Write for example {DEFAULT_URI!r}."
        )
    return f"{uri.partition('://')[0]}:///{(Path.cwd() / path).resolve()}{question}{options}"


def database_path(uri: str) -> Path | None:
    """File of a resolved sqlite URI, else None."""
    return Path(uri.partition(":///")[2].partition("?")[0]) if uri.startswith("sqlite") else None


def check_reachable(uri: str) -> None:
    """Knock at the server of a resolved URI, once: MLflow itself would try for minutes. Of a file only the head is read.

    Raises:
        OSError: nobody answers within seconds.
        PipelineError: the file is no database.
    """
    if path := database_path(uri):
        _check_database(path)
        return
    if uri.startswith("http"):
        import requests

        requests.get(uri.rstrip("/") + "/health", timeout=_REACH_S)  # any answer will do
        return
    scheme, parts = uri.partition("://")[0].partition("+")[0], urlsplit(uri)
    if scheme in _DATABASE_PORTS and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or _DATABASE_PORTS[scheme]), timeout=_REACH_S).close()


def require_reachable(uri: str) -> None:
    """Refuse a resolved URI behind which there is no MLflow, in words for the user.

    Raises:
        PipelineError: nobody answers within seconds, or the file is no database.
    """
    try:
        check_reachable(uri)
    except OSError as error:
        raise PipelineError(
            f"Nothing answers at {redact(uri)}, the tracking.uri of params.yaml. Start the server there (docs/mlflow.md has the command), "
            f"or write for example {DEFAULT_URI!r}."
        ) from error


def _check_database(path: Path) -> None:
    """Refuse a file that is no SQLite database: MLflow would answer with a traceback. One that cannot be opened now is left to MLflow."""
    if not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # locked, or not for us to read
        return
    except sqlite3.DatabaseError as error:
        raise PipelineError(
            f"{path} cannot be read as an SQLite database ({error}). Move it away and run `ablate mlflow rebuild`, which makes it again "
            "from the store, or correct tracking.uri in params.yaml."
        ) from error


def base_url(uri: str) -> str:
    """Address of the UI that shows the runs of `uri`: the server itself, without a password, or where `ablate ui` serves a database."""
    if not uri.startswith("http"):
        return f"http://127.0.0.1:{UI_PORT}"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def run_url(uri: str, experiment_id: str | None, run_id: str) -> str:
    """Address of a run in the UI; without the experiment the UI looks it up."""
    place = f"experiments/{experiment_id}/runs" if experiment_id else "runs"
    return f"{base_url(uri)}/#/{place}/{run_id}"


def redact(text: str, uri: str = "") -> str:
    """`text` without the user name and password of `uri`, nor of any other URI in it."""
    if credentials := re.search(r"://[^:/@\s]*:(\S+)@", uri):
        for secret in {credentials[1], unquote(credentials[1])}:
            text = text.replace(secret, "***")
    text = re.sub(r"://[^@\s]*@", "://***@", text)
    return re.sub(r"((?:password|passwd|pwd|token)=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def prepare_environment() -> None:
    """Settings that MLflow reads from the environment: no telemetry, short waits, a silent stdout."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would land inside --json output
