"""Where MLflow keeps its runs: checking a tracking URI, making it absolute, and never printing the password in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import ConfigError, did_you_mean

DEFAULT_URI = "sqlite:///mlflow.db"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


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
