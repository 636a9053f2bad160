"""The deps of each DVC stage are the modules it really uses: no fewer (stale results), no more (needless runs)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.study.code_key import ENTRY, closure

ROOT = Path(__file__).parents[1]
REGISTRIES = ("data", "models", "losses", "regularizers")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# A plan holds code keys, which are digests of modules that planning itself never imports.
READ_AS_TEXT = {"plan": {ENTRY}}


def modules_of(script: Path) -> set[str]:
    """Modules that a stage script uses, directly or not: those it imports, and every file of a package that registers names."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    found = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline")
    }
    found |= READ_AS_TEXT.get(script.stem, set())
    while True:
        wider = closure(found, skip=())
        for package in REGISTRIES:
            if f"pipeline.{package}" in wider:
                wider |= {
                    f"pipeline.{package}.{file.stem}" for file in (ROOT / "pipeline" / package).glob("*.py") if file.stem != "__init__"
                }
        if wider == found:
            return found
        found = wider


def files_of(modules: set[str]) -> set[Path]:
    files = set()
    for name in modules:
        path = ROOT / name.replace(".", "/")
        files.add(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    return files


def files_in(deps: list[str]) -> dict[str, set[Path]]:
    """Library files behind each dep of a stage."""
    library = [dep for dep in deps if dep.startswith("pipeline/")]
    return {dep: set((ROOT / dep).rglob("*.py")) if (ROOT / dep).is_dir() else {ROOT / dep} for dep in library}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_import_closure(stage: str) -> None:
    """Every module with code that a stage uses is one of its deps, and so is its script."""
    deps = STAGES[stage]["deps"]
    assert f"stages/{stage}.py" in deps
    covered = set().union(*files_in(deps).values())
    used = {file for file in files_of(modules_of(ROOT / f"stages/{stage}.py")) if not _only_docstring(file)}
    assert {str(file.relative_to(ROOT)) for file in used - covered} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_nothing_unused(stage: str) -> None:
    """Every dep of a stage holds at least one module that the stage uses; a file is used itself."""
    used = files_of(modules_of(ROOT / f"stages/{stage}.py"))
    idle = [dep for dep, files in files_in(STAGES[stage]["deps"]).items() if files and not files & used]
    assert idle == []


def test_every_dep_exists_or_is_an_out() -> None:
    """A dep that was renamed away does not linger."""
    outs = {
        out if isinstance(out, str) else next(iter(out)) for s in STAGES.values() for out in [*s.get("outs", []), *s.get("metrics", [])]
    }
    deps = {dep for stage in STAGES.values() for dep in stage["deps"]}
    made = {dep for dep in deps if any(out in (dep, *map(str, Path(dep).parents)) for out in outs)}
    assert [dep for dep in deps - made if not (ROOT / dep).exists()] == []


def _only_docstring(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return (
        all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body) or file == ROOT / "pipeline/__init__.py"
    )
