"""All formats of all tables, as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.analysis.render.csv_table import render_csv
from pipeline.analysis.render.html_table import render_html
from pipeline.analysis.render.json_table import render_json
from pipeline.analysis.render.latex_table import render_latex
from pipeline.analysis.render.markdown_table import render_markdown
from pipeline.analysis.tables import TableResult
from pipeline.analysis.wording import file_stem

FORMATS: dict[str, Callable[[TableResult], str]] = {
    "md": render_markdown,
    "tex": render_latex,
    "html": render_html,
    "csv": render_csv,
    "json": render_json,
}


def write_tables(results: Iterable[TableResult], folder: Path) -> list[Path]:
    """Write `folder/<table>.{md,tex,html,csv,json}` (UTF-8, same bytes for the same records) and return the paths.

    Raises:
        ConfigError: the name of a table cannot be a file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for result in results:
        for suffix, render in FORMATS.items():
            path = folder / f"{file_stem(result.name)}.{suffix}"
            path.write_text(render(result), encoding="utf-8", newline="\n")
            paths.append(path)
    return paths
