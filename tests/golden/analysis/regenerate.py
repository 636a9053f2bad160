"""Write the golden tables anew: `python tests/golden/analysis/regenerate.py`. Read the difference before committing it.

Inputs, written by hand: tables.json (two small tables) and trials.json (their records, one object a trial).
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from pipeline.analysis.render.text_table import render_text
from pipeline.analysis.render.write import write_tables
from pipeline.analysis.tables import TableResult, build_tables, load_tables

HERE = Path(__file__).parent


def golden_results(folder: Path = HERE) -> list[TableResult]:
    """The tables of the committed plan and records."""
    trials = pa.Table.from_pylist(json.loads((folder / "trials.json").read_text(encoding="utf-8")))
    return build_tables(load_tables(folder / "tables.json"), trials)


def write_golden(results: list[TableResult], folder: Path) -> list[Path]:
    """All formats of all tables, the terminal's among them."""
    paths = write_tables(results, folder)
    for result in results:
        paths.append(folder / f"{result.name}.txt")
        paths[-1].write_text(render_text(result), encoding="utf-8", newline="\n")
    return paths


if __name__ == "__main__":
    write_golden(golden_results(), HERE / "expected")
