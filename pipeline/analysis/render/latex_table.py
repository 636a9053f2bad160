"""A table as a LaTeX `table` environment; needs only the package booktabs and pdflatex."""

from __future__ import annotations

import re
import unicodedata

from pipeline.analysis.layout import Entry, lay_out
from pipeline.analysis.tables import TableResult

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
    "`": r"\textasciigrave{}",
}
# Unicode spells lambda 'lamda'; the capitals that look Latin have no macro of their own.
_GREEK = {
    letter: f"$\\{unicodedata.name(letter).split()[-1].replace('LAMDA', 'LAMBDA').lower()}$" for letter in "αβγδεζηθικλμνξπρστυφχψω"
} | {letter: f"$\\{unicodedata.name(letter).split()[-1].replace('LAMDA', 'LAMBDA').capitalize()}$" for letter in "ΓΔΘΛΞΠΣΥΦΨΩ"}
_SMALL_FROM = 6  # columns that still fit a page at the normal size


def render_latex(result: TableResult) -> str:
    r"""booktabs table; each row is followed by a comment with the trial ids behind it.

    Letters that pdflatex cannot set (beyond Latin and Greek) are written as their code point, e.g. U+4E2D, so the file always compiles.
    """
    grid = lay_out(result)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([r"\small"] if len(grid.headers) >= _SMALL_FROM else []),
        rf"\caption{{\textbf{{{escape(grid.heading)}}} {escape(grid.caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:.-]', '-', grid.name)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(grid.headers)}}}",
        r"\toprule",
        _row([escape(grid.corner), *map(escape, grid.headers)]),
        r"\midrule",
    ]
    for line in grid.lines:
        lines += [r"\midrule"] if line.average else []
        lines += [_row([escape(line.label), *map(_entry, line.entries)]), *(f"% {comment}" for comment in line.comment)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if grid.notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}", r"\footnotesize"]
        lines += [rf"\textsuperscript{{{mark}}}~{escape(text)}\par" for mark, text in grid.notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """`text` as literal LaTeX for pdflatex with its default UTF-8 input."""
    return "".join(map(_character, text)).replace("--", "-{}-").replace("--", "-{}-")  # two hyphens would join to a dash


def _character(character: str) -> str:
    known = _ESCAPES.get(character) or _GREEK.get(character)
    if known is not None:
        return known
    # Latin-1 and Latin Extended-A letters, dashes and quotes are declared for UTF-8 input since LaTeX 2018.
    if " " <= character <= "~" or (character.isalpha() and "\u00c0" <= character <= "\u017f") or character in "–—…‘’“”":
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def _row(texts: list[str]) -> str:
    # A row that starts with a bracket would be read as the optional argument of the \\ before it.
    texts = [f"{{}}{texts[0]}" if texts[0].startswith(("[", "*")) else texts[0], *texts[1:]]
    return " & ".join(texts) + r" \\"


def _entry(entry: Entry) -> str:
    text = re.sub(r"^([+-])(?=\d)", r"$\1$", entry.text).replace("±", r"$\pm$")
    text = rf"\textbf{{{text}}}" if entry.best else text
    return text + (rf"\textsuperscript{{{','.join(entry.marks)}}}" if entry.marks else "")
