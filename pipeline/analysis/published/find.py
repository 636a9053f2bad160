"""Looking published numbers up by the words of published.csv."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pipeline.analysis.published.read import FIELDS, Published, load_published
from pipeline.errors import ConfigError, UnknownNameError, did_you_mean

_MOST = 24  # names that one message lists


def find(where: Mapping[str, str]) -> list[Published]:
    """Published numbers with these fields, e.g. {'table': 'ISDA_T2', 'dataset': 'CIFAR-100'}; all of them for {}.

    A name is compared letter by letter: 'ResNet-110' and 'resnet110' are two authors' words and need not be one network.

    Args:
        where: field (one of `FIELDS`) -> name. `teacher: ''` asks for numbers without a teacher.

    Raises:
        UnknownNameError: no such field, or a name that no number has together with the other fields; the message lists those there are.
    """
    for field in where:
        if field not in FIELDS:
            raise UnknownNameError("field", field, FIELDS, where="published numbers")
    found: Sequence[Published] = load_published()
    for field in (field for field in FIELDS if field in where):
        matches = _with(found, {field: where[field]})
        if not matches:
            others = {name: where[name] for name in where if name != field}
            # With two wrong names nothing fits the others: what fits those before this one is listed then.
            raise unknown(field, where[field], _with(load_published(), others) or found, others)
        found = matches
    return list(found)


def search(text: str, among: Iterable[Published]) -> list[Published]:
    """Those that have every word of `text` in a field, the source or the note; upper and lower case are the same.

    Raises:
        ConfigError: there is none.
    """
    rows = list(among)
    words = text.lower().split()
    found = [row for row in rows if all(word in _text(row) for word in words)]
    if not found:
        names = sorted({getattr(row, field).lower() for row in rows for field in FIELDS})
        nowhere = [word for word in words if not any(word in _text(row) for row in rows)]
        said = f"the word {nowhere[0]!r}" if nowhere else f"all words of {text!r} at once"
        hint = did_you_mean(nowhere[0], names) if nowhere else ""
        raise ConfigError(f"No published number has {said}.{hint} `ablate published` lists the tables; with --table, their rows.")
    return found


def _with(rows: Iterable[Published], where: Mapping[str, str]) -> list[Published]:
    return [row for row in rows if all(getattr(row, field) == name for field, name in where.items())]


def _text(row: Published) -> str:
    return "\n".join((*(getattr(row, field) for field in FIELDS), row.source, row.note)).lower()


def unknown(field: str, name: object, among: Iterable[Published], others: Mapping[str, str]) -> UnknownNameError:
    """What to say of a name that none `among` published numbers has: the nearest, those there are, and how it is written there.

    Args:
        others: the other fields that these numbers share, field -> name.
    """
    known = sorted({getattr(row, field) for row in among})
    near = known if len(known) <= _MOST else difflib.get_close_matches(str(name), known, n=_MOST, cutoff=0.0)
    same = [each for each in known if bare(each) == bare(str(name))]
    steps = [f"It is written {' or '.join(map(repr, same))} there."] if same else []
    if len(near) < len(known):
        steps.append(f"These are the nearest of {len(known)}; `ablate published` shows them all.")
    with_others = "".join(f", {other} {chosen!r}" for other, chosen in others.items())
    return UnknownNameError(
        field, name, [each or "''" for each in near], where=f"published numbers{with_others}", next_step=" ".join(steps)
    )


def bare(name: str) -> str:
    """A name without case, hyphens, underscores and blanks."""
    return "".join(letter for letter in name.lower() if letter not in "-_ ")
