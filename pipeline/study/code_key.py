"""Code key: a digest over the code that a trial really uses, blind to comments, docstrings and formatting."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError

# What these do cannot change a number: they carry names, errors, configuration (which is hashed itself), records, checkpoints as
# bytes, and pictures of a network whose metrics are known already.
PLUMBING = (
    "pipeline.errors",
    "pipeline.registry",
    "pipeline.store",
    "pipeline.study",
    "pipeline.training.checkpoint",
    "pipeline.training.panel",
)
ENTRY = "pipeline.trial"


def code_key(modules: Iterable[str]) -> str:
    """Digest over the syntax trees of `pipeline.trial`, the given modules, and all project modules that these import.

    Args:
        modules: the modules that define the trial's methods, e.g. 'pipeline.losses.cam'.

    Returns:
        16 hex digits.

    Raises:
        ConfigError: a module has no source file, or one of them is not valid Python.
    """
    with _readable():
        return digest_of(_code_of_trial(modules))[:16]


def code_parts(modules: Iterable[str]) -> dict[str, str]:
    """What the code key of these modules is made of, so that two keys can be compared module by module.

    Returns:
        Module -> the first 12 hex digits of the digest of its syntax tree, sorted by module.

    Raises:
        ConfigError: see `code_key`.
    """
    with _readable():
        return {name: module_digest(name)[:12] for name in sorted(_code_of_trial(modules))}


def _code_of_trial(modules: Iterable[str]) -> set[str]:
    modules = list(modules)
    for name in modules:
        if not _exists(name):
            raise ConfigError(
                f"A method of this trial is defined in {name!r}, which has no source file, so nobody could tell when it changes. "
                "Move it into a file, for example under pipeline/losses/."
            )
    return closure([ENTRY, *modules])


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:  # in a module that is imported only when it is used
        raise ConfigError(f"The code of a trial cannot be read: {error}.") from error


def digest_of(modules: Iterable[str]) -> str:
    """sha256 over the names and the syntax trees of these modules, in any order."""
    return hashlib.sha256("\n".join(f"{name} {module_digest(name)}" for name in sorted(modules)).encode()).hexdigest()


def closure(modules: Iterable[str], skip: tuple[str, ...] = PLUMBING) -> set[str]:
    """The modules and every project module (see `imports`) that they import, directly or not, except those in `skip`."""
    found: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in found or any(name == s or name.startswith(f"{s}.") for s in skip):
            continue
        found.add(name)
        queue.extend(imports(name))
    return found


@functools.cache
def module_digest(name: str) -> str:
    """sha256 of a module's syntax tree without docstrings and positions; of the bytes of a compiled module."""
    path = source_file(name)
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_docstring(statement)] or [ast.Pass()]
    return hashlib.sha256(_dump(tree).encode()).hexdigest()


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Project modules that a module names in its import statements, those under TYPE_CHECKING left out.

    Project modules are those of `pipeline`, those of the importing module's own top-level package, and, for a plugin that is not
    installed, those that lie beside that package.
    """
    path = source_file(name)
    if path.suffix != ".py":
        return frozenset()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    top = name.split(".", 1)[0]
    found: set[str] = set()
    for node in _running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from package import name`: the name may be a module or something defined in the package.
            members = {f"{base}.{alias.name}" for alias in node.names}
            modules = {member for member in members if _is_project(member, top) and _exists(member)}
            found.update(modules if len(modules) == len(members) else modules | {base})
    return frozenset(module for module in found if _is_project(module, top) and _exists(module))


@functools.cache
def source_file(name: str) -> Path:
    """The file of a module; it is not imported, but its parent packages are.

    Raises:
        ModuleNotFoundError: there is none, e.g. for what was typed into an interpreter.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # ValueError for __main__ and modules made by hand; anything, where a parent package fails to import
        raise ModuleNotFoundError(f"no source file for module {name!r}", name=name) from error
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source file for module {name!r}", name=name)
    return Path(spec.origin)


def _is_project(name: str, importer: str) -> bool:
    """Whether a module counts as code of the trial for a module of the top-level package `importer`."""
    top = name.split(".", 1)[0]
    if top in (importer, "pipeline"):
        return True
    home = None if importer == "pipeline" else _home(importer)
    return home is not None and home == _home(top)


@functools.cache
def _home(top: str) -> Path | None:
    """Folder that holds a top-level module or package; None where libraries are installed, and for what has no folder."""
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ModuleNotFoundError):
        return None
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        return None
    folder = Path(next(iter(spec.submodule_search_locations or [str(spec.origin)]))).parent
    return None if any(folder.glob("*.dist-info")) else folder


def _exists(name: str) -> bool:
    try:
        source_file(name)
    except ModuleNotFoundError:
        return False
    return True


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _dump(node: object) -> str:
    """A syntax tree as text, without positions and without empty fields.

    `ast.dump` is not used: its text for the same code differs between versions of Python, and so would the key.
    """
    if isinstance(node, ast.AST):
        fields = [f"{name}={_dump(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    return repr(node)


def _running_nodes(tree: ast.AST) -> Iterable[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from _running_nodes(other)
            continue
        yield node
        yield from _running_nodes(node)
