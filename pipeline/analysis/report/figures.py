"""Figures as parts of a page: in a sensible order, with words, and without what several of them would repeat."""

from __future__ import annotations

import html
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.analysis.figures.captions import WORDS
from pipeline.analysis.figures.panels import Caption
from pipeline.analysis.render.html_table import TRIALS
from pipeline.analysis.report.listing import Link
from pipeline.errors import ConfigError, did_you_mean

_PICTURES = {"maps": "Class activation maps", "features": "Features of test images"}  # folded, as they are many
_ENLARGED = 1.1  # how much a figure may be enlarged: letters of wide and of narrow figures are then of about one size
_HIGH = 1.2  # of the width
_GLYPH = re.compile(r'<path id="([^"]+)"(?: d="([^"]*)")? transform="scale\(0\.015625\)"/>')
_IMAGE = re.compile(r"<image\b([^>]*)/>")


@dataclass(frozen=True)
class Picture:
    """A figure as markup, and the words below it, in which ids of trials lead to their pages."""

    svg: str
    words: str
    folded: bool
    parts: tuple[str | Link, ...]


class Shared:
    """What the figures of a page have in common and the page holds once: letters, which matplotlib draws as paths, images and styles."""

    def __init__(self) -> None:
        self._shapes: dict[str, str] = {}  # element without its id -> id
        self._styles: dict[str, str] = {}  # declarations -> class
        self.figures = 0

    def shape(self, kind: str, attributes: str) -> str:
        """The id of an element that is drawn by reference."""
        return self._shapes.setdefault(f"{kind} {attributes}", f"g{len(self._shapes)}")

    def style(self, declarations: str) -> str:
        """The class that stands for the declarations of a style attribute."""
        return self._styles.setdefault(declarations, f"s{len(self._styles)}")

    @property
    def shapes(self) -> str:
        """Markup of the elements; '' for none."""
        return "".join(f'<{kind} id="{name}" {rest}/>' for key, name in self._shapes.items() for kind, rest in [key.split(" ", 1)])

    @property
    def styles(self) -> str:
        """The style sheet of the classes."""
        return "\n".join(f".{name}{{{declarations}}}" for declarations, name in self._styles.items())


def pictures_by_table(
    paths: Iterable[Path], tables: Sequence[str], captions: Mapping[Path, Caption], shared: Shared, pages: Container[str] = ()
) -> dict[str, list[Picture]]:
    """The SVG files among `paths`, by table, in the order to show.

    Args:
        pages: ids of the trials that have a page.

    Raises:
        ConfigError: a figure belongs to none of the tables.
    """
    kinds, drawn = list(WORDS), [path for path in paths if path.suffix == ".svg"]
    pictures: dict[str, list[Picture]] = {name: [] for name in tables}

    def place(path: Path) -> tuple[bool, int]:
        kind = _kind(path)
        return _is_picture(kind), kinds.index(kind) if kind in kinds else len(kinds)

    for path in sorted(drawn, key=place):
        table, kind = path.stem.rpartition(".")[0], _kind(path)
        if table not in pictures:
            hint = did_you_mean(table, tables)
            raise ConfigError(
                f"figure {path.name} belongs to no table of the study; figures are called <table>.<kind>.svg, tables: {', '.join(tables)}."
                f"{hint} Remove old files from the figures folder."
            )
        words = WORDS.get(kind) or _PICTURES.get(kind.partition("_")[0]) or kind.replace("_", " ").capitalize()
        caption = captions.get(path, Caption(f"{words}.", f"{words}, table {table}"))
        svg = inline_svg(path.read_text(encoding="utf-8"), caption.alt, shared)
        pictures[table].append(Picture(svg, caption.text, _is_picture(kind), _linked(caption.text, pages)))
    return pictures


def inline_svg(text: str, label: str, shared: Shared) -> str:
    """An SVG document as an element of a page: what it draws is unchanged, ids are unique on the page, `label` is for screen readers.

    Left out: prolog, metadata, comments, the style of all elements (the page has it), ids that nothing refers to, and what `shared`
    keeps for the whole page.
    """
    shared.figures += 1
    element = text[text.index("<svg") :].rstrip()
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style\b.*?</style>", "", element, flags=re.DOTALL).replace("xlink:href", "href")
    if "<text" not in element:  # there, blanks between elements would be drawn
        element = re.sub(r">\s+<", "><", element)
    element = re.sub(r'\bd="[^"]*"', lambda match: re.sub(r"\s*\n\s*", "", match[0]), element)
    names: dict[str, str] = {}

    def take_glyph(match: re.Match[str]) -> str:
        names[match[1]] = shared.shape("path", f'd="{match[2] or ""}" transform="scale(0.015625)"')
        return ""

    element = _GLYPH.sub(take_glyph, element).replace("<defs></defs>", "")
    for name in dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', element)):
        names.setdefault(name, f"f{shared.figures}-{len(names)}")
    element = re.sub(r' id="([^"]*)"', lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", element)
    element = re.sub(r'(href="|url\()#([^")]+)', lambda match: f"{match[1]}#{names[match[2]]}", element)
    element = re.sub(r' style="([^"]*)"', lambda match: f' class="{shared.style(match[1])}"', element)
    element = _IMAGE.sub(lambda match: _image(match, shared), element)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"{_widest(element)}', 1)


def _widest(element: str) -> str:
    """A limit for the width of a small figure, whose letters would be large across the whole page; on paper a high one has a page."""
    width, height = (re.search(rf'\b{name}="([\d.]+)pt"', element) for name in ("width", "height"))
    if width is None:
        return ""
    high = height is not None and float(height[1]) > _HIGH * float(width[1])
    return f' style="max-width: {_ENLARGED * float(width[1]):.0f}pt{"; --high: 22cm" * high}"'


def _image(match: re.Match[str], shared: Shared) -> str:
    """An embedded image as a reference to the only copy of it."""
    if "clip-path" in match[1]:
        return match[0]
    placed = re.search(r'transform="[^"]*"', match[1])
    rest = re.sub(r'\s+(?:transform|id)="[^"]*"', "", f" {match[1].strip()}").strip()
    return f'<use {placed[0] if placed else ""} href="#{shared.shape("image", rest)}"/>'


def _linked(text: str, pages: Container[str]) -> tuple[str | Link, ...]:
    """A text in parts, each id of a trial as a link to its page."""
    return tuple(Link(part, f"{TRIALS}/{part}.html") if part in pages else part for part in re.split(r"([\w-]+)", text) if part)


def _kind(path: Path) -> str:
    return path.stem.rpartition(".")[2]


def _is_picture(kind: str) -> bool:
    return kind.partition("_")[0] in _PICTURES
