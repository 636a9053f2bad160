"""Text as literal LaTeX for pdflatex, and how wide it will be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "†": r"\dag{}",
    "`": r"\textasciigrave{}",
}
# Unicode spells lambda 'lamda'; the capitals that look Latin have no macro of their own.
_GREEK = {
    letter: f"$\\{unicodedata.name(letter).split()[-1].replace('LAMDA', 'LAMBDA').lower()}$" for letter in "αβγδεζηθικλμνξπρστυφχψω"
} | {letter: f"$\\{unicodedata.name(letter).split()[-1].replace('LAMDA', 'LAMBDA').capitalize()}$" for letter in "ΓΔΘΛΞΠΣΥΦΨΩ"}
_BREAK = r"\allowbreak{}"
# A line may end after each of these parts of a word.
_PART = re.compile(r"\s+|[^\s_/,=+·-]*[_/,=+·-]+|[^\s_/,=+·-]+")
# Widths of Computer Modern (cmr10.tfm), rounded up a little; capitals and all other letters stand in `_character_em`.
_EM = {
    character: em
    for em, characters in {
        0.29: "il.,:;'!|[]·",
        0.36: "fj -I",
        0.40: "rst()_",
        0.45: "cez",
        0.51: "ago0123456789/{}*#$~^?†",
        0.84: "mw%&@+=<>−±×≤≥Δ",
        1.03: "MW—…→∞",
    }.items()
    for character in characters
}
_CODE_POINT_EM = 3.2  # U+4E2D in typewriter letters


def escape(text: str, *, breakable: bool = False) -> str:
    """`text` as literal LaTeX for pdflatex with its default UTF-8 input.

    Letters that pdflatex cannot set (beyond Latin and Greek) are written as their code point, e.g. U+4E2D, so that it always compiles.

    Args:
        breakable: allow a line break inside words, after `_`, `/` and the like.
    """
    if not breakable:
        return _escape(text)
    parts = list(word_parts(text))
    glued = [_BREAK if not (part[-1].isspace() or after[0].isspace()) else "" for part, after in zip(parts, [*parts[1:], " "], strict=True)]
    return "".join(_escape(part) + glue for part, glue in zip(parts, glued, strict=True))


def _escape(text: str) -> str:
    return "".join(map(_character, text)).replace("--", "-{}-").replace("--", "-{}-")  # two hyphens would join to a dash


def _character(character: str) -> str:
    known = _ESCAPES.get(character) or _GREEK.get(character)
    if known is not None:
        return known
    return character if _has_glyph(character) else rf"\texttt{{U+{ord(character):04X}}}"


def _has_glyph(character: str) -> bool:
    # Latin-1 and Latin Extended-A letters, dashes and quotes are declared for UTF-8 input since LaTeX 2018.
    return " " <= character <= "~" or (character.isalpha() and "\u00c0" <= character <= "\u017f") or character in "–—…‘’“”"


def word_parts(text: str) -> Iterator[str]:
    """`text` cut wherever a line may end: after blanks, `_`, `/` and the like, and every 20 letters of a longer word."""
    for part in _PART.findall(text):
        yield from (part[i : i + 20] for i in range(0, len(part), 20))


def width_em(text: str) -> float:
    """About the width of `text` set in Computer Modern, in em (a digit is half of one); rather too much than too little."""
    return sum(map(_character_em, text))


def _character_em(character: str) -> float:
    known = _EM.get(character)
    if known is not None:
        return known
    if not (character in _ESCAPES or character in _GREEK or _has_glyph(character)):
        return _CODE_POINT_EM
    return 0.78 if character.isupper() else 0.56
