"""Names for methods: one file registers one name (or one family of names), nothing else has to know."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.errors import UnknownNameError

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered method.

    Attributes:
        name: the word used in a study file.
        label: the words used in a table.
        factory: what builds it; its keyword parameters are its options.
        options: option name -> (annotation, default); a required option has the default `inspect.Parameter.empty`.
    """

    name: str
    label: str
    factory: T
    options: dict[str, tuple[Any, Any]]

    @property
    def module(self) -> str:
        """Module that defines the method: the start of its part of the code key."""
        return self.factory.__module__


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

    def register(self, name: str, *, label: str | None = None) -> Callable[[T], T]:
        """Decorator: give `factory` the name `name`. Its keyword parameters become its options.

        Raises:
            ValueError: the name is taken by another factory.
        """

        def decorate(factory: T) -> T:
            taken = self._entries.get(name)
            if taken is not None and taken.factory is not factory:
                raise ValueError(f"{self.kind} {name!r} is registered twice: in {taken.module} and in {factory.__module__}")
            self._entries[name] = Entry(name, label or name, factory, _options(factory, self.reserved))
            return factory

        return decorate

    def get(self, name: str, *, where: str = "") -> Entry[T]:
        """The entry called `name`.

        Raises:
            UnknownNameError: nobody registered it.
        """
        self._discover()
        if not isinstance(name, str) or name not in self._entries:
            file = f"{self.package.replace('.', '/')}/"
            raise UnknownNameError(self.kind, name, self._entries, where=where, next_step=f"Add a file under {file} to register one.")
        return self._entries[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return isinstance(name, str) and name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


def _options(factory: Callable[..., Any], reserved: frozenset[str]) -> dict[str, tuple[Any, Any]]:
    options = {}
    for parameter in inspect.signature(factory, eval_str=True).parameters.values():
        if parameter.name in reserved or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        options[parameter.name] = (parameter.annotation, parameter.default)
    return options
