"""Methods from outside this package: modules that a study file names, imported so that they register their names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, PipelineError, did_you_mean
from pipeline.registry import Entry, entries, taken_back_on_error
from pipeline.study.code_key import closure
from pipeline.study.place import Path_, dotted

FOLDER = Path("plugins")


def plugin_folders() -> tuple[str, ...]:
    """Where the project keeps plugins that are not installed: `plugins/` and the root itself, absolute, for workers elsewhere."""
    return (str(FOLDER.absolute()), str(Path.cwd()))


def import_plugins(names: Sequence[str], folders: Sequence[str] = (), locate: Callable[[Path_], str] = dotted) -> None:
    """Import the modules, in this order; what is imported already is not imported again.

    A package is imported as `import` does it: its `__init__.py`, and no other of its modules.

    Args:
        names: dotted names of modules.
        folders: looked into after all that Python looks into by itself.
        locate: turns ('plugins', index) into words for the user.

    Raises:
        ConfigError: no such module, it raises while it is imported, it takes a registered name, or it registers nothing.
    """
    if not names:
        return
    sys.path.extend(folder for folder in folders if folder not in sys.path)  # last, so that no file there can hide a library
    importlib.invalidate_caches()
    for index, name in enumerate(names):
        _import(name, locate(("plugins", index)), folders)
    for index, name in enumerate(names):
        if not methods_of(name):
            raise ConfigError(f"{locate(('plugins', index))}: {_registers_nothing(name)}")


def methods_of(name: str) -> list[tuple[str, Entry[Any]]]:
    """(kind, entry) of what an imported plugin, the modules below it, and the modules of yours that it imports have registered."""
    modules = {module for module in closure([name]) if module.partition(".")[0] != "pipeline"} if _has_source(name) else set()
    return [(kind, entry) for kind, entry in entries() if entry.module in {name, *modules} or entry.module.startswith(f"{name}.")]


def _import(name: str, place: str, folders: Sequence[str]) -> None:
    try:
        with taken_back_on_error(), redirect_stdout(sys.stderr):  # what `--json` prints is for programs
            importlib.import_module(name)
    except PipelineError as error:
        raise ConfigError(f"{place}: plugin {name!r}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{place}: {_missing(name, error.name, folders)}") from error
        line = traceback.format_exception_only(error)[-1].strip()
        raise ConfigError(f"{place}: plugin {name!r} cannot be imported: {line}, raised in {_raised_in(error, name)}.") from error


def _missing(name: str, missing: str, folders: Sequence[str]) -> str:
    """What is not there, what is there instead, and what to do."""
    parent = missing.rpartition(".")[0]
    if parent:
        paths = list(getattr(sys.modules.get(parent), "__path__", ()))
    else:
        paths = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    prefix = f"{parent}." if parent else ""
    there = sorted({f"{prefix}{module.name}" for module in pkgutil.iter_modules(paths)})
    near = did_you_mean(missing, there).strip()
    if parent and not paths:
        return f"no module {missing!r}. {parent!r} is a single file and has no modules."
    if parent:
        return " ".join(filter(None, (f"no module {missing!r}.", near, f"There is: {', '.join(there) or 'nothing'}.")))
    looked = f"Looked in {' and '.join(folders)} and where Python looks." if folders else ""
    step = (
        f"Install its package into this environment (`pip install -e FOLDER`), put it into {FOLDER}/ of the project, "
        "or put the folder that holds it on PYTHONPATH."
    )
    return " ".join(filter(None, (f"no module {missing!r} for the plugin {name!r}.", near, looked, step)))


def _registers_nothing(name: str) -> str:
    paths = getattr(sys.modules[name], "__path__", None)
    if paths is None:
        return f"plugin {name!r} ({sys.modules[name].__file__}) registers no method. Does it use @register(...)?"
    modules = [f"{name}.{module.name}" for module in pkgutil.iter_modules(paths)]
    return (
        f"plugin {name!r} is a package whose __init__.py registers no method, and of a package nothing else is imported. "
        f"Name its modules: {', '.join(modules) or 'there are none'}."
    )


def _raised_in(error: BaseException, name: str) -> str:
    """'file.py:12': the deepest place in the plugin's own package, else the deepest there is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    spec = importlib.util.find_spec(name.partition(".")[0])
    roots = tuple((spec.submodule_search_locations or [str(spec.origin)]) if spec else ())
    frame = ([frame for frame in frames if frame.filename.startswith(roots)] or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _has_source(name: str) -> bool:
    return getattr(sys.modules[name], "__file__", None) is not None
