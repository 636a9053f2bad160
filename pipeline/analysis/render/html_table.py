"""A table as an HTML page of its own without any outside reference, and the templates that the report fills too."""

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


def render_template(name: str, **values: Any) -> str:
    """Fill a template of this package; every text is escaped, an undefined name is an error."""
    return _ENVIRONMENT.get_template(name).render(**values).strip() + "\n"
