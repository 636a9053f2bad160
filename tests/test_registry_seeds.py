"""Names of methods, derived seeds, and the tree of errors."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import errors
from pipeline.errors import ConfigError, DivergedError, PipelineError, TrialError, UnknownNameError, did_you_mean
from pipeline.registry import Registry
from pipeline.seeds import PURPOSES, derive


@pytest.fixture(name="registry")
def registry_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry whose package has one file that registers `found`."""
    package = tmp_path / "toymethods"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pipeline.registry import Registry\nregistry = Registry('method', __name__, reserved=('given',))\n"
    )
    (package / "found.py").write_text(
        "from toymethods import registry\n@registry.register('found', label='Found!')\ndef found(*, size: int = 3): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import toymethods

    yield toymethods.registry
    for name in [name for name in sys.modules if name.split(".")[0] == "toymethods"]:
        del sys.modules[name]


def test_files_of_the_package_are_found(registry: Registry) -> None:
    """A file in the package is enough: nobody has to import it."""
    assert registry.names() == ["found"]
    entry = registry.get("found")
    assert (entry.label, entry.module, entry.options) == ("Found!", "toymethods.found", {"size": (int, 3)})
    assert "found" in registry
    assert "lost" not in registry


def test_options(registry: Registry) -> None:
    """Options are the keyword parameters with type and default; what the pipeline fills in is none of them."""

    @registry.register("made")
    def made(given: int, needed: str, *args: int, free: float = 0.5, **rest: int) -> None: ...

    @registry.register("typed")
    @dataclass
    class Typed:
        width: int = 2
        depths: list[int] = field(default_factory=lambda: [3])

    assert registry.get("made").options == {"needed": (str, inspect.Parameter.empty), "free": (float, 0.5)}
    assert registry.get("made").label == "made"
    assert registry.get("typed").options == {"width": (int, 2), "depths": (list[int], [3])}


def test_a_name_is_registered_once(registry: Registry) -> None:
    """Another factory under a taken name is refused with both places; the same factory may come again."""

    def factory() -> None: ...

    registry.register("twice")(factory)
    registry.register("twice")(factory)
    with pytest.raises(ValueError, match=r"method 'twice' is registered twice: in .* and in"):
        registry.register("twice")(lambda: None)


@pytest.mark.parametrize("name", ["fuond", 3, None, ["found"], {"name": "found"}])
def test_unknown_names(registry: Registry, name: object) -> None:
    """Anything that is no registered name is answered with place, known names and the next step."""
    with pytest.raises(UnknownNameError) as caught:
        registry.get(name, where="file.yaml:3: loss")  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"Unknown method {name!r} in file.yaml:3: loss.")
    assert text.endswith("Known: found. Add a file under toymethods/ to register one, or name its module under `plugins`.")
    assert ("Did you mean 'found'?" in text) == (name in ("fuond", ["found"]))


@given(axes=st.lists(st.one_of(st.integers(), st.text()), max_size=3), purpose=st.sampled_from(PURPOSES))
def test_seeds_are_in_range_and_repeat(axes: list[object], purpose: str) -> None:
    """A seed fits into a signed 64-bit number, and the same axes give the same seed."""
    assert 0 <= derive(purpose, *axes) < 2**63
    assert derive(purpose, *axes) == derive(purpose, *axes)


def test_seeds_differ() -> None:
    """Purpose, dataset and index each give another stream; neighbouring axes do not run into each other."""
    seeds = [derive(purpose, dataset, index) for purpose in PURPOSES for dataset in ("a", "b") for index in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert derive("init", "ab", 1) != derive("init", "a", "b1")
    assert derive("init", "1", 1) == derive("init", 1, "1")


def test_seeds_are_fixed() -> None:
    """Seeds do not depend on process, platform or version: this one was computed once."""
    assert derive("init", "digest", 0) == 4196186187794266094


def test_unknown_purpose() -> None:
    """A stream has one of the known purposes."""
    with pytest.raises(ValueError, match=r"unknown purpose 'shuffle' of a seed; known: split, init"):
        derive("shuffle")


def test_the_tree_of_errors() -> None:
    """Every error a user can meet is a PipelineError; those of single trials and of input can be told apart."""
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert all(issubclass(kind, PipelineError) for kind in classes)
    assert issubclass(UnknownNameError, ConfigError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DivergedError, TrialError)
    assert not issubclass(ConfigError, TrialError)
    assert {kind.__name__ for kind in classes} == {word for word in errors.__doc__.split() if word.endswith("Error")}


def test_a_diverged_error_travels_between_processes() -> None:
    """Step, epoch and value survive pickling."""
    back = pickle.loads(pickle.dumps(DivergedError(120, 3, float("inf"))))
    assert (back.step, back.epoch, back.value, str(back)) == (120, 3, float("inf"), "loss became inf at step 120 (epoch 3)")


def test_many_known_names_are_cut() -> None:
    """Of very many names a message shows the nearest and says how many more there are."""
    text = str(UnknownNameError("thing", "name04x", [f"name{i:03d}" for i in range(50)]))
    assert "name04" in text
    assert "and 42 more" in text
    assert text.count("name0") <= 10
    assert did_you_mean("name00", ["name001"]) == " Did you mean 'name001'?"
    assert did_you_mean("zzz", ["name001"]) == ""
