"""Readers of the printed formats, independent of the writers: each gives (headers, rows of (label, cells), notes).

A cell is (text, bold, marks); a dagger is part of the text, behind a blank. Rows below a heading have the label 'heading · label', columns
below one the header 'heading / header'. Run by the tests through the fixture `readers`.
"""

from __future__ import annotations

import itertools
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
    alignments: list[str] = []
    in_table = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "th_open":
            alignments.append(str(token.attrGet("style")))
        elif token.type == "inline" and in_table:
            rows[-1].append(_inline(token.children or []))
        elif token.type == "inline" and rows:
            for line in re.split(r"\n", token.content):
                children = MarkdownIt("commonmark").parseInline(line.strip())[0].children or []
                if children[0].type == "link_open":  # to the JSON file
                    continue
                note, _, mark = _inline(children)
                notes[mark] = note
    return *_with_groups([text for text, _, _ in rows[0]], rows[1:], labels=alignments.count("text-align:left")), notes


def _with_groups(header: list[str], rows: list[list[Cell]], labels: int) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Headers and rows of a table whose first `labels` columns are labels; an empty first label repeats the one above."""
    read: list[tuple[str, list[Cell]]] = []
    group = ""
    for row in rows:
        group = row[0][0] or group
        parts = [group, *(text for text, _, _ in row[1:labels])]
        read.append((" · ".join(filter(None, parts)), row[labels:]))
    return [" / ".join(header[:labels]), *header[labels:]], read


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
        elif child.type not in ("strong_close", "em_open", "em_close", "softbreak", "hardbreak"):
            raise AssertionError(f"markup {child.type} in a table")
    return text.strip(), bold, marks


class _TableReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[Cell]] = []
        self.kinds: list[list[tuple[str, int, int]]] = []  # scope, columns and rows of each cell of `rows`
        self.notes: dict[str, str] = {}
        self.scopes: list[str | None] = []
        self.captions = 0
        self.references: list[str] = []
        self._text = self._marks = ""
        self._open: list[str] = []
        self._bold = False
        self.headings: list[str] = []  # of the group that each of `rows` is in
        self._heading = ""

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.references += [names[key] for key in ("src", "href", "xlink:href") if key in names]
        if tag in ("meta", "link", "br", "col"):
            return
        self._open.append(tag)
        if tag in ("tbody", "tfoot"):
            self._heading = ""
        elif tag == "tr":
            self.rows.append([])
            self.kinds.append([])
            self.headings.append(self._heading)
        elif tag in ("th", "td", "li"):
            self._text, self._marks, self._bold = "", "", False
            if tag != "li":
                self.kinds[-1].append((names.get("scope", ""), int(names.get("colspan", 1)), int(names.get("rowspan", 1))))
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
            if self.kinds[-1][-1][0] == "rowgroup":
                self._heading = self._text.strip()
        elif tag == "li" and self._marks:
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
    grouped = any(scope == "colgroup" for scope, _, _ in reader.kinds[0])
    below = iter(reader.rows[1] if grouped else [])
    headers = []
    for (label, _, _), (scope, columns, rows) in zip(reader.rows[0], reader.kinds[0], strict=True):
        assert rows == (2 if grouped and scope != "colgroup" else 1), "a heading leaves a hole"
        headers += [f"{label} / {next(below)[0]}" for _ in range(columns)] if scope == "colgroup" else [label]
    assert not list(below), "a heading stands above no column"
    rows = [
        (f"{heading} · {row[0][0]}" if heading else row[0][0], row[1:])
        for row, kinds, heading in zip(reader.rows, reader.kinds, reader.headings, strict=True)
        if kinds[0][0] == "row"
    ]
    return headers, rows, reader.notes


_TEX = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<", r"\textgreater{}": ">",
    r"\textbar{}": "|", r"\char34{}": '"', r"\textasciigrave{}": "`", r"$\cdot$": "·",
    r"$\to$": "→", r"$\leq$": "≤", r"$\geq$": "≥", r"$\infty$": "∞",
    r"$\pm$": "±", "$-$": "−", "$+$": "+", r"$\times$": "×", r"$\lambda$": "λ",
    r"$\Lambda$": "Λ", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\%": "%", r"\_": "_", r"\dag{}": "†",
    r"\allowbreak{}": "", "{}": "",
}  # fmt: skip
_TEX_TOKEN = re.compile("|".join([*map(re.escape, _TEX), r"\\texttt\{U\+(?P<code>[0-9A-F]+)\}", r"\$\\(?P<greek>[A-Za-z]+)\$"]))


def read_latex(text: str) -> Printed:
    """Parse the tabulars and the notes; raises on unbalanced braces, environments or dollar signs, and on rows of unequal length."""
    check_latex(text)
    source = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    blocks = [_tabular(block) for block in re.findall(r"(\\begin\{tabular\}.*?)\n\\bottomrule", source, flags=re.DOTALL)]
    notes = dict(re.findall(r"^\\textsuperscript\{(\w+)\}~(.*)\\par$", source, flags=re.MULTILINE))
    return *_beside(blocks), {mark: _untex(note) for mark, note in notes.items()}


def _beside(blocks: list[tuple[list[str], list[tuple[str, list[Cell]]]]]) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """One table from blocks below each other: those of the same columns go on with further rows, others repeat the row labels."""
    stacked: list[tuple[list[str], list[tuple[str, list[Cell]]]]] = []
    for headers, rows in blocks:
        if stacked and stacked[-1][0] == headers:
            stacked[-1][1].extend(rows)
        else:
            stacked.append((headers, list(rows)))
    first, *others = stacked
    for headers, rows in others:
        assert headers[0] == first[0][0]
        assert [label for label, _ in rows] == [label for label, _ in first[1]]
    return (
        first[0] + [header for headers, _ in others for header in headers[1:]],
        [(label, cells + [cell for _, rows in others for cell in rows[i][1]]) for i, (label, cells) in enumerate(first[1])],
    )


def _tabular(block: str) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    preamble, block = block.split("\n\\toprule\n", 1)
    formats = re.findall(r"S\[table-format=\+?(\d+)(?:\.(\d+))?\]|[lcp](?![\w{]*em)", re.sub(r"@\{.*?\}|>\{.*?\}", "", preamble[15:]))
    above, body = block.split("\n\\midrule\n", 1)
    rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", above)
    head = [line for line in above.split("\n") if not line.startswith(r"\cmidrule")]
    corner, *slots = [_across(cell) for cell in _tex_cells(head[-1])]
    groups = [text for cell in _tex_cells(head[0])[1:] for text, span in [_across(cell)] for _ in range(span)] if len(head) > 1 else []
    headers, at = [_untex(corner[0])], 0
    for label, span in slots:
        group = groups[at] if groups else ""
        assert groups[at : at + span] == [group] * len(groups[at : at + span])
        headers.append(_untex(label) if not group else f"{_untex(group)} / {_untex(label)}")
        at += span
    spans = [(group, len(list(same))) for group, same in itertools.groupby(groups)]
    ends = list(itertools.accumulate((span for _, span in spans), initial=1))
    assert rules == [(str(end + 1), str(end + span)) for (group, span), end in zip(spans, ends, strict=False) if group], (
        "a rule is misplaced"
    )
    rows, heading = [], ""
    for line in body.split("\n"):
        if line in (r"\midrule", r"\addlinespace"):
            continue
        group = re.fullmatch(r"\\multicolumn\{\d+\}\{l\}\{(.*)\} \\\\", line)
        if group:
            heading = _untex(group[1])
            continue
        label, *cells = _tex_cells(line)
        _check_formats(cells, formats[1:])
        indented = label.startswith(r"\quad ")
        label = _untex(label.removeprefix(r"\quad "))
        rows.append((f"{heading} · {label}" if indented else label, _tex_entries(cells, [span for _, span in slots])))
    return headers, rows


def _check_formats(cells: list[str], formats: list[tuple[str, str]]) -> None:
    """Every number has as many decimals as its column's format, and no more digits before the point."""
    at = 0
    for cell in cells:
        number = re.fullmatch(r"(?:\{\\llap.*\}\} )?(?:\\bfseries )?[+-]?(\d+)(?:\.(\d+))?", cell)
        if number:
            whole, decimals = formats[at]
            assert len(number[1]) <= int(whole), f"{cell} is too long for its column"
            assert len(number[2] or "") == len(range(int(decimals or 0))), f"{cell} stands off the decimal point of its column"
        at += _across(cell)[1]
    assert at == len(formats), "a row is not as long as the table"


def _tex_cells(line: str) -> list[str]:
    assert line.endswith(r" \\"), f"no row: {line}"
    return re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))


def _across(cell: str) -> tuple[str, int]:
    """Text of a heading and the number of columns below it."""
    match = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.*)\}", cell)
    text, span = (match[2], int(match[1])) if match else (cell, 1)
    text = re.sub(r"^\{(.*)\}$", r"\1", text)
    box = re.fullmatch(r"\\parbox\[b\]\{[\d.]+em\}\{\\centering (.*)\}", text)
    return (box[1] if box else text), span


def _tex_entries(cells: list[str], spans: list[int]) -> list[Cell]:
    """The cells of a row, put together where an entry takes several columns: number, ± and spread where there are three, marks last."""
    entries, left = [], list(cells)
    for span in spans:
        text, over = _across(left[0])
        if over == span and (span > 1 or re.fullmatch(r"\{.*\}", left[0])):
            entries.append(_tex_entry([text]))
            del left[0]
        else:
            entries.append(_tex_entry(left[:span]))
            del left[:span]
    assert not left, "a row is longer than the table"
    return entries


def _tex_entry(cells: list[str]) -> Cell:
    marks = re.search(r"\\textsuperscript\{([\w,\\]+)\}$", cells[-1])
    if marks:
        cells = [*cells[:-1], cells[-1][: marks.start()]]
    names = marks[1].split(",") if marks else []
    texts = [cell.replace(r"\bfseries ", "") for cell in cells if cell]
    bold = {r"\bfseries " in cell for cell in cells if re.search(r"\d", cell)} == {True}
    assert bold or not any("bfseries" in cell for cell in cells), "half of an entry is bold"
    text = " ".join(texts).replace(r"{\llap{$<$\,}}", "<").replace(r"$\pm$", "±")
    return text + (" †" if r"\dag" in names else ""), bold, ",".join(name for name in names if name != r"\dag")


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


def _untex(text: str) -> str:
    return _TEX_TOKEN.sub(_tex_token, text).strip()


def _tex_token(match: re.Match[str]) -> str:
    if match["code"]:
        return chr(int(match["code"], 16))
    if match["greek"]:
        return unicodedata.lookup(f"GREEK {'CAPITAL' if match['greek'][0].isupper() else 'SMALL'} LETTER {match['greek']}")
    return _TEX[match[0]]


def read_text(text: str) -> Printed:
    """Parse the blocks of the terminal's table by the blank columns between the columns of text."""
    paragraphs = [block.split("\n") for block in text.rstrip("\n").split("\n\n")]
    tables = [lines for lines in paragraphs if any(re.fullmatch("-+", line) for line in lines)]
    notes: dict[str, str] = {}
    for line in paragraphs[-1] if paragraphs[-1] is not tables[-1] else []:
        mark, note = line.split("  ", 1)
        mark = mark or list(notes)[-1]
        notes[mark] = " ".join([*notes.get(mark, "").split(), *note.split()])
    return *_beside(list(map(_text_block, tables))), notes


def _text_block(lines: list[str]) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    rule = next(i for i, line in enumerate(lines) if re.fullmatch("-+", line))
    head, body = lines[:rule], [line for line in lines[rule:] if not re.fullmatch("-+", line)]
    under = next((i for i, line in enumerate(head) if re.fullmatch(r" *-[- ]*", line)), -1)
    headings = [i for i, line in enumerate(body[:-1]) if not line.startswith("  ") and body[i + 1].startswith("  ")]
    solid = head[under + 1 :] + [line for i, line in enumerate(body) if i not in headings]
    width = max(map(len, lines))
    blank = [all(line[i : i + 1] in ("", " ") for line in solid) for i in range(width)]
    starts = [0] + [i for i in range(2, width) if blank[i - 1] and blank[i - 2] and not blank[i] and not all(blank[:i])]
    cut = [(start, end) for start, end in zip(starts, [*starts[1:], width], strict=True)]

    def fields(line: str) -> list[str]:
        return [line[start:end].strip() for start, end in cut]

    headers = [" ".join(filter(None, each)) for each in zip(*map(fields, head[under + 1 :]), strict=True)]
    if under >= 0:
        spans = [(match.start(), match.end()) for match in re.finditer("-+", head[under])]
        for k, (start, _) in enumerate(cut):
            above = [" ".join(line[a:b].strip() for line in head[:under]).strip() for a, b in spans if a <= start < b]
            headers[k] = f"{above[0]} / {headers[k]}" if above else headers[k]
    rows, heading = [], ""
    for i, line in enumerate(body):
        if i in headings:
            heading = line
            continue
        label, *cells = fields(line)
        rows.append((f"{heading} · {label}" if line.startswith("  ") else label, [_text_cell(cell) for cell in cells]))
    return headers, rows


def _text_cell(text: str) -> Cell:
    match = re.fullmatch(r"(.*?)(\*?)(†?)(?:\[([\w,]+)\])?", text)
    return " ".join(match[1].split()) + (" †" if match[3] else ""), bool(match[2]), match[4] or ""
