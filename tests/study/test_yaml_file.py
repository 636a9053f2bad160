"""Reading YAML: numbers, lines of keys, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.study.yaml_file import locate, read_yaml


def _read(folder: Path, text: str) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, "study file")


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("1e3", 1000.0), ("1E+2", 100.0), ("-2.5e-1", -0.25), ("0.1", 0.1), ("3", 3), ("1e3x", "1e3x"), ("'5e-4'", "5e-4")],
)
def test_scientific_numbers(tmp_path: Path, text: str, value: Any) -> None:
    """5e-4 is a number although YAML 1.1 calls it text; quoted it stays text, and whole numbers stay whole."""
    content, _ = _read(tmp_path, f"value: {text}\n")
    assert content == {"value": value}
    assert type(content["value"]) is type(value)


def test_keys_are_what_is_written(tmp_path: Path) -> None:
    """A key that YAML would turn into a boolean, a number or a date stays the word that stands there, and has its line."""
    content, lines = _read(tmp_path, "no: 1\n1: 2\n2024-01-01: 3\nnull: 4\n")
    assert content == {"no": 1, "1": 2, "2024-01-01": 3, "null": 4}
    assert lines == {("no",): 1, ("1",): 2, ("2024-01-01",): 3, ("null",): 4}


def test_lines(tmp_path: Path) -> None:
    """Every key and list item has its line, and a path that is not there the line of its nearest parent."""
    _, lines = _read(tmp_path, "# a comment\na:\n  b: [x, y]\n  c:\n    - d: 1\n")
    assert lines == {("a",): 2, ("a", "b"): 3, ("a", "b", 0): 3, ("a", "b", 1): 3, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 0, "d"): 5}
    assert locate(Path("f.yaml"), lines, ("a", "c", 0, "e")) == "f.yaml:5: a.c[0].e"
    assert locate(Path("f.yaml"), lines, ("z",)) == "f.yaml: z"


def test_merge_keys(tmp_path: Path) -> None:
    """Anchors and merge keys work, since several mappings may be merged under one `<<`."""
    content, _ = _read(tmp_path, "base: &base {x: 1, y: 2}\nother:\n  <<: *base\n  y: 3\n")
    assert content["other"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "1: 1\nb: 2\n'1': 3\n"])
def test_duplicate_key_names_both_lines(tmp_path: Path, text: str) -> None:
    """A key that stands twice is refused, with the lines of both."""
    with pytest.raises(ConfigError, match=r"file\.yaml:3: the key '[a1]' stands twice, first in line 1"):
        _read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping of keys to values, got list"),
        ("", "got nothing"),
        ("just words\n", "got str"),
        ("a: b: c\n", r"file\.yaml:1:5: not valid YAML"),
        ("a: [1, 2\nb: 3\n", r"file\.yaml:2:\d+: not valid YAML"),
        ("a: 1\n---\nb: 2\n", r"file\.yaml:2:1: not valid YAML"),
        ("a: *nothing\n", "undefined alias 'nothing'"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("study: {{name}}\n", r"file\.yaml:1: a key must be a word or a number, not a mapping"),
        ("? [a, b]\n: c\n", r"file\.yaml:1: a key must be a word or a number, not a sequence"),
        ("a: &x [*x]\n", "alias"),
        ("a: \x07\n", "special characters are not allowed"),
        ("a: 2024-13-01\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    """What is not one mapping in sound YAML is a ConfigError with the place, never another exception."""
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, text)


def test_missing_file_lists_neighbours(tmp_path: Path) -> None:
    """A missing file is answered with its neighbours and the nearest of them."""
    (tmp_path / "quick.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"No study file at .*quikc\.yaml\. Did you mean '.*quick\.yaml'\? There is: .*quick\.yaml"):
        read_yaml(tmp_path / "quikc.yaml", "study file")
    with pytest.raises(ConfigError, match="nothing in that folder"):
        read_yaml(tmp_path / "absent" / "quick.yaml", "study file")


def test_unreadable_file(tmp_path: Path) -> None:
    """A folder, or bytes that are no text, cannot be read and say so."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path, "study file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a: 1")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "bytes.yaml", "study file")
