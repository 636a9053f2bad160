"""Readers of the printed formats, independent of the writers: each gives (headers, rows of (label, cells), notes).

A cell is (text, bold, marks). Run by the tests through `readers` in test_formats.py.
"""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

from markdown_it import MarkdownIt

Cell = tuple[str, bool, str]
Printed = tuple[list[str], list[tuple[str, list[Cell]]], dict[str, str]]


def read_markdown(text: str) -> Printed:
    """Parse with a CommonMark parser that knows pipe tables."""
    rows: list[list[Cell]] = []
    notes: dict[str, str] = {}
    in_table = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and in_table:
            rows[-1].append(_inline(token.children or []))
        elif token.type == "inline" and rows:
            for line in re.split(r"\n", token.content):
                children = MarkdownIt("commonmark").parseInline(line.strip())[0].children or []
                note, _, mark = _inline(children)
                notes[mark] = note
    return [text for text, _, _ in rows[0]], [(row[0][0], row[1:]) for row in rows[1:]], notes


def _inline(children) -> Cell:
    text, marks, bold, raised = "", "", False, False
    for child in children:
        if child.type == "html_inline":
            raised = child.content == "<sup>"
        elif child.type == "strong_open":
            bold = True
        elif child.type in ("text", "text_special"):
            if raised:
                marks += child.content
            else:
                text += child.content
        elif child.type not in ("strong_close", "softbreak", "hardbreak"):
            raise AssertionError(f"markup {child.type} in a table")
    return text.strip(), bold, marks


class _TableReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[Cell]] = []
        self.notes: dict[str, str] = {}
        self.scopes: list[str | None] = []
        self.captions = 0
        self.references: list[str] = []
        self._text = self._marks = ""
        self._open: list[str] = []
        self._bold = False

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.references += [names[key] for key in ("src", "href", "xlink:href") if key in names]
        if tag in ("meta", "link", "br"):
            return
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td", "li"):
            self._text, self._marks, self._bold = "", "", False
            if tag == "th":
                self.scopes.append(names.get("scope"))
        elif tag == "strong":
            self._bold = True
        self.captions += tag == "caption"

    def handle_data(self, data):
        if "sup" in self._open:
            self._marks += data
        else:
            self._text += data

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if tag in ("th", "td"):
            self.rows[-1].append((self._text.strip(), self._bold, self._marks))
        elif tag == "li":
            self.notes[self._marks] = self._text.strip()


def parse_html(text: str) -> _TableReader:
    """Feed a page; raises when elements are not properly nested."""
    reader = _TableReader()
    reader.feed(text)
    reader.close()
    assert not reader._open, f"left open: {reader._open}"
    return reader


def read_html(text: str) -> Printed:
    """Parse with the standard library's HTML parser."""
    reader = parse_html(text)
    return [text for text, _, _ in reader.rows[0]], [(row[0][0], row[1:]) for row in reader.rows[1:]], reader.notes


_TEX = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<", r"\textgreater{}": ">",
    r"\textbar{}": "|", r"\char34{}": '"', r"\textasciigrave{}": "`", r"$\cdot$": "·",
    r"$\to$": "→", r"$\leq$": "≤", r"$\geq$": "≥", r"$\infty$": "∞",
    r"$\pm$": "±", "$-$": "−", "$+$": "+", r"$\times$": "×", r"$\lambda$": "λ",
    r"$\Lambda$": "Λ", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\%": "%", r"\_": "_", "{}": "",
}  # fmt: skip
_TEX_TOKEN = re.compile("|".join([*map(re.escape, _TEX), r"\\texttt\{U\+(?P<code>[0-9A-F]+)\}", r"\$\\(?P<greek>[A-Za-z]+)\$"]))


def read_latex(text: str) -> Printed:
    """Parse the tabular and the notes; raises on unbalanced braces, environments or dollar signs."""
    check_latex(text)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")]).replace("\\midrule\n", "")
    rows = [[_tex_cell(cell) for cell in re.split(r"(?<!\\) & ", row)] for row in re.split(r" \\\\(?:\n|$)", body) if row]
    notes = dict(re.findall(r"^\\textsuperscript\{(\w+)\}~(.*)\\par$", "\n".join(lines), flags=re.MULTILINE))
    return (
        [cell for cell, _, _ in rows[0]],
        [(row[0][0], row[1:]) for row in rows[1:]],
        {mark: _untex(note) for mark, note in notes.items()},
    )


def check_latex(text: str) -> None:
    """Balanced braces, matching environments, paired dollar signs, nothing but commands this file knows."""
    source = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    bare = re.sub(r"\\[{}$&#%_\\]", "", source)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0, "a brace closes nothing"
    assert depth == 0, "a brace is left open"
    assert bare.count("$") % 2 == 0, "a dollar sign is left open"
    assert "%" not in bare, "a percent sign comments out the rest of its line"
    assert not re.search(r"[#^~](?!seed)", re.sub(r"\\textsuperscript\{\w+\}~", "", bare)), "an active character is not escaped"
    environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", source):
        if kind == "begin":
            environments.append(name)
        else:
            assert environments.pop() == name, f"\\end{{{name}}} ends another environment"
    assert not environments, f"left open: {environments}"


def _tex_cell(cell: str) -> Cell:
    marks = re.search(r"\\textsuperscript\{([\w,]+)\}$", cell)
    cell = cell[: marks.start()] if marks else cell
    bold = re.fullmatch(r"\\textbf\{(.*)\}", cell)
    return _untex(bold[1] if bold else cell), bool(bold), marks[1] if marks else ""


def _untex(text: str) -> str:
    return _TEX_TOKEN.sub(_tex_token, text).strip()


def _tex_token(match: re.Match[str]) -> str:
    if match["code"]:
        return chr(int(match["code"], 16))
    if match["greek"]:
        return unicodedata.lookup(f"GREEK {'CAPITAL' if match['greek'][0].isupper() else 'SMALL'} LETTER {match['greek']}")
    return _TEX[match[0]]
