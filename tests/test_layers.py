"""Who may import whom: the layers of the library, read off the syntax trees, lazy imports included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"
LAYERS = {
    "errors": 0, "registry": 0, "seeds": 0, "batch": 0, "stage": 0, "metric_names": 0, "maps": 1, "stateful": 1,
    "study": 1, "store": 1,
    "data": 2, "models": 2, "losses": 2, "regularizers": 2,
    "training": 3, "tasks": 3,
    "trial": 4,
    "orchestration": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
SIDEWAYS = {("tasks", "training"), ("stage", "errors"), ("registry", "errors"), ("__main__", "cli")}
ANALYSIS_MAY = {"errors", "registry", "metric_names", "study", "store", "analysis"}
NEVER_BELOW_5 = {"ray", "mlflow", "optuna", "dvc"}
NEVER_IN_ANALYSIS = {"torch", "torchvision", "ray", "mlflow", "optuna", "dvc"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def top(module: Path) -> str:
    """The part of the library a file belongs to: 'losses' for pipeline/losses/cam.py."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Dotted names of all modules a file imports anywhere, also by importlib.import_module and __import__ with a literal name."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                hidden.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively; write the full name"
            assert node.module is not None
            # `from pipeline import losses` names a module, `from pipeline.seeds import derive` names what lies in one.
            yield from (f"pipeline.{alias.name}" for alias in node.names) if node.module == "pipeline" else (node.module,)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            literal = node.args[0] if node.args else None
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                yield literal.value


def allowed(importer: str, target: str) -> bool:
    """Whether part `importer` may import part `target`."""
    if importer == target:
        return True
    if importer == "analysis":
        return target in ANALYSIS_MAY
    if target == "analysis":
        return LAYERS[importer] >= 5
    return LAYERS[target] < LAYERS[importer] or (importer, target) in SIDEWAYS


def test_every_part_has_a_layer() -> None:
    """A new file or folder of the library is given a layer here, and no layer is left over."""
    parts = {top(module) for module in MODULES} - {"__init__", "analysis"}
    assert parts == set(LAYERS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(module: Path) -> None:
    """A file imports only from lower layers; data, models, losses and regularizers never import each other."""
    importer = top(module)
    own = {name for name in imported(module) if name.split(".")[0] == "pipeline"}
    parts = {name.split(".")[1] for name in own if "." in name and name != "pipeline.__version__"}
    if importer == "__init__":
        assert not parts, "importing the package must import nothing"
        return
    wrong = sorted(part for part in parts if not allowed(importer, part))
    assert not wrong, f"{module.relative_to(PACKAGE.parent)} must not import pipeline.{', pipeline.'.join(wrong)}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_stay_in_their_layer(module: Path) -> None:
    """Layer 0 is standard library only; below layer 5 nobody imports ray, mlflow, optuna or dvc, not even lazily; analysis no torch."""
    part = top(module)
    outside = {name.split(".")[0] for name in imported(module)} - {"pipeline"}
    if part == "analysis":
        assert not outside & NEVER_IN_ANALYSIS
    elif part == "__init__" or LAYERS[part] < 5:
        assert not outside & NEVER_BELOW_5
    if part == "__init__" or LAYERS.get(part) == 0:
        at_run_time = {name.split(".")[0] for name in imported(module, typing_too=False)} - {"pipeline"}
        assert at_run_time <= set(sys.stdlib_module_names)


def test_the_reader_of_imports_sees_all_forms(tmp_path: Path) -> None:
    """Plain, from, lazy, by name and under TYPE_CHECKING: each form is seen, the last one only when asked for."""
    file = tmp_path / "example.py"
    file.write_text(
        "import ray.tune\nfrom pipeline import losses\nfrom pipeline.seeds import derive\n"
        "if TYPE_CHECKING:\n    from torch import Tensor\n"
        "def late():\n    from mlflow import log_metric\n    importlib.import_module('optuna.samplers')\n"
    )
    run_time = {"ray.tune", "pipeline.losses", "pipeline.seeds", "mlflow", "optuna.samplers"}
    assert set(imported(file, typing_too=False)) == run_time
    assert set(imported(file)) == run_time | {"torch"}
    assert not allowed("losses", "models")
    assert not allowed("training", "tasks")
    assert not allowed("data", "orchestration")
