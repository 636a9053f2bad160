"""Names for methods: one file registers one name (or one family of names), nothing else has to know."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.errors import ConfigError, UnknownNameError

T = TypeVar("T", bound=Callable[..., Any])
_registries: weakref.WeakSet[Registry[Any]] = weakref.WeakSet()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered method.

    Attributes:
        name: the word used in a study file.
        label: the words used in a table.
        factory: what builds it; its keyword parameters are its options.
        options: option name -> (annotation, default); a required option has the default `inspect.Parameter.empty`.
        module: module that registered the method: the start of its part of the code key.
    """

    name: str
    label: str
    factory: T
    options: dict[str, tuple[Any, Any]]
    module: str

    @property
    def place(self) -> str:
        """The module and its file, for messages."""
        file = getattr(sys.modules.get(self.module), "__file__", None)
        return f"{self.module} ({file})" if file else self.module


class Registry(Generic[T]):
    """Names of one kind of method.

    Args:
        kind: the word for error messages, e.g. 'backbone'.
        package: package whose modules register the names; imported at the first look-up.
        reserved: parameters of a factory that the pipeline fills in and a study file may not.
    """

    def __init__(self, kind: str, package: str, reserved: Iterable[str] = ()) -> None:
        self.kind, self.package, self.reserved = kind, package, frozenset(reserved)
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False
        _registries.add(self)

    def register(self, name: str, *, label: str | None = None) -> Callable[[T], T]:
        """Decorator: give `factory` the name `name`. Its keyword parameters become its options.

        Raises:
            ConfigError: the name is taken by another factory.
        """

        def decorate(factory: T) -> T:
            # Where it is registered, not where it was written: that may be a library, or functools for a partial function.
            module = sys._getframe(1).f_globals.get("__name__", factory.__module__)
            if not self._is_own(module):
                self._discover()  # so that a plugin that takes one of our names is told so, and not we
            entry = Entry(name, label or name, factory, _options(factory, self.reserved), module)
            taken = self._entries.get(name)
            if taken is not None and taken.factory is not factory:
                raise ConfigError(f"{self.kind} {name!r} is registered twice: in {taken.place} and in {entry.place}. Rename one.")
            self._entries[name] = entry
            return factory

        return decorate

    def get(self, name: str, *, where: str = "") -> Entry[T]:
        """The entry called `name`.

        Raises:
            UnknownNameError: nobody registered it.
        """
        self._discover()
        if not isinstance(name, str) or name not in self._entries:
            step = f"Add a file under {self.package.replace('.', '/')}/ to register one, or name its module under `plugins`."
            raise UnknownNameError(self.kind, name, self._entries, where=where, next_step=step)
        return self._entries[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return isinstance(name, str) and name in self._entries

    def _is_own(self, module: str) -> bool:
        return module == self.package or module.startswith(f"{self.package}.")

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


@contextmanager
def needed_by(method: str) -> Iterator[None]:
    """Around the import of a library inside a factory: a missing one becomes a message for the user.

    Args:
        method: kind and name, e.g. "loss 'supcon'".

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "a library").partition(".")[0].replace("_", "-")
        raise ConfigError(f"{method} needs {library}, which is not installed here; install it with: pip install {library}") from error


def entries() -> list[tuple[str, Entry[Any]]]:
    """(kind, entry) of all that is registered so far, of every kind; imports nothing."""
    return [(registry.kind, entry) for registry in _registries for entry in registry._entries.values()]


@contextmanager
def taken_back_on_error() -> Iterator[None]:
    """What foreign modules register inside is forgotten when it raises, so that a mended module can be imported again."""
    before = {(kind, entry.name) for kind, entry in entries()}
    try:
        yield
    except BaseException:
        for registry in _registries:
            for entry in list(registry._entries.values()):
                if (registry.kind, entry.name) not in before and not registry._is_own(entry.module):
                    del registry._entries[entry.name]
        raise


def _options(factory: Callable[..., Any], reserved: frozenset[str]) -> dict[str, tuple[Any, Any]]:
    # The signature of a dataclass shows a marker where a field makes its default, as a list must.
    made = {field.name: field.default_factory for field in dataclasses.fields(factory)} if dataclasses.is_dataclass(factory) else {}
    options = {}
    for parameter in inspect.signature(factory, eval_str=True).parameters.values():
        if parameter.name in reserved or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        make = made.get(parameter.name, dataclasses.MISSING)
        options[parameter.name] = (parameter.annotation, parameter.default if make is dataclasses.MISSING else make())
    return options
