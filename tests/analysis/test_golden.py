"""Committed records give the committed tables, byte for byte.

After a wanted change: `python tests/golden/analysis/regenerate.py`, then read the difference.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "analysis"


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
