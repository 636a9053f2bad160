"""Files of a store, at a path or an object-store URL: whole or not there, whatever happens to the writer."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.holder import is_dead, machine

# .<name>.<machine>-<pid>-<random>.tmp; files of earlier versions have no machine
TEMPORARY = re.compile(r"\.(?P<name>.+)\.((?P<machine>[0-9a-f]{8})-)?(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


class StoreFiles:
    """Files under one root, named by their path from there.

    A local file is written under a temporary name and renamed; object stores put whole files.

    Args:
        url: a folder, or a URL that fsspec understands (`s3://bucket/store`, `memory://store`).

    Raises:
        StoreError: nothing understands the URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"The store URL {self.url!r} is not usable: {error}. Set `store.url` to a folder or a URL such as s3://bucket/store."
            ) from error
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, name: str) -> str:
        """Where a file lies, as its filesystem names it."""
        return f"{self.root}/{name}"

    def write(self, name: str, payload: bytes, *, durable: bool = True) -> None:
        """Put a whole file in place of what may stand there; `durable`: it survives a loss of power.

        Raises:
            StoreError: it cannot be written; what stood there still does.
        """
        with self._writing():
            if not self.is_local:
                self.fs.pipe_file(self.path(name), payload)
                return
            with self._temporary(name, payload, durable=durable) as temporary:
                temporary.replace(self.path(name))

    def create(self, name: str, payload: bytes) -> bool:
        """Put a whole file unless there is one: of several that try at once, one succeeds.

        A local filesystem without hard links shows the file for a moment without its content. An object store that knows no exclusive
        creation (or whose fsspec driver does not) gets the file overwritten and read back: two that write within the same moment may
        then both succeed.

        Raises:
            StoreError: it cannot be written.
        """
        with self._writing():
            if not self.is_local:
                return self._create_remote(self.path(name), payload)
            with self._temporary(name, payload, durable=False) as temporary:
                try:
                    os.link(temporary, self.path(name))
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    return _create_in_place(Path(self.path(name)), payload)
                return True

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        try:
            if self.is_local:
                return Path(self.path(name)).read_bytes()
            return bytes(self.fs.cat_file(self.path(name)))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path(name)} cannot be read: {error}. Mend the place or set `store.url` in params.yaml.") from error

    def open_arrow(self, name: str) -> pa.NativeFile:
        """A file as Arrow reads it: locally only the parts that are wanted.

        Never through a Python file: Arrow's readers would call back into Python from threads that may outlive the interpreter, which
        then aborts at exit.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        return pa.OSFile(self.path(name)) if self.is_local else pa.BufferReader(self.fs.cat_file(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder; none where it does not exist.

        Raises:
            StoreError: it cannot be listed.
        """
        return [_last(path) for path in self._list(folder, detail=False)]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, see `names`."""
        return [_last(entry["name"]) for entry in self._list(folder, detail=True) if entry["type"] == "directory"]

    def bytes_of(self, name: str) -> int:
        """Size of a file; 0 where there is none."""
        with contextlib.suppress(OSError):
            return int(self.fs.size(self.path(name)) or 0)
        return 0

    def age_s(self, name: str) -> float | None:
        """Seconds since a file was written, by this machine's clock; None where the filesystem does not tell."""
        with contextlib.suppress(OSError, NotImplementedError, AttributeError):
            return time.time() - float(self.fs.modified(self.path(name)).timestamp())
        return None

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(name)))

    def remove(self, name: str) -> None:
        """Take a file away; nothing happens where there is none.

        Raises:
            StoreError: it cannot be removed.
        """
        with self._removing():
            self.fs.rm_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Take a folder and all in it away; nothing happens where there is none.

        Raises:
            StoreError: it cannot be removed.
        """
        with self._removing():
            self.fs.rm(self.path(name), recursive=True)

    def move(self, name: str, target: str) -> None:
        """Give a file another name, byte for byte; nothing happens where there is none.

        Raises:
            StoreError: it cannot be moved.
        """
        with self._writing(), contextlib.suppress(FileNotFoundError):
            self.fs.makedirs(self.path(target).rsplit("/", 1)[0], exist_ok=True)
            if self.is_local:
                os.rename(self.path(name), self.path(target))  # noqa: PTH104 - fsspec would copy and delete
            else:
                self.fs.mv(self.path(name), self.path(target))

    def is_abandoned(self, name: str, after_s: float) -> bool:
        """Whether a temporary file belongs to a process of this machine that is gone, or is older than `after_s`."""
        match = TEMPORARY.fullmatch(name.rsplit("/", 1)[-1])
        if match and match["machine"] and is_dead(match["machine"], int(match["pid"])):
            return True
        age = self.age_s(name)
        return age is not None and age > after_s

    @contextlib.contextmanager
    def _temporary(self, name: str, payload: bytes, *, durable: bool) -> Iterator[Path]:
        """A file of another name beside `name` with the payload; gone in the end unless it was renamed."""
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(payload)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _create_remote(self, path: str, payload: bytes) -> bool:
        try:
            self.fs.pipe_file(path, payload, mode="create")
        except FileExistsError:
            return False
        except (TypeError, ValueError, NotImplementedError):  # the driver knows no exclusive creation
            self.fs.invalidate_cache()
            if self.fs.exists(path):
                return False
            self.fs.pipe_file(path, payload)
        return bytes(self.fs.cat_file(path)) == payload

    def _list(self, folder: str, *, detail: bool) -> list[Any]:
        try:
            self.fs.invalidate_cache()
            entries = list(self.fs.ls(self.path(folder), detail=detail))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unlistable(str(error)) from error
        if [entry["name"] if detail else entry for entry in entries] == [self.path(folder)]:  # a filesystem lists a file as itself
            raise self._unlistable(f"{folder} is a file")
        return entries

    def _unlistable(self, why: str) -> StoreError:
        return StoreError(f"The store {self.url} cannot be listed: {why}. Mend the place or set `store.url` in params.yaml.")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as error:  # NotImplementedError: a filesystem that can only be read, such as http
            raise StoreError(
                f"The store {self.url} cannot be written: {str(error) or type(error).__name__}. "
                "Nothing stored before is lost; mend the place or set `store.url` in params.yaml."
            ) from error

    @contextlib.contextmanager
    def _removing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"A file of the store {self.url} cannot be removed: {error}. Nothing stored is lost; mend the place."
            ) from error


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _create_in_place(path: Path, payload: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(payload)
    except FileExistsError:
        return False
    return True
