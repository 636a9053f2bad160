"""The code key, on a small package made for the purpose and on the real one."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.study import code_key as module
from pipeline.study.code_key import PLUMBING, closure, code_key, code_parts, imports, module_digest

FILES = {
    "__init__.py": "",
    "trial.py": """
        "Runs."
        from __future__ import annotations
        from toynet.loop import fit
        import json

        def run():
            return fit()
    """,
    "loop.py": """
        from typing import TYPE_CHECKING
        from . import parts
        from toynet.store import save
        if TYPE_CHECKING:
            from toynet.losses.cam import Cam

        def fit():
            return parts.STEP * 2
    """,
    "parts.py": "STEP = 1",
    "store.py": """
        from toynet.hidden import X

        def save():
            return 1
    """,
    "hidden.py": "X = 1",
    "losses/__init__.py": "names = []",
    "losses/ce.py": """
        from toynet.losses import names

        class CE:
            "Cross-entropy."
            weight: float = 1.0
            "Weight of it."

            def __call__(self, x):
                "Loss."
                return x + 1
    """,
    "losses/cam.py": """
        import typing
        import toynet.seeds
        if typing.TYPE_CHECKING:
            import toynet.hidden
        else:
            import toynet.parts

        class Cam: ...
    """,
    "seeds.py": "A = 1",
}
SKIP = ("toynet.store",)
Key = Callable[[str], str]


@pytest.fixture(name="package")
def package_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the import path, forgotten afterwards."""
    root = tmp_path / "toynet"
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "ENTRY", "toynet.trial")
    monkeypatch.setattr(module.closure, "__defaults__", (SKIP,))
    _forget()
    yield root
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "toynet"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for cached in (module.module_digest, module.imports, module.source_file):
        cached.cache_clear()


def _key(loss: str = "ce") -> str:
    _forget()
    return code_key([f"toynet.losses.{loss}"])


def _edit(package: Path, name: str, old: str, new: str) -> None:
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new))


def test_closure(package: Path) -> None:
    """Imports are followed, absolute and relative, but neither plumbing nor what only type checkers import."""
    used = {"toynet.trial", "toynet.loop", "toynet.parts", "toynet.losses.ce", "toynet.losses"}
    assert closure(["toynet.trial", "toynet.losses.ce"]) == used
    assert closure(["toynet.losses.cam"]) == {"toynet.losses.cam", "toynet.seeds", "toynet.parts"}
    assert imports("toynet.trial") == {"toynet.loop"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("losses/ce.py", '"Loss."', "'''Another docstring,\n        of two lines.'''"),
        ("losses/ce.py", '        "Loss."\n', ""),
        ("losses/ce.py", '"Cross-entropy."', "'CE.'"),
        ("losses/ce.py", '    "Weight of it."\n', ""),
        ("losses/ce.py", "return x + 1", "return x + 1  # a comment"),
        ("losses/ce.py", "return x + 1", "return (\n            x\n            + 1\n        )"),
        ("losses/ce.py", "(self, x):", "(self,x ) :"),
        ("parts.py", "STEP = 1", "\n\n# said in a comment\nSTEP = 0x1"),
        ("trial.py", '"Runs."', '"Runs a trial."'),
        ("store.py", "return 1", "return 2"),
        ("hidden.py", "X = 1", "X = 2"),
        ("losses/cam.py", "class Cam: ...", "class Cam:\n    x = 2"),
        ("seeds.py", "A = 1", "A = 2"),
    ],
)
def test_what_changes_nothing(package: Path, name: str, old: str, new: str) -> None:
    """Comments, docstrings, formatting, plumbing, and code that the trial does not use leave the key as it is."""
    before = _key()
    _edit(package, name, old, new)
    assert _key() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("losses/ce.py", "x + 1", "x - 1"),
        ("losses/ce.py", "x + 1", "x + 1.0"),
        ("losses/ce.py", "weight: float = 1.0", "weight: float = 2.0"),
        ("parts.py", "STEP = 1", "STEP = None"),
        ("loop.py", "STEP * 2", "STEP * 3"),
        ("trial.py", "return fit()", "fit()"),
        ("losses/__init__.py", "names = []", "names = ['ce']"),
        ("losses/ce.py", "from toynet.losses import names", "from toynet.losses import names\nfrom toynet import seeds"),
    ],
)
def test_what_changes_the_key(package: Path, name: str, old: str, new: str) -> None:
    """An edit of anything that the trial executes is another key."""
    before = _key()
    _edit(package, name, old, new)
    assert _key() != before


def test_an_edit_reaches_only_the_trials_that_use_it(package: Path) -> None:
    """Editing a loss changes the key of its trials and of no others."""
    before = {loss: _key(loss) for loss in ("ce", "cam")}
    _edit(package, "losses/cam.py", "class Cam: ...", "class Cam:\n    x = 2")
    assert _key("ce") == before["ce"]
    assert _key("cam") != before["cam"]


def test_a_new_module_counts_once_it_is_imported(package: Path) -> None:
    """A file beside the others counts for nothing until one of them imports it."""
    before = _key()
    (package / "losses" / "extra.py").write_text("Y = 1\n")
    assert _key() == before
    _edit(package, "losses/ce.py", "from toynet.losses import names", "from toynet.losses import names, extra")
    assert _key() != before


def test_parts_name_the_modules_that_changed(package: Path) -> None:
    """The parts are the modules of the key, sorted; they differ in a module that was edited, in one that came, and nowhere else."""
    before = code_parts(["toynet.losses.ce"])
    assert list(before) == ["toynet.loop", "toynet.losses", "toynet.losses.ce", "toynet.parts", "toynet.trial"]
    assert {len(digest) for digest in before.values()} == {12}
    _edit(package, "loop.py", "STEP * 2", "STEP * 3")
    _edit(package, "parts.py", "STEP = 1", "STEP = 0x1  # the same")
    _edit(package, "losses/ce.py", "from toynet.losses import names", "from toynet.losses import names\nfrom toynet import seeds")
    _forget()
    after = code_parts(["toynet.losses.ce"])
    assert {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)} == {
        "toynet.loop",
        "toynet.losses.ce",
        "toynet.seeds",
    }


@pytest.mark.parametrize("name", ["toynet.absent", "toynet.broken"])
def test_parts_of_code_that_cannot_be_read(package: Path, name: str) -> None:
    """The same message as for the key: no file, or no valid Python."""
    (package / "broken.py").write_text("def f(:")
    _forget()
    messages = set()
    for function in (code_key, code_parts):
        with pytest.raises(ConfigError, match=r"has no source file|cannot be read") as caught:
            function([name])
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_the_key_is_the_same_in_every_version_of_python(package: Path) -> None:
    """The text that is hashed names no empty fields, which versions of Python differ in; this digest was computed once."""
    (package / "parts.py").write_text("def f(a, *, b=None):\n    'Doc.'\n    return [a, b'x', 1j, ...]\n")
    _forget()
    assert module_digest("toynet.parts") == "639a2acf2e9e72e79be50e312450a3534e741e2e22ed01aa072f15b2735be81d"


@pytest.mark.parametrize("name", ["__main__", "toynet.absent", "nobody_has_this"])
def test_a_method_without_a_file(package: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A method from an interpreter or a notebook has no file whose change could be seen, and that is said."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    _forget()
    with pytest.raises(ConfigError, match=f"defined in '{name}', which has no source file.*Move it into a file"):
        code_key([name])


def test_the_real_package() -> None:
    """A plain trial depends on loop, seeds and its own methods, on no other method, no plumbing, and nothing above `trial`."""
    used = closure([module.ENTRY, "pipeline.losses.ce", "pipeline.models.cifar_resnet"])
    assert {"pipeline.trial", "pipeline.training.loop", "pipeline.losses.ce", "pipeline.seeds", "pipeline.models.backbone"} <= used
    assert not {"pipeline.regularizers.cutmix", "pipeline.models.wrn", "pipeline.data.parquet"} & used
    assert not [
        name for name in used for s in (*PLUMBING, "pipeline.orchestration", "pipeline.analysis", "pipeline.cli") if name.startswith(s)
    ]
    assert len(code_key(["pipeline.losses.ce"])) == 16
    assert code_key(["pipeline.losses.ce"]) != code_key(["pipeline.losses.ce", "pipeline.regularizers.cutmix"])
