"""Modules named by a study file: where they are found, and what is said of those that are wrong."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import losses
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.registry import entries
from pipeline.study import code_key as code
from pipeline.study.code_key import closure
from pipeline.study.config import StudyFile
from pipeline.study.plugins import import_plugins, methods_of, plugin_folders
from pipeline.study.spec import TrialSpec
from pipeline.study.validate import fill_options

GOOD = """
    from pipeline.losses import register

    @register("toy_good")
    def good(*, sharpness: float = 1.0):
        "A toy."
        return lambda inputs: inputs.logits_BK.sum()
"""
STUDY = """\
study: mine
plugins: [{names}]
defaults: {{dataset: cluttered_digits, backbone: resnet8}}
tables:
  t: {{rows: {{backbone: [resnet8]}}, columns: {{epochs: [1]}}}}
"""
Write = Callable[..., None]
Load = Callable[..., StudyFile]


@pytest.fixture(name="project")
def project_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of a project, entered; what was imported and registered from below it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    losses.registry.names()
    known, modules = dict(losses.registry._entries), set(sys.modules)
    yield tmp_path
    losses.registry._entries = known
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or getattr(sys.modules[name], "__path__", "")):
            del sys.modules[name]
    for cached in (code.module_digest, code.imports, code.source_file, code._home):
        cached.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture(name="write")
def write_fixture(project: Path) -> Write:
    """Write files below the root: keyword `a__b` is a/b.py, and `a__init` is a/__init__.py."""

    def write(folder: str = "plugins", **files: str) -> None:
        for name, text in files.items():
            path = project / folder / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    return write


@pytest.fixture(name="load")
def load_fixture(project: Path) -> Load:
    """Read a study file with these plugins."""

    def load(*names: str) -> StudyFile:
        path = project / "mine.yaml"
        path.write_text(STUDY.format(names=", ".join(names)), encoding="utf-8")
        return StudyFile(path)

    return load


def refused(load: Load, *names: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*names)
    text = str(caught.value)
    assert "mine.yaml:2: plugins" in text
    return text


@pytest.mark.parametrize("folder", ["plugins", ".", "elsewhere"])
def test_places(folder: str, project: Path, write: Write, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is found in plugins/, in the root, and wherever Python looks; its name is known once the file is read."""
    monkeypatch.syspath_prepend(str(project / "elsewhere"))
    write(folder, toy_package__good=GOOD)
    load("toy_package.good")
    entry = losses.registry.get("toy_good")
    assert (entry.module, entry.options) == ("toy_package.good", {"sharpness": (float, 1.0)})
    assert [found for _, found in methods_of("toy_package.good")] == [entry]
    load("toy_package.good")


def test_no_plugins_touch_nothing(load: Load) -> None:
    """Without plugins the path of Python stays as it is."""
    before = list(sys.path)
    load()
    assert sys.path == before


def test_installed_modules_win(project: Path, write: Write, load: Load) -> None:
    """A file in plugins/ never hides a module that Python finds by itself."""
    write(colorsys="raise RuntimeError('hidden')")
    sys.modules.pop("colorsys", None)
    assert "registers no method" in refused(load, "colorsys")
    assert sys.path[-2:] == [str(project / "plugins"), str(project)]


def test_a_package_is_its_init(write: Write, load: Load) -> None:
    """A package name imports __init__.py alone, and the message names the modules; one that imports its modules is enough."""
    write(toy_package__init="", toy_package__good=GOOD)
    text = refused(load, "toy_package")
    assert text.endswith("Name its modules: toy_package.good.")
    assert "toy_good" not in losses.names()
    load("toy_package", "toy_package.good")
    write(toy_whole__init="from toy_whole import inner", toy_whole__inner=GOOD.replace("toy_good", "toy_inner"))
    load("toy_whole")
    assert "toy_inner" in losses.names()


def test_missing_modules(write: Write, load: Load, project: Path) -> None:
    """A missing package names a near one, the places and the remedy; a missing module of a package names those that are there."""
    write(toy_package__good=GOOD, toy_single=GOOD)
    text = refused(load, "toy_pakage.good")
    assert "plugins[0]: no module 'toy_pakage' for the plugin 'toy_pakage.good'. Did you mean" in text
    assert f"Looked in {project / 'plugins'} and {project} and where Python looks." in text
    assert "pip install -e" in text
    assert "no module 'toy_package.god'. Did you mean 'toy_package.good'? There is: toy_package.good." in refused(load, "toy_package.god")
    assert "'toy_single' is a single file and has no modules" in refused(load, "toy_single.good")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nundefined\n", "NameError: name 'undefined' is not defined, raised in {file}:2."),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library', raised in {file}:1."),
        ("import toy_package.lost\n", "ModuleNotFoundError: No module named 'toy_package.lost', raised in {file}:1."),
        ("def f(:\n", "SyntaxError: invalid syntax, raised in {file}:1."),
        ("import sys\nsys.exit('usage')\n", "SystemExit: usage, raised in {file}:2."),
        ("import json\njson.loads('{')\n", "raised in {file}:2."),
    ],
)
def test_modules_that_raise(text: str, said: str, write: Write, load: Load, project: Path) -> None:
    """The last line of the error and the line of the plugin's own file, not of the library it called."""
    write(toy_package__bad=text)
    message = refused(load, "toy_package.bad")
    assert said.format(file=project / "plugins/toy_package/bad.py") in message
    assert "plugin 'toy_package.bad' cannot be imported" in message


def test_taken_names(write: Write, load: Load, project: Path) -> None:
    """A name of ours, or of another plugin, is refused with both files, and nothing of the refused module stays."""
    write(toy_first=GOOD, toy_second=GOOD + GOOD.replace("toy_good", "ce"), toy_third=GOOD.replace("toy_good", "ce"))
    load("toy_first")
    text = refused(load, "toy_first", "toy_second")
    assert f"loss 'toy_good' is registered twice: in toy_first ({project}/plugins/toy_first.py) and in toy_second" in text
    text = refused(load, "toy_third")
    assert "loss 'ce' is registered twice: in pipeline.losses.ce (" in text
    assert f"in toy_third ({project}/plugins/toy_third.py). Rename one." in text
    assert losses.registry.get("ce").module == "pipeline.losses.ce"


def test_a_mended_module_can_be_imported_again(write: Write, load: Load) -> None:
    """What a module registered before it raised is taken back, so the same process may read the mended file."""
    write(toy_half=GOOD + "\n    undefined\n")
    refused(load, "toy_half")
    assert not [entry for _, entry in entries() if entry.module == "toy_half"]
    write(toy_half=GOOD + "\n    defined = 1  # mended\n")
    load("toy_half")
    assert "toy_good" in losses.names()


@pytest.mark.parametrize("name", ["my-package.loss", "./my_loss.py", "'.my_loss'", "3", "'a..b'", "''"])
def test_what_is_no_module_name(name: str, load: Load) -> None:
    """Paths, numbers and relative names are refused with an example of what is meant."""
    assert "plugins[0]: a plugin is the dotted name of a module, e.g. my_package.my_loss, got" in refused(load, name)


def test_what_a_plugin_prints_is_no_output(write: Write, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """A print while a plugin is imported goes to the error stream, so that JSON stays JSON."""
    write(toy_loud="print('hello')\n" + textwrap.dedent(GOOD))
    load("toy_loud")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_module_stands_once(load: Load) -> None:
    """A repeated name is refused."""
    assert "'toy_a' stands twice in [toy_a, toy_b, toy_a]. Keep one" in refused(load, "toy_a", "toy_b", "toy_a")


def test_unknown_names_point_to_plugins(load: Load) -> None:
    """Who forgot the plugin is told of the key."""
    with pytest.raises(UnknownNameError, match="or name its module under `plugins`"):
        losses.registry.get("toy_good")


def test_the_closure_of_a_plugin(write: Write, load: Load) -> None:
    """Its own package, `pipeline`, and what lies beside it count; libraries and plumbing do not."""
    write(
        toy_beside="X = 1",
        toy_package__helper="from toy_beside import X",
        toy_package__other="import toy_unused",
        toy_unused="",
        toy_package__good="import torch\nfrom pipeline.losses.cam import cam\nimport pipeline.errors\nfrom .helper import X\n"
        + textwrap.dedent(GOOD),
    )
    load("toy_package.good")
    found = closure(["toy_package.good"])
    assert {"toy_package.good", "toy_package.helper", "toy_beside", "pipeline.losses", "pipeline.losses.cam"} <= found
    assert not found & {"toy_package.other", "toy_unused", "pipeline.errors", "torch"}


def test_what_lies_beside_an_installed_package_is_a_library(write: Write, load: Load, project: Path) -> None:
    """In a folder where packages are installed, neighbours are not the plugin's own code."""
    write(toy_beside="X = 1", toy_good="import toy_beside\n" + textwrap.dedent(GOOD))
    (project / "plugins/numpy-1.0.dist-info").mkdir()
    load("toy_good")
    assert "toy_beside" not in closure(["toy_good"])


def test_compiled_modules_count_by_their_bytes(write: Write, load: Load, project: Path) -> None:
    """An extension module of the package cannot be parsed; its bytes are part of the digest."""
    from importlib.machinery import EXTENSION_SUFFIXES

    write(toy_package__good="def late():\n    from toy_package import fast\n" + textwrap.dedent(GOOD))
    library = project / f"plugins/toy_package/fast{EXTENSION_SUFFIXES[0]}"
    library.write_bytes(b"\xff\x00one")
    load("toy_package.good")
    assert "toy_package.fast" in closure(["toy_package.good"])
    first = code.module_digest("toy_package.fast")
    library.write_bytes(b"\xff\x00two")
    code.module_digest.cache_clear()
    assert code.module_digest("toy_package.fast") != first


def test_the_module_that_registers_counts(write: Write, load: Load) -> None:
    """A partial function has the module that registers it, not functools."""
    write(
        toy_partial="import functools\nfrom pipeline.losses import register\nregister('toy_part')(functools.partial(lambda *, a=1: None))\n"
    )
    load("toy_partial")
    assert losses.registry.get("toy_part").module == "toy_partial"


def test_a_spec_carries_its_plugins() -> None:
    """They travel with the trial, and one written before there were plugins can still be read."""
    spec = TrialSpec("t", "c", {}, 0, "data", "code", plugins=("a.b",))
    assert TrialSpec.from_dict(spec.to_dict()) == spec
    old = {key: value for key, value in spec.to_dict().items() if key != "plugins"}
    assert TrialSpec.from_dict(old).plugins == ()


def test_workers_look_where_they_are_told(
    write: Write, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the folders of the driver a process elsewhere imports the same module; without them it says which plugin is missing."""
    write(toy_good=GOOD)
    folders = plugin_folders()
    monkeypatch.chdir(tmp_path_factory.mktemp("worker"))
    with pytest.raises(ConfigError, match=r"^plugins\[0\]: no module 'toy_good'"):
        import_plugins(["toy_good"])
    import_plugins(["toy_good"], folders)
    assert "toy_good" in losses.names()


def test_a_trial_imports_its_plugins(make_spec: Callable[..., TrialSpec]) -> None:
    """`run_trial` in a program of one's own imports what the specification names, or says what is missing."""
    from pipeline.trial import run_trial

    with pytest.raises(ConfigError, match="no module 'toy_lost'"):
        run_trial(replace(make_spec(), plugins=("toy_lost",)), data=None)  # type: ignore[arg-type]


def test_an_option_that_no_study_file_can_hold(write: Write, load: Load) -> None:
    """A type that cannot be checked is named with its method and what to write instead."""
    write(toy_odd=GOOD.replace("float = 1.0", "type(iter([])) = None"))
    load("toy_odd")
    with pytest.raises(ConfigError, match=r"loss 'toy_good' in toy_odd .* has an option of a type that no study file can hold"):
        fill_options(losses.registry, "toy_good", {}, str)


def test_an_import_that_the_plugin_guards_may_fail(write: Write, load: Load) -> None:
    """A plugin that does without a module which raises on import can be loaded, listed and given a code key."""
    guarded = "try:\n    from toy_fast import kernel\nexcept Exception:\n    kernel = None\n"
    write(toy_fast="raise OSError('no such device')\n", toy_guarded=guarded + GOOD)
    load("toy_guarded")
    assert "toy_good" in losses.names()
    assert len(code.code_key(["toy_guarded"])) == 16
