"""A table as HTML: a fragment for the report, or a page of its own without any outside reference."""

from __future__ import annotations

from typing import Any

import jinja2

from pipeline.analysis.layout import lay_out
from pipeline.analysis.tables import TableResult

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline.analysis"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_html(result: TableResult) -> str:
    """A self-contained page with one table."""
    return render_template("table_page.html.j2", grid=lay_out(result), study=result.study)


def render_html_fragment(result: TableResult) -> str:
    """The table alone, to stand inside a page that brings the style."""
    return render_template("table.html.j2", grid=lay_out(result))


def render_template(name: str, **values: Any) -> str:
    """Fill a template of this package; every text is escaped, an undefined name is an error."""
    return _ENVIRONMENT.get_template(name).render(**values).strip() + "\n"
