"""Committed records give the committed tables, byte for byte.

After a wanted change: `python tests/golden/analysis/regenerate.py`, then read the difference.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.analysis.collect import Results, collect
from pipeline.analysis.curves import accuracy_curves
from pipeline.analysis.render.write import FORMATS, write_tables
from pipeline.analysis.tables import build_tables, load_tables
from pipeline.store.trial_store import TrialStore

GOLDEN = Path(__file__).parents[1] / "golden" / "analysis"
# Plan, records and published JSON as earlier versions wrote them. `first`: segments without digests, records without `code` and the
# measures taken at the end of a trial; `without_statistics`: the last plan that says nothing of statistics, style and parts of labels.
OLD = ("first", "without_statistics")


@pytest.fixture(scope="module")
def regenerate():
    """The script that writes the golden files, loaded by path."""
    spec = importlib.util.spec_from_file_location("golden_analysis", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_records_give_the_committed_tables(regenerate, tmp_path):
    """Markdown, LaTeX, HTML, CSV, JSON and terminal text of both golden tables are unchanged to the byte."""
    written = {path.name: path.read_bytes() for path in regenerate.write_golden(regenerate.golden_results(), tmp_path)}
    expected = {path.name: path.read_bytes() for path in (GOLDEN / "expected").iterdir()}
    assert sorted(written) == sorted(expected)
    assert [name for name in written if written[name] != expected[name]] == []


def test_golden_numbers_are_those_computed_by_hand(regenerate):
    """One golden cell of each kind against numbers worked out on paper, so that a wrong golden file cannot stay."""
    backbones, loss_weight = regenerate.golden_results()
    # ce: 93.1, 93.6, 94.0 -> mean 93.5667, squared deviations .2178 + .0011 + .1878 = .4067, SD sqrt(.4067 / 2) = .4509
    assert backbones.cell("resnet8", "ce").mean == pytest.approx(0.935667, abs=5e-7)
    assert backbones.cell("resnet8", "ce").sd == pytest.approx(0.004509, abs=5e-7)
    # cam - ce: 1.30, 0.95, 0.41 -> mean 0.8867, squared deviations .1708 + .0040 + .2272 = .4021, SD sqrt(.4021 / 2) = .4484
    assert backbones.cell("resnet8", "cam").delta.mean == pytest.approx(0.008867, abs=5e-7)
    assert backbones.cell("resnet8", "cam").delta.sd == pytest.approx(0.004484, abs=5e-7)
    # energies 47.0 and 47.5 -> mean 47.25, SD 0.5 / sqrt(2) = 0.3536
    assert loss_weight.cell("3", "caam_energy").mean == pytest.approx(0.4725)
    assert loss_weight.cell("3", "caam_energy").sd == pytest.approx(0.003536, abs=5e-7)
    assert loss_weight.cell("3", "caam_energy").best
    assert not loss_weight.cell("3", "acc_top1").best


def _old(version: str) -> Results:
    folder = GOLDEN / "old" / version
    return collect(folder / "trials.parquet", TrialStore(folder / "records"), {})


@pytest.mark.parametrize("version", OLD)
def test_plans_and_records_of_earlier_versions_give_the_numbers_that_were_published(version, tmp_path):
    """n, values, mean, SD and paired difference of each cell are those of the JSON that the earlier version wrote."""
    folder, results = GOLDEN / "old" / version, _old(version)
    document = load_tables(folder / "tables.json")
    assert not {"statistics", "style", "row_parts", "column_parts", "reference"} & set(document["tables"][0])  # or it tests nothing
    tables = build_tables(document, results.trials)
    compared = 0
    for table in tables:
        for cell in json.loads((folder / "published" / f"{table.name}.json").read_text(encoding="utf-8"))["cells"]:
            now = table.cell(cell["row"], cell["column"], cell["metric"])
            assert (now.n, list(now.trial_ids)) == (cell["n"], cell["trial_ids"])
            assert now.mean == pytest.approx(cell["mean"], rel=1e-12)
            assert now.sd == pytest.approx(cell["sd"], rel=1e-12)
            assert (now.delta is None) == (cell["delta_mean"] is None)
            if now.delta is not None:
                assert now.delta.mean == pytest.approx(cell["delta_mean"], rel=1e-12)
            compared += 1
    assert compared == 6
    assert tables[0].test == "sign_flip"
    assert len(write_tables(tables, tmp_path)) == 2 * len(FORMATS)
    curves, _ = accuracy_curves(document["tables"][0], results.history, results.trials)
    assert [(curve.label, curve.epochs, curve.n) for curve in curves] == [("resnet8/ce", (1, 2, 3, 4), 3), ("resnet8/cam", (1, 2, 3, 4), 3)]


@pytest.mark.parametrize("schema_version", [0, None, 99])
def test_the_schema_version_of_a_record_changes_no_number(schema_version):
    """Records of a lower version, of none and of a later one are read alike: by the columns that they have."""
    document, trials = load_tables(GOLDEN / "old/first/tables.json"), _old("first").trials
    at = trials.schema.get_field_index("schema_version")
    other = trials.set_column(at, "schema_version", pa.array([schema_version] * len(trials), pa.int64()))
    assert build_tables(document, other) == build_tables(document, trials)
    assert build_tables(document, other.drop_columns(["schema_version", "attempt", "failure"])) == build_tables(document, trials)
